"""Likelihoods: the distribution of a row given its code.

A likelihood turns the decoder's output into the distribution of every column. The rows
reach it in units of the matrix (standardised columns), and its means go back in those
units; a likelihood that models the user's own units, such as Bernoulli, converts.
"""

import math
from numbers import Real

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skrepr._sklearn import Interval, StrOptions
from skrepr.parts import Part

# A noise scale below a thousandth of a column's standard deviation is not told from
# rounding; without a floor a perfect reconstruction has an infinite density.
_MIN_LOG_SCALE = math.log(1e-3)
# Adam moves a parameter by about the learning rate a step: right for weights, slow for
# a log-scale. With this factor a thousand steps suffice.
_SCALE_GAIN = 10.0


class Likelihood(Part):
    """Base class of the likelihoods.

    A likelihood of your own implements `build`.
    """

    def build(self, columns, *, noise=True):
        """Build the torch module of the likelihood.

        Parameters
        ----------
        columns : Columns
            The layout of the matrix.
        noise : bool
            False leaves out a noise scale of its own, for models that are trained on
            ``cost`` alone.

        Returns
        -------
        torch.nn.Module
            With ``n_outputs``, the number of values it expects of the decoder, and,
            for rows ``x`` of the matrix, shape (n, n_columns), and the decoder's
            output, shape (..., n, n_outputs):

            - ``log_prob(x, output)``: log-density of every cell,
            - ``cost(x, output)``: what an autoencoder minimises, for every cell,
            - ``mean(output)``: expected rows of the matrix,
            - ``sample(output, generator)``: random rows of the matrix.

            - ``check(X)``: raise a ValueError if rows X, an ndarray in the user's
              units, cannot have come from this likelihood,
            - ``restore(X)``: bring decoded rows X, an ndarray in the user's units, back
              to the values this likelihood allows,
            - ``log_jacobian``: what to add to a sum of ``log_prob`` over the columns to
              have the log-density in the user's units.

            Columns that do not vary have the log-density and the cost 0.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


class Gaussian(Likelihood):
    """Normal distribution around the decoder's output.

    Parameters
    ----------
    scale : "learned" or float, default="learned"
        Standard deviation of the noise, shared by all columns: in units of the
        standardised columns, or in the user's with ``standardize=False``. "learned"
        makes it a parameter of the model. An autoencoder minimises the squared error
        whatever the scale.

    References
    ----------
    Rybkin, Daniilidis and Levine, "Simple and Effective VAE Training with Calibrated
    Decoders", ICML 2021.

    Examples
    --------
    >>> from skrepr import VAETransformer
    >>> from skrepr.likelihoods import Gaussian
    >>> VAETransformer(likelihood=Gaussian(scale=0.5))
    VAETransformer(likelihood=Gaussian(scale=0.5))
    """

    _parameter_constraints: dict = {
        "scale": [StrOptions({"learned"}), Interval(Real, 0, None, closed="neither")]
    }

    def __init__(self, scale="learned"):
        self.scale = scale

    def build(self, columns, *, noise=True):
        """Build the torch module of the likelihood."""
        return _Gaussian(columns, self.scale, noise)


class Bernoulli(Likelihood):
    """Bernoulli distribution of values in [0, 1], in the user's own units.

    Values between 0 and 1 count as probabilities, so that the loss is the binary
    cross-entropy.

    References
    ----------
    Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, appendix C.1.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skrepr import VAETransformer
    >>> X = load_digits().data / 16
    >>> vae = VAETransformer(likelihood="bernoulli", max_iter=2, random_state=0)
    >>> vae.fit(X).inverse_transform(vae.transform(X)).shape
    (1797, 64)
    """

    def build(self, columns, *, noise=True):
        """Build the torch module of the likelihood."""
        return _Bernoulli(columns)


class _LikelihoodModule(nn.Module):
    """What the modules share: columns that do not vary weigh nothing."""

    weight: torch.Tensor | None
    log_jacobian = 0.0

    def __init__(self, columns):
        super().__init__()
        self.n_outputs = len(columns)
        self.n_varying = int(columns.varies.sum())
        everything = bool(columns.varies.all())
        weight = None if everything else torch.as_tensor(columns.varies).float()
        self.register_buffer("weight", weight)

    def check(self, X):
        pass

    def restore(self, X):
        return X

    def _weigh(self, cells):
        return cells if self.weight is None else cells * self.weight


class _Gaussian(_LikelihoodModule):
    raw_log_scale: torch.Tensor

    def __init__(self, columns, scale, noise):
        super().__init__(columns)
        self.learned = scale == "learned"
        # A learned scale starts at one standard deviation of the columns.
        std = columns.std[columns.varies]
        self.log_unit = float(np.log(std).mean()) if len(std) else 0.0
        if noise and self.learned:
            self.raw_log_scale = nn.Parameter(torch.zeros(()))
        elif noise:
            self.register_buffer("raw_log_scale", torch.tensor(math.log(scale)))
        self.log_jacobian = -float(np.log(columns.scale[columns.varies]).sum())

    @property
    def log_scale(self):
        if not self.learned:
            return self.raw_log_scale
        relative = (_SCALE_GAIN * self.raw_log_scale).clamp(min=_MIN_LOG_SCALE)
        return relative + self.log_unit

    def log_prob(self, x, output):
        log_scale = self.log_scale
        z = (x - output) * torch.exp(-log_scale)
        return self._weigh(-0.5 * z.square() - log_scale - 0.5 * math.log(2 * math.pi))

    def cost(self, x, output):
        return self._weigh((x - output).square())

    # For training without autograd.

    def cost_and_slope(self, x, output, factor):
        """Return the sum of `cost` times a factor, and its derivative by the output."""
        residual = self._weigh(output - x)
        return residual.square().sum() * factor, residual.mul_(2 * factor)

    def log_prob_and_slope(self, x, output, factor):
        """Return the same of `log_prob`; the learned scale gets its gradient."""
        log_scale = self.log_scale.item()
        z = self._weigh(output - x).mul_(math.exp(-log_scale))
        squares = z.square().sum()
        n_cells = x.shape[0] * self.n_varying
        constant = n_cells * (log_scale + 0.5 * math.log(2 * math.pi))
        if self.learned:
            # Below its bound the scale does not move.
            is_free = _SCALE_GAIN * self.raw_log_scale.item() >= _MIN_LOG_SCALE
            gain = _SCALE_GAIN * is_free * factor
            self.raw_log_scale.grad = gain * (squares - n_cells)
        log_prob = factor * (-0.5 * squares - constant)
        return log_prob, z.mul_(-math.exp(-log_scale) * factor)

    def mean(self, output):
        return output

    def sample(self, output, generator):
        noise = torch.empty_like(output).normal_(generator=generator)
        return output + noise * self.log_scale.exp()


class _Bernoulli(_LikelihoodModule):
    center: torch.Tensor
    scale: torch.Tensor

    def __init__(self, columns):
        super().__init__(columns)
        self.names = columns.names
        self.register_buffer("center", torch.as_tensor(columns.center).float())
        self.register_buffer("scale", torch.as_tensor(columns.scale).float())

    def check(self, X):
        low, high = X.min(axis=0), X.max(axis=0)
        outside = (low < 0) | (high > 1)
        if outside.any():
            j = int(np.flatnonzero(outside)[0])
            raise ValueError(
                "The Bernoulli likelihood needs values in [0, 1], but column "
                f"{self.names[j]!r} has values from {low[j]:.6g} to {high[j]:.6g}. "
                "Put MinMaxScaler(clip=True) before the estimator, or use "
                "likelihood='gaussian'."
            )

    def restore(self, X):
        # The way through float32 leaves 0 and 1 inexact.
        nearest = np.rint(X)
        return np.where(np.abs(X - nearest) < 1e-6, nearest + 0.0, X).clip(0, 1)

    def log_prob(self, x, output):
        return -self.cost(x, output)

    def cost(self, x, output):
        # Rounding must not carry a value out of [0, 1].
        raw = torch.addcmul(self.center, x, self.scale).clamp(0, 1).expand_as(output)
        return self._weigh(
            F.binary_cross_entropy_with_logits(output, raw, reduction="none")
        )

    def mean(self, output):
        return (torch.sigmoid(output) - self.center) / self.scale

    def sample(self, output, generator):
        raw = torch.bernoulli(torch.sigmoid(output), generator=generator)
        return (raw - self.center) / self.scale


Likelihood.names = {"gaussian": Gaussian, "bernoulli": Bernoulli}

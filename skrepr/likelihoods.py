"""Likelihoods: the distribution of a row given its code.

A likelihood turns the decoder's output into the distribution of every column. The rows
reach it in units of the matrix (standardised columns), and its means go back in those
units; a likelihood that models the user's own units, such as Bernoulli, converts.

The likelihoods that can be chosen are of numbers. Categorical columns have the
probabilities of their levels, whatever is chosen.
"""

import math
from numbers import Real

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skrepr._inputs import Softmax
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
            - ``log_jacobian``: what to add to ``log_prob`` to have the log-density in
              the user's units, an ndarray of shape (n_columns,).

            Columns that do not vary have the log-density and the cost 0. The columns
            given to a likelihood are all numeric, and no cell of ``x`` is missing; some
            of X may be (NaN).
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")

    def groups(self, columns):
        """List the likelihoods of the numeric columns.

        Parameters
        ----------
        columns : Columns

        Returns
        -------
        list of tuple (Likelihood, ndarray of int)
            Each with the positions of its columns; by default itself, with all.
        """
        numeric = np.flatnonzero(columns.n_levels == 0)
        return [(self, numeric)] if len(numeric) else []


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

    def __init__(self, columns):
        super().__init__()
        self.log_jacobian = np.zeros(len(columns))
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
        self.log_jacobian = _log_jacobian(columns)

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
        low, high = np.fmin.reduce(X), np.fmax.reduce(X)  # of what is not missing
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


def _log_jacobian(columns):
    """Compute the logarithm of matrix units over the user's, 0 where nothing varies."""
    return np.where(columns.varies, -np.log(columns.scale), 0.0)


class Joint(nn.Module):
    """The modules of several likelihoods side by side, of numbers and of categories.

    Cells that are missing (NaN) have the log-density, the cost and the slope 0.

    Parameters
    ----------
    columns : Columns
    modules : list of tuple (module, ndarray of int)
        Modules of likelihoods, and the positions of their columns: the numeric ones.
    """

    fill: torch.Tensor

    def __init__(self, columns, modules):
        super().__init__()
        self.n_columns = len(columns)
        self.register_buffer("fill", torch.as_tensor(columns.mean).float())
        self.log_jacobian = np.zeros(len(columns))
        self.where = [which.tolist() for _, which in modules]
        for i, (module, which) in enumerate(modules):
            self.add_module(f"part_{i}", module)
            self.log_jacobian[which] = module.log_jacobian
        self.categorical = np.flatnonzero(columns.n_levels).tolist()
        self.softmax = Softmax(columns[self.categorical])
        self.sizes = [module.n_outputs for module, _ in modules]
        self.sizes.append(self.softmax.n_outputs)
        # A decoder has to have an output, though nothing may vary.
        self.n_outputs = max(1, sum(self.sizes))

    def check(self, X):
        for module, which in self._modules_of_numbers():
            module.check(X[:, which])

    def restore(self, X):
        X = X.copy()
        for module, which in self._modules_of_numbers():
            X[:, which] = module.restore(X[:, which])
        return X

    def log_prob(self, x, output):
        return self._observed("log_prob", x, output)

    def cost(self, x, output):
        return self._observed("cost", x, output)

    def residual(self, x, output):
        """Return how far every cell is from what is expected, NaN where it is missing.

        Of numbers it is the difference; of categories see `Softmax.residual`.
        """
        observed = ~x.isnan()
        x = torch.where(observed, x, self.fill)
        residuals = self._each(
            output,
            lambda module, which, part: x[:, which] - module.mean(part),
            lambda softmax, which, part: softmax.residual(x[:, which], part),
        )
        return torch.where(observed, residuals, torch.nan)

    def mean(self, output):
        return self._each(
            output,
            lambda module, which, part: module.mean(part),
            lambda softmax, which, part: softmax.mode(part),
        )

    def average(self, output, weights):
        """Return the mean rows, or most probable categories, of weighted draws.

        Parameters
        ----------
        output : torch.Tensor of shape (n_draws, n, n_outputs)
        weights : torch.Tensor of shape (n_draws, n)

        Returns
        -------
        torch.Tensor of shape (n, n_columns)
        """
        return self._each(
            output,
            lambda module, which, part: _weighted_mean(module, part, weights),
            lambda softmax, which, part: softmax.mode(part, weights),
            shape=weights.shape[1:],
        )

    def sample(self, output, generator):
        return self._each(
            output,
            lambda module, which, part: module.sample(part, generator),
            lambda softmax, which, part: softmax.sample(part, generator),
        )

    def _modules_of_numbers(self):
        for i, which in enumerate(self.where):
            yield getattr(self, f"part_{i}"), which

    def _observed(self, method, x, output):
        # The fill comes first: the slope of a NaN is NaN even where it is not chosen.
        observed = ~x.isnan()
        x = torch.where(observed, x, self.fill)

        def cells(module, which, part):
            return getattr(module, method)(x[:, which], part)

        return torch.where(observed, self._each(output, cells, cells), 0.0)

    def _each(self, output, of_numbers, of_categories, shape=None):
        """Call functions of every module, its columns and its part of the output."""
        if shape is None:
            shape = output.shape[:-1]
        cells = output.new_zeros(*shape, self.n_columns)
        *parts, last = output[..., : sum(self.sizes)].split(self.sizes, dim=-1)
        for (module, which), part in zip(
            self._modules_of_numbers(), parts, strict=True
        ):
            cells[..., which] = of_numbers(module, which, part)
        if self.categorical:
            cells[..., self.categorical] = of_categories(
                self.softmax, self.categorical, last
            )
        return cells


def _weighted_mean(module, output, weights):
    return (weights[..., None] * module.mean(output)).sum(0)


def build_likelihood(part, columns, *, noise=True):
    """Build the module of a likelihood, or of several, for all columns of a table.

    Parameters
    ----------
    part : Likelihood
    columns : Columns
    noise : bool
        As of `Likelihood.build`.

    Returns
    -------
    torch.nn.Module
        The part's own for a table of numbers without holes, else a `Joint`.
    """
    groups = part.groups(columns)
    if columns.is_plain and len(groups) == 1:
        return groups[0][0].build(columns, noise=noise)
    return Joint(
        columns,
        [(each.build(columns[which], noise=noise), which) for each, which in groups],
    )


def residual(module, x, output):
    """Return how far every cell is from what the module of a likelihood expects.

    Parameters
    ----------
    module : torch.nn.Module
        As `build_likelihood` returns it.
    x : torch.Tensor of shape (n, n_columns)
    output : torch.Tensor of shape (n, n_outputs)

    Returns
    -------
    torch.Tensor of shape (n, n_columns)
        NaN where x is missing.
    """
    if isinstance(module, Joint):
        return module.residual(x, output)
    return x - module.mean(output)


def average(module, output, weights):
    """Return the mean rows of weighted draws, see `Joint.average`.

    Parameters
    ----------
    module : torch.nn.Module
        As `build_likelihood` returns it.
    output : torch.Tensor of shape (n_draws, n, n_outputs)
    weights : torch.Tensor of shape (n_draws, n)

    Returns
    -------
    torch.Tensor of shape (n, n_columns)
    """
    if isinstance(module, Joint):
        return module.average(output, weights)
    return _weighted_mean(module, output, weights)


Likelihood.names = {"gaussian": Gaussian, "bernoulli": Bernoulli}

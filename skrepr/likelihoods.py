"""Likelihoods: the distribution of a row given its code.

A likelihood turns the decoder's output into the distribution of every column. The rows
reach it in units of the matrix (standardised columns), and its means go back in those
units; a likelihood that models the user's own units, such as Bernoulli, converts.

The likelihoods that can be chosen are of numbers. Categorical columns have the
probabilities of their levels, whatever is chosen.
"""

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skrepr._inputs import Softmax
from skrepr._sklearn import Interval, InvalidParameterError, StrOptions
from skrepr._table import shortened
from skrepr.parts import Part

# A noise scale below a thousandth of a column's standard deviation is not told from
# rounding; without a floor a perfect reconstruction has an infinite density.
_MIN_LOG_SCALE = math.log(1e-3)
_MIN_LOG_SCALE_OF_ONE = math.log(1e-2)  # of a scale of a single column
_DF_RANGE, _FIRST_DF = (1.0, 100.0), 5.0
_LEAST_MEAN, _MOST_LOG_MEAN = 1e-3, 30.0  # of counts
_LOG_R_RANGE = (math.log(1e-3), math.log(1e3))  # lgamma is exact enough in float32
# Adam moves a parameter by about the learning rate a step: right for weights, slow for
# a log-scale. With this factor a thousand steps suffice.
_SCALE_GAIN = 10.0


class Likelihood(Part):
    """Base class of the likelihoods.

    A likelihood of your own implements `build`.

    Attributes
    ----------
    in_user_units : bool
        Whether it models a column in the user's units, and knows what values there are
        (flags, counts). Such columns are standardised even with
        ``standardize="quantile"``, and generated values are left as they are drawn.
    """

    in_user_units = False

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
            - ``sample(output, generator)``: random rows of the matrix; without a noise
              scale the expected ones.

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


class Gaussian(Likelihood, name="gaussian"):
    """Normal distribution around the decoder's output.

    Parameters
    ----------
    scale : "learned", "per_feature" or float, default="learned"
        Standard deviation of the noise: in units of the standardised columns, or in
        the user's with ``standardize=False``. "learned" makes it a parameter of the
        model that all columns share, "per_feature" one for every column, of at least a
        hundredth of the column's standard deviation: without such a bound a column
        that can be reconstructed outweighs all others. An autoencoder minimises the
        squared error whatever the scale.

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
        "scale": [
            StrOptions({"learned", "per_feature"}),
            Interval(Real, 0, None, closed="neither"),
        ]
    }

    def __init__(self, scale="learned"):
        self.scale = scale

    def build(self, columns, *, noise=True):
        """Build the torch module of the likelihood."""
        if self.scale == "per_feature" and noise:
            return _PerFeatureGaussian(columns)
        return _Gaussian(columns, self.scale, noise)


class StudentT(Likelihood, name="student_t"):
    """Student's t-distribution around the decoder's output: for heavy tails.

    Single values far from the others, such as errors of measurement, sway the model
    less than under a normal distribution. An autoencoder minimises minus the
    log-density, with a learned scale, too.

    Parameters
    ----------
    df : "learned" or float, default="learned"
        Degrees of freedom, shared by all columns: the fewer, the heavier the tails. 1
        is a Cauchy distribution, which has no mean: `inverse_transform` gives its
        median. "learned" starts at 5 and ends between 1 and 100.
    scale : "learned" or float, default="learned"
        As of `Gaussian`. The standard deviation is larger.

    References
    ----------
    Takahashi, Iwata, Yamanaka, Yamada and Yagi, "Student-t Variational Autoencoder for
    Robust Density Estimation", IJCAI 2018.

    Examples
    --------
    >>> from skrepr import VAETransformer
    >>> from skrepr.likelihoods import StudentT
    >>> VAETransformer(likelihood=StudentT(df=3))
    VAETransformer(likelihood=StudentT(df=3))
    """

    _parameter_constraints: dict = {
        name: [StrOptions({"learned"}), Interval(Real, 0, None, closed="neither")]
        for name in ("df", "scale")
    }

    def __init__(self, df="learned", scale="learned"):
        self.df = df
        self.scale = scale

    def build(self, columns, *, noise=True):
        """Build the torch module of the likelihood."""
        return _StudentT(columns, self.df, self.scale)


class MixtureOfGaussians(Likelihood, name="mixture"):
    """Mixture of normal distributions: for skewed columns and those of several modes.

    The decoder gives weights, means and standard deviations of the components for
    every column, the latter at least a hundredth of the column's own. An autoencoder
    minimises minus the log-density.

    Parameters
    ----------
    n_components : int, default=5
        Normal distributions a column.

    References
    ----------
    Bishop, "Mixture Density Networks", Aston University, 1994.

    Examples
    --------
    >>> from skrepr import VAETransformer
    >>> from skrepr.likelihoods import MixtureOfGaussians
    >>> VAETransformer(likelihood=MixtureOfGaussians(n_components=3))
    VAETransformer(likelihood=MixtureOfGaussians(n_components=3))
    """

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left")]
    }

    def __init__(self, n_components=5):
        self.n_components = n_components

    def build(self, columns, *, noise=True):
        """Build the torch module of the likelihood."""
        return _Mixture(columns, self.n_components)


class Poisson(Likelihood, name="poisson"):
    """Poisson distribution of counts 0, 1, 2, ..., in the user's own units.

    The decoder gives the logarithm of the mean, relative to that of the column. An
    autoencoder minimises minus the log-probability.

    Examples
    --------
    >>> from skrepr import VAETransformer
    >>> from skrepr.likelihoods import Poisson
    >>> VAETransformer(likelihood=Poisson())
    VAETransformer(likelihood=Poisson())
    """

    in_user_units = True

    def build(self, columns, *, noise=True):
        """Build the torch module of the likelihood."""
        return _Poisson(columns)


class NegativeBinomial(Likelihood, name="negative_binomial"):
    """Negative binomial distribution of counts that spread more than Poisson's.

    At the mean m the variance is m + m² / r. The decoder gives the logarithm of m,
    relative to the mean of the column; r, between 0.001 and 1000, is a parameter of
    the model for every column. Counts are in the user's own units. An autoencoder
    minimises minus the log-probability.

    References
    ----------
    Lopez, Regier, Cole, Jordan and Yosef, "Deep Generative Modeling for Single-Cell
    Transcriptomics", Nature Methods 15 (2018).

    Examples
    --------
    >>> from skrepr import VAETransformer
    >>> from skrepr.likelihoods import NegativeBinomial
    >>> VAETransformer(likelihood=NegativeBinomial())
    VAETransformer(likelihood=NegativeBinomial())
    """

    in_user_units = True

    def build(self, columns, *, noise=True):
        """Build the torch module of the likelihood."""
        return _NegativeBinomial(columns)


class Bernoulli(Likelihood, name="bernoulli"):
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

    in_user_units = True

    def build(self, columns, *, noise=True):
        """Build the torch module of the likelihood."""
        return _Bernoulli(columns)


class PerColumn(Likelihood, wraps="a dict of them by column"):
    """Likelihoods of single columns, "gaussian" for the other numeric ones.

    A dict in the place of a likelihood is short for it.

    Parameters
    ----------
    likelihoods : dict
        From names of columns, or positions where they have no names, to likelihoods or
        names of them. Columns that are given the same one share its parameters, such
        as a scale that is learned.

    Examples
    --------
    >>> import numpy as np
    >>> from skrepr import VAETransformer
    >>> rng = np.random.default_rng(0)
    >>> X = np.column_stack([rng.poisson(3.0, 100), rng.normal(size=100)])
    >>> vae = VAETransformer(likelihood={0: "poisson"}, max_iter=2, random_state=0)
    >>> (vae.fit(X).sample(5)[:, 0] % 1).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """

    _parameter_constraints: dict = {"likelihoods": [dict]}

    def __init__(self, likelihoods):
        self.likelihoods = likelihoods

    @classmethod
    def _can_wrap(cls, value):
        return isinstance(value, dict)

    def _validate_params(self):
        super()._validate_params()
        for column, value in self.likelihoods.items():
            try:
                part = Likelihood.from_value(value)
            except ValueError as error:
                raise InvalidParameterError(
                    f"The likelihood of column {column!r} {error}"
                ) from None
            if isinstance(part, PerColumn):
                raise InvalidParameterError(
                    f"The likelihood of column {column!r} must be a single one. Got "
                    f"{value!r} instead. Name the columns in one dict."
                )
            part._validate_params()

    def groups(self, columns):
        """List the likelihoods of the numeric columns."""
        for column in self.likelihoods:
            if column not in columns.names:
                raise ValueError(
                    f"The 'likelihood' parameter names the column {column!r}, which X "
                    f"does not have. Expected some of {shortened(columns.names)}."
                )
            if columns.n_levels[columns.names.index(column)]:
                raise ValueError(
                    f"The 'likelihood' parameter names the column {column!r}, which is "
                    "categorical: its distribution is always that of its categories. "
                    "Leave it out, or see categorical_features."
                )
        found: dict[Any, list[int]] = {}
        for j in np.flatnonzero(columns.n_levels == 0).tolist():
            value = self.likelihoods.get(columns.names[j], "gaussian")
            found.setdefault(value, []).append(j)
        return [
            (Likelihood.from_value(value), np.array(positions))
            for value, positions in found.items()
        ]


class _LikelihoodModule(nn.Module):
    """What the modules share: columns that do not vary weigh nothing.

    The cost is minus the log-probability where there is nothing more natural.
    """

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

    def log_prob(self, x, output):
        raise NotImplementedError

    def cost(self, x, output):
        return -self.log_prob(x, output)

    def _weigh(self, cells):
        return cells if self.weight is None else cells * self.weight


class _Gaussian(_LikelihoodModule):
    raw_log_scale: torch.Tensor

    def __init__(self, columns, scale, noise):
        super().__init__(columns)
        self.learned = scale == "learned"
        self.noise = noise
        self.log_unit = _log_unit(columns)
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
        if not self.noise:
            return output
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


class _PerFeatureGaussian(_LikelihoodModule):
    log_std: torch.Tensor

    def __init__(self, columns):
        super().__init__(columns)
        self.register_buffer("log_std", _log_std(columns))
        self.raw_log_scale = nn.Parameter(torch.zeros(len(columns)))
        self.log_jacobian = _log_jacobian(columns)

    @property
    def log_scale(self):
        relative = _SCALE_GAIN * self.raw_log_scale
        return relative.clamp(min=_MIN_LOG_SCALE_OF_ONE) + self.log_std

    def log_prob(self, x, output):
        return self._weigh(_normal_log_prob(x, output, self.log_scale))

    def cost(self, x, output):
        return self._weigh((x - output).square())

    def mean(self, output):
        return output

    def sample(self, output, generator):
        noise = torch.empty_like(output).normal_(generator=generator)
        return output + noise * self.log_scale.exp()


class _StudentT(_LikelihoodModule):
    raw_log_scale: torch.Tensor
    raw_df: torch.Tensor

    def __init__(self, columns, df, scale):
        super().__init__(columns)
        self.scale_is_learned = scale == "learned"
        self.df_is_learned = df == "learned"
        self.log_unit = _log_unit(columns)
        for name, value in ("raw_log_scale", scale), ("raw_df", df):
            if value == "learned":
                self.register_parameter(name, nn.Parameter(torch.zeros(())))
            else:
                self.register_buffer(name, torch.tensor(math.log(value)))
        self.log_jacobian = _log_jacobian(columns)

    @property
    def log_scale(self):
        if not self.scale_is_learned:
            return self.raw_log_scale
        relative = (_SCALE_GAIN * self.raw_log_scale).clamp(min=_MIN_LOG_SCALE)
        return relative + self.log_unit

    @property
    def df(self):
        if not self.df_is_learned:
            return self.raw_df.exp()
        low, high = _DF_RANGE
        start = math.log((_FIRST_DF - low) / (high - _FIRST_DF))
        return low + (high - low) * torch.sigmoid(start + _SCALE_GAIN * self.raw_df)

    def log_prob(self, x, output):
        df, log_scale = self.df, self.log_scale
        z = (x - output) * torch.exp(-log_scale)
        constant = (
            torch.lgamma((df + 1) / 2)
            - torch.lgamma(df / 2)
            - 0.5 * torch.log(math.pi * df)
            - log_scale
        )
        return self._weigh(constant - (df + 1) / 2 * torch.log1p(z.square() / df))

    def mean(self, output):
        return output

    def sample(self, output, generator):
        df = self.df
        noise = torch.empty_like(output).normal_(generator=generator)
        half = (df / 2).expand_as(output).contiguous()
        chi2 = 2 * torch._standard_gamma(half, generator=generator)
        return output + self.log_scale.exp() * noise * (df / chi2).sqrt()


class _Mixture(_LikelihoodModule):
    std: torch.Tensor
    start: torch.Tensor

    def __init__(self, columns, n_components):
        super().__init__(columns)
        d = len(columns)
        self.n_components = n_components
        self.n_outputs = 3 * n_components * d
        std = np.where(columns.varies, columns.std, 1.0)
        self.register_buffer("std", torch.as_tensor(std).float())
        # Components that start side by side find their own parts of the column.
        spread = np.linspace(-1.5, 1.5, n_components) if n_components > 1 else [0.0]
        start = columns.mean + np.outer(spread, std)
        self.register_buffer("start", torch.as_tensor(start).float())
        self.log_jacobian = _log_jacobian(columns)

    def _components(self, output):
        """Return log-weights, means and log-scales, each (..., n_components, d)."""
        shape = 3, *self.start.shape
        weights, means, scales = output.unflatten(-1, shape).unbind(-3)
        means = self.start + means * self.std
        # A bound that no gradient is lost at.
        relative = _MIN_LOG_SCALE_OF_ONE + F.softplus(scales - _MIN_LOG_SCALE_OF_ONE)
        return weights.log_softmax(-2), means, relative + self.std.log()

    def log_prob(self, x, output):
        log_weights, means, log_scales = self._components(output)
        each = log_weights + _normal_log_prob(x[..., None, :], means, log_scales)
        return self._weigh(each.logsumexp(-2))

    def mean(self, output):
        log_weights, means, _ = self._components(output)
        return (log_weights.exp() * means).sum(-2)

    def sample(self, output, generator):
        log_weights, means, log_scales = self._components(output)
        p = log_weights.exp().transpose(-1, -2)
        which = p.flatten(0, -2).multinomial(1, generator=generator)
        which = which.view(*p.shape[:-1], 1).transpose(-1, -2)
        mean, log_scale = (t.gather(-2, which).squeeze(-2) for t in (means, log_scales))
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + noise * log_scale.exp()


class _Counts(_LikelihoodModule):
    """What likelihoods of counts share: they are in the user's units."""

    center: torch.Tensor
    scale: torch.Tensor
    log_typical: torch.Tensor
    kind = ""

    def __init__(self, columns):
        super().__init__(columns)
        self.names = columns.names
        self.register_buffer("center", torch.as_tensor(columns.center).float())
        self.register_buffer("scale", torch.as_tensor(columns.scale).float())
        typical = columns.mean * columns.scale + columns.center
        log_typical = np.log(np.maximum(typical, _LEAST_MEAN))
        self.register_buffer("log_typical", torch.as_tensor(log_typical).float())
        # What rounding to float32 may have done to a count.
        self.tolerance = 1e-6 * (1 + np.abs(columns.center) + 10 * columns.scale)

    def check(self, X):
        with np.errstate(invalid="ignore"):
            wrong = (X < 0) | (np.rint(X) != X) & ~np.isnan(X)
        if wrong.any():
            i, j = np.argwhere(wrong)[0]
            raise ValueError(
                f"The {self.kind} likelihood needs counts 0, 1, 2, ..., but column "
                f"{self.names[j]!r} holds {X[i, j]:.6g}. Choose another likelihood for "
                "the column, such as 'gaussian'."
            )

    def restore(self, X):
        nearest = np.rint(X)
        is_whole = np.abs(X - nearest) <= self.tolerance + 1e-6 * np.abs(nearest)
        return np.where(is_whole, nearest + 0.0, X).clip(0)

    def _raw(self, x):
        return torch.addcmul(self.center, x, self.scale).round().clamp(min=0)

    def _log_mean(self, output):
        return (output + self.log_typical).clamp(max=_MOST_LOG_MEAN)

    def mean(self, output):
        return (self._log_mean(output).exp() - self.center) / self.scale

    def _sample_poisson(self, rate, generator):
        raw = torch.poisson(rate, generator=generator)
        return (raw - self.center) / self.scale


class _Poisson(_Counts):
    kind = "Poisson"

    def log_prob(self, x, output):
        n, log_mean = self._raw(x), self._log_mean(output)
        return self._weigh(n * log_mean - log_mean.exp() - torch.lgamma(n + 1))

    def sample(self, output, generator):
        return self._sample_poisson(self._log_mean(output).exp(), generator)


class _NegativeBinomial(_Counts):
    kind = "negative binomial"

    def __init__(self, columns):
        super().__init__(columns)
        self.raw_log_r = nn.Parameter(torch.zeros(len(columns)))

    @property
    def log_r(self):
        return (_SCALE_GAIN * self.raw_log_r).clamp(*_LOG_R_RANGE)

    def log_prob(self, x, output):
        n, log_mean, log_r = self._raw(x), self._log_mean(output), self.log_r
        r = log_r.exp()
        log_share = F.softplus(log_mean - log_r)  # log(1 + m / r)
        return self._weigh(
            torch.lgamma(n + r)
            - torch.lgamma(r)
            - torch.lgamma(n + 1)
            - r * log_share
            + n * (log_mean - log_r - log_share)
        )

    def sample(self, output, generator):
        r = self.log_r.exp().expand_as(output).contiguous()
        factor = torch._standard_gamma(r, generator=generator) / r
        return self._sample_poisson(self._log_mean(output).exp() * factor, generator)


def _normal_log_prob(x, mean, log_scale):
    z = (x - mean) * torch.exp(-log_scale)
    return -0.5 * z.square() - log_scale - 0.5 * math.log(2 * math.pi)


def _log_unit(columns):
    """Return where a learned scale starts: one standard deviation of the columns."""
    std = columns.std[columns.varies]
    return float(np.log(std).mean()) if len(std) else 0.0


def _log_std(columns):
    return torch.as_tensor(np.log(np.where(columns.varies, columns.std, 1.0))).float()


def _log_jacobian(columns):
    """Compute the logarithm of matrix units over the user's, 0 where nothing varies."""
    return np.where(columns.varies, -np.log(columns.scale), 0.0)


class _Joint(nn.Module):
    """The modules of several likelihoods side by side, of numbers and of categories.

    Cells that are missing (NaN) have the log-density, the cost and the slope 0.

    Parameters
    ----------
    columns : Columns
    modules : list of tuple (module, ndarray of int)
        Modules of likelihoods, and the positions of their columns: the numeric ones.
    """

    fill: torch.Tensor
    places: torch.Tensor

    def __init__(self, columns, modules):
        super().__init__()
        self.register_buffer("fill", torch.as_tensor(columns.mean).float())
        self.log_jacobian = np.zeros(len(columns))
        self.where = [which.tolist() for _, which in modules]
        for i, (module, which) in enumerate(modules):
            self.add_module(f"part_{i}", module)
            self.log_jacobian[which] = module.log_jacobian
        self.categorical = np.flatnonzero(columns.n_levels).tolist()
        self.softmax = Softmax(columns[self.categorical])
        order = np.concatenate([*self.where, self.categorical]).astype(np.int64)
        self.register_buffer("places", torch.as_tensor(order.argsort()))
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

    def _each(self, output, of_numbers, of_categories):
        """Call functions of every module, its columns and its part of the output."""
        *parts, last = output[..., : sum(self.sizes)].split(self.sizes, dim=-1)
        cells = [
            of_numbers(module, which, part)
            for (module, which), part in zip(
                self._modules_of_numbers(), parts, strict=True
            )
        ]
        if self.categorical:
            cells.append(of_categories(self.softmax, self.categorical, last))
        return torch.cat(cells, dim=-1).index_select(-1, self.places)


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
        The part's own for a table of numbers without holes, else a `_Joint`.
    """
    groups = part.groups(columns)
    if columns.is_plain and len(groups) == 1:
        return groups[0][0].build(columns, noise=noise)
    return _Joint(
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
    if isinstance(module, _Joint):
        return module.residual(x, output)
    return x - module.mean(output)


def average(module, output, weights):
    """Return the mean rows of weighted draws, see `_Joint.average`.

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
    if isinstance(module, _Joint):
        return module.average(output, weights)
    return _weighted_mean(module, output, weights)

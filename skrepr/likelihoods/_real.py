"""Likelihoods of real numbers."""

import math
from numbers import Integral, Real

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skrepr._sklearn import Interval, StrOptions
from skrepr.likelihoods._base import SCALE_GAIN, Likelihood, LikelihoodModule

# A noise scale below a thousandth of a column's standard deviation is not told from
# rounding; without a floor a perfect reconstruction has an infinite density.
_MIN_LOG_SCALE = math.log(1e-3)
_MIN_LOG_SCALE_OF_ONE = math.log(1e-2)  # of a scale of a single column

# Of Student's t: from a Cauchy distribution to one that is nearly normal, from a start
# with heavy tails.
_DF_RANGE, _FIRST_DF = (1.0, 100.0), 5.0


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


class _Gaussian(LikelihoodModule):
    raw_log_scale: torch.Tensor
    has_slopes = True

    def __init__(self, columns, scale, noise):
        super().__init__(columns)
        self.learned = scale == "learned"
        self.noise = noise
        self.log_unit = _log_unit(columns)
        if noise and self.learned:
            self.raw_log_scale = nn.Parameter(torch.zeros(()))
        elif noise:
            self.register_buffer("raw_log_scale", torch.tensor(math.log(scale)))

    @property
    def log_scale(self):
        if not self.learned:
            return self.raw_log_scale
        relative = (SCALE_GAIN * self.raw_log_scale).clamp(min=_MIN_LOG_SCALE)
        return relative + self.log_unit

    def log_prob(self, x, output):
        log_scale = self.log_scale
        z = (x - output) * torch.exp(-log_scale)
        return self.only_varying(
            -0.5 * z.square() - log_scale - 0.5 * math.log(2 * math.pi)
        )

    def cost(self, x, output):
        return self.only_varying((x - output).square())

    def cost_and_slope(self, x, output, factor):
        residual = self.only_varying(output - x)
        slope = residual * (2 * factor)
        return 0.5 * residual.mul_(slope).sum(), slope

    def log_prob_and_slope(self, x, output, factor):
        log_scale = self.log_scale.item()
        z = self.only_varying(output - x).mul_(math.exp(-log_scale))
        weighted = z * factor
        squares = (weighted * z).sum()
        # The sum of the factors of the cells that vary.
        total = self.only_varying(torch.as_tensor(factor).expand(x.shape)).sum()
        if self.learned:
            # Below its bound the scale does not move.
            is_free = SCALE_GAIN * self.raw_log_scale.item() >= _MIN_LOG_SCALE
            self.raw_log_scale.grad = SCALE_GAIN * is_free * (squares - total)
        constant = log_scale + 0.5 * math.log(2 * math.pi)
        return -0.5 * squares - constant * total, weighted.mul_(-math.exp(-log_scale))

    def mean(self, output):
        return output

    def sample(self, output, generator):
        if not self.noise:
            return output
        noise = torch.empty_like(output).normal_(generator=generator)
        return output + noise * self.log_scale.exp()


class _PerFeatureGaussian(LikelihoodModule):
    log_std: torch.Tensor

    def __init__(self, columns):
        super().__init__(columns)
        self.register_buffer("log_std", _log_std(columns))
        self.raw_log_scale = nn.Parameter(torch.zeros(len(columns)))

    @property
    def log_scale(self):
        relative = SCALE_GAIN * self.raw_log_scale
        return relative.clamp(min=_MIN_LOG_SCALE_OF_ONE) + self.log_std

    def log_prob(self, x, output):
        return self.only_varying(_normal_log_prob(x, output, self.log_scale))

    def cost(self, x, output):
        return self.only_varying((x - output).square())

    def mean(self, output):
        return output

    def sample(self, output, generator):
        noise = torch.empty_like(output).normal_(generator=generator)
        return output + noise * self.log_scale.exp()


class _StudentT(LikelihoodModule):
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

    @property
    def log_scale(self):
        if not self.scale_is_learned:
            return self.raw_log_scale
        relative = (SCALE_GAIN * self.raw_log_scale).clamp(min=_MIN_LOG_SCALE)
        return relative + self.log_unit

    @property
    def df(self):
        if not self.df_is_learned:
            return self.raw_df.exp()
        low, high = _DF_RANGE
        start = math.log((_FIRST_DF - low) / (high - _FIRST_DF))
        return low + (high - low) * torch.sigmoid(start + SCALE_GAIN * self.raw_df)

    def log_prob(self, x, output):
        df, log_scale = self.df, self.log_scale
        z = (x - output) * torch.exp(-log_scale)
        constant = (
            torch.lgamma((df + 1) / 2)
            - torch.lgamma(df / 2)
            - 0.5 * torch.log(math.pi * df)
            - log_scale
        )
        return self.only_varying(constant - (df + 1) / 2 * torch.log1p(z.square() / df))

    def mean(self, output):
        return output

    def sample(self, output, generator):
        df = self.df
        noise = torch.empty_like(output).normal_(generator=generator)
        half = (df / 2).expand_as(output).contiguous()
        chi2 = 2 * torch._standard_gamma(half, generator=generator)
        return output + self.log_scale.exp() * noise * (df / chi2).sqrt()


class _Mixture(LikelihoodModule):
    std: torch.Tensor
    start: torch.Tensor

    def __init__(self, columns, n_components):
        super().__init__(columns)
        d = len(columns)
        self.n_components = n_components
        self.n_outputs = 3 * n_components * d
        std = columns.safe_std
        self.register_buffer("std", torch.as_tensor(std).float())
        # Components that start side by side find their own parts of the column.
        spread = np.linspace(-1.5, 1.5, n_components) if n_components > 1 else [0.0]
        start = columns.mean + np.outer(spread, std)
        self.register_buffer("start", torch.as_tensor(start).float())

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
        log_joint = log_weights + _normal_log_prob(x[..., None, :], means, log_scales)
        return self.only_varying(log_joint.logsumexp(-2))

    def mean(self, output):
        log_weights, means, _ = self._components(output)
        return (log_weights.exp() * means).sum(-2)

    def sample(self, output, generator):
        log_weights, means, log_scales = self._components(output)
        weights = log_weights.exp().transpose(-1, -2)
        component = weights.flatten(0, -2).multinomial(1, generator=generator)
        component = component.view(*weights.shape[:-1], 1).transpose(-1, -2)
        mean, log_scale = (
            values.gather(-2, component).squeeze(-2) for values in (means, log_scales)
        )
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + noise * log_scale.exp()


def _normal_log_prob(x, mean, log_scale):
    z = (x - mean) * torch.exp(-log_scale)
    return -0.5 * z.square() - log_scale - 0.5 * math.log(2 * math.pi)


def _log_unit(columns):
    """Return where a learned scale starts: one standard deviation of the columns."""
    std = columns.std[columns.varies]
    return float(np.log(std).mean()) if len(std) else 0.0


def _log_std(columns):
    return torch.as_tensor(np.log(columns.safe_std)).float()

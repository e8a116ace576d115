"""Likelihoods of counts."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skrepr.likelihoods._base import SCALE_GAIN, Likelihood, LikelihoodModule

_MIN_MEAN = 1e-3  # of a column of counts, whose logarithm the network starts from
_MAX_LOG_MEAN = 30.0  # of counts: keeps exp and its gradient finite in float32
_LOG_R_RANGE = (math.log(1e-3), math.log(1e3))  # lgamma is exact enough in float32


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


class _Counts(LikelihoodModule):
    """What likelihoods of counts share: they are in the user's units."""

    center: torch.Tensor
    scale: torch.Tensor
    log_column_mean: torch.Tensor
    kind = ""

    def __init__(self, columns):
        super().__init__(columns)
        self.log_jacobian = np.zeros(len(columns))  # counts have probabilities
        self.names = columns.names
        self.register_buffer("center", torch.as_tensor(columns.center).float())
        self.register_buffer("scale", torch.as_tensor(columns.scale).float())
        column_mean = columns.mean * columns.scale + columns.center
        log_column_mean = np.log(np.maximum(column_mean, _MIN_MEAN))
        self.register_buffer(
            "log_column_mean", torch.as_tensor(log_column_mean).float()
        )
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
        return (output + self.log_column_mean).clamp(max=_MAX_LOG_MEAN)

    def mean(self, output):
        return (self._log_mean(output).exp() - self.center) / self.scale

    def _sample_poisson(self, rate, generator):
        raw = torch.poisson(rate, generator=generator)
        return (raw - self.center) / self.scale


class _Poisson(_Counts):
    kind = "Poisson"

    def log_prob(self, x, output):
        n, log_mean = self._raw(x), self._log_mean(output)
        return self.only_varying(n * log_mean - log_mean.exp() - torch.lgamma(n + 1))

    def sample(self, output, generator):
        return self._sample_poisson(self._log_mean(output).exp(), generator)


class _NegativeBinomial(_Counts):
    kind = "negative binomial"

    def __init__(self, columns):
        super().__init__(columns)
        self.raw_log_r = nn.Parameter(torch.zeros(len(columns)))

    @property
    def log_r(self):
        return (SCALE_GAIN * self.raw_log_r).clamp(*_LOG_R_RANGE)

    def log_prob(self, x, output):
        n, log_mean, log_r = self._raw(x), self._log_mean(output), self.log_r
        r = log_r.exp()
        log_share = F.softplus(log_mean - log_r)  # log(1 + m / r)
        return self.only_varying(
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

"""The likelihood of flags and probabilities."""

import numpy as np
import torch
from torch.nn import functional as F

from skrepr.likelihoods._base import Likelihood, LikelihoodModule


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


class _Bernoulli(LikelihoodModule):
    center: torch.Tensor
    scale: torch.Tensor

    def __init__(self, columns):
        super().__init__(columns)
        self.log_jacobian = np.zeros(len(columns))  # flags have probabilities
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
        return self.only_varying(
            F.binary_cross_entropy_with_logits(output, raw, reduction="none")
        )

    def mean(self, output):
        return (torch.sigmoid(output) - self.center) / self.scale

    def sample(self, output, generator):
        raw = torch.bernoulli(torch.sigmoid(output), generator=generator)
        return (raw - self.center) / self.scale

"""Scores of rows with holes, referred to those of rows without."""

from dataclasses import dataclass

import torch

from skrepr.error_models._base import ErrorModelModule

_TELLING = 1e-5  # share of the mean distance below which what is observed says nothing


_MOST_RATIO, _MOST_SPREAD = 1e6, 1e2


_MOST_HIDDEN = 0.8  # share up to which what holes do is learned


_N_ROUNDS = 5


class _Referring(ErrorModelModule):
    """What the modules share: the scores of rows with holes are referred to the others.

    Cube roots of squared distances are nearly normal (Wilson and Hilferty), so they are
    brought from the mean and variance expected of what is observed to those of rows
    without holes.
    """

    varies: torch.Tensor
    spread: torch.Tensor
    drift: torch.Tensor

    def __init__(self, columns):
        super().__init__()
        varies = torch.as_tensor(columns.varies)
        self.register_buffer("varies", varies, persistent=False)
        self.register_buffer("spread", torch.zeros(()))
        self.register_buffer("drift", torch.zeros(2))

    def forward(self, errors):
        missing = errors[:, 0].isnan()
        if not missing.any():
            return self._contributions(errors)
        contributions, relative = self._compared(errors)
        contributions = torch.where(missing, 0.0, contributions)
        return torch.where(
            missing.any(1, keepdim=True),
            _with_sums(contributions, self._referred(relative), self.varies),
            contributions,
        )

    def fit_holes(self, errors, errors_with_holes):
        """Learn the distribution of the scores, and how holes move it."""
        self.double()
        trained, hidden = (
            self._compared(part)[1] for part in (errors, errors_with_holes)
        )
        self.spread = trained.spread()
        both = [
            (part.deviations(self.spread), part.shares) for part in (trained, hidden)
        ]
        deviations, shares = (torch.cat(parts) for parts in zip(*both, strict=True))
        terms = torch.column_stack([torch.ones_like(shares), _drifts(shares)])
        ridge = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64).diag()
        slopes = torch.linalg.solve(terms.T @ terms + ridge, terms.T @ deviations)
        self.drift = slopes[1:]
        self._finish(self._referred(trained))
        self.float()

    def _contributions(self, errors):
        """Return what the columns contribute where nothing is missing."""
        raise NotImplementedError

    def _compared(self, errors):
        """Return contributions that are yet to be scaled, and a `_Relative`."""
        raise NotImplementedError

    def _usual(self):
        """Return the mean sum of the contributions of rows without holes."""
        raise NotImplementedError

    def _finish(self, sums):
        """Take note of the sums of the contributions of the training rows."""

    def _referred(self, relative):
        """Return the sums that rows without holes have that are as strange."""
        roots = relative.deviations(self.spread) - _drifts(relative.shares) @ self.drift
        roots = _mean_root(self.spread) + roots
        return self._usual() * roots.clamp(min=0) ** 3


@dataclass(frozen=True)
class _Relative:
    """Sums over what is observed of rows, relative to what is usual of it.

    Cube roots of squared distances are nearly normal (Wilson and Hilferty).

    Attributes
    ----------
    distances : torch.Tensor of shape (n,)
        The sums over their means; 1 where what is observed says nothing.
    ratios : torch.Tensor of shape (n,)
        Their variances over those of rows without holes.
    shares : torch.Tensor of shape (n,)
        What is missing of the mean.
    """

    distances: torch.Tensor
    ratios: torch.Tensor
    shares: torch.Tensor

    @classmethod
    def to(cls, sums, moments, full):
        """Compare sums with their moments, and these with those without holes.

        Parameters
        ----------
        sums : torch.Tensor of shape (n,)
        moments : tuple of two torch.Tensor of shape (n,)
            The means of the sums, and, up to a factor, their variances.
        full : tuple of two scalar tensors
            The same of rows without holes.
        """
        (mean, variance), (full_mean, full_variance) = moments, full
        telling = mean > _TELLING * full_mean
        mean = torch.where(telling, mean, 1.0)
        ratios = (variance / mean.square()) / (full_variance / full_mean.square())
        ratios = ratios.clamp(1 / _MOST_RATIO, _MOST_RATIO)
        return cls(
            torch.where(telling, sums / mean, 1.0),
            torch.where(telling, ratios, _MOST_RATIO),
            torch.where(telling, 1 - mean / full_mean, 0.0).clamp(0, _MOST_HIDDEN),
        )

    def deviations(self, spread):
        """Return how far the roots are from their mean, as if there were no holes."""
        roots = self.distances.clamp(min=0) ** (1 / 3)
        roots = roots - _mean_root(spread * self.ratios)
        return roots / self.ratios.sqrt()

    def spread(self):
        """Estimate the variance of the roots of rows without holes."""
        spread = (self.distances.clamp(min=0) ** (1 / 3)).var(correction=0)
        for _ in range(_N_ROUNDS):
            spread = self.deviations(spread).square().mean()
        return spread


def _drifts(shares):
    """Return the terms of which the drift of the roots with what is missing is made."""
    return torch.column_stack([shares.sqrt(), shares])


def _mean_root(variance):
    """Return the mean of normal numbers of some variance whose cubes have the mean 1.

    It solves m^3 + 3 * variance * m = 1.
    """
    variance = variance.clamp(max=_MOST_SPREAD)
    root = (0.5 + (0.25 + variance**3).sqrt()) ** (1 / 3)
    return root - variance / root


def _with_sums(contributions, sums, varies):
    """Scale contributions to given sums, or, where there are none, share these out."""
    total = contributions.sum(1, keepdim=True)
    even = varies / varies.sum().clamp(min=1)
    return sums[:, None] * torch.where(total > 0, contributions / total, even)

"""Scores of rows with holes, brought to the distribution of those without."""

from dataclasses import dataclass

import torch

from skrepr.error_models._base import ErrorModelModule

_MIN_SHARE = 1e-5  # of the mean sum; if less is observed, it says nothing
_MAX_SHARE_MISSING = 0.8  # of the mean sum; what more holes do is not learned
_MAX_RATIO = 1e6  # of variances: keeps the roots of hardly observed rows finite
_MAX_SPREAD = 1e2  # variance of roots whose mean is 1: keeps its cube finite
_N_SPREAD_ITERATIONS = 5  # of a fixed point, towards the variance of the roots


class AdjustedForHoles(ErrorModelModule):
    """Base class of the modules whose scores are adjusted for holes.

    Cube roots of squared distances are nearly normal (Wilson and Hilferty), so they are
    brought from the mean and variance expected of what is observed to those of rows
    without holes.

    Parameters
    ----------
    columns : Columns
    """

    varies: torch.Tensor
    spread: torch.Tensor
    drift: torch.Tensor

    def __init__(self, columns):
        super().__init__()
        varies = torch.as_tensor(columns.varies)
        self.register_buffer("varies", varies, persistent=False)
        self.register_buffer("spread", torch.zeros((), dtype=torch.float32))
        self.register_buffer("drift", torch.zeros(2, dtype=torch.float32))

    def forward(self, errors):
        missing = errors[:, 0].isnan()
        if not missing.any():
            return self._contributions(errors)
        contributions, relative = self._relative_sums(errors)
        contributions = torch.where(missing, 0.0, contributions)
        return torch.where(
            missing.any(1, keepdim=True),
            _scaled(contributions, self._adjusted(relative), self.varies),
            contributions,
        )

    def fit_holes(self, errors, errors_with_holes):
        """Learn the distribution of the scores, and how holes move it."""
        self.double()
        trained = self._relative_sums(errors)[1]
        with_holes = self._relative_sums(errors_with_holes)[1]
        self.spread = trained.spread()
        deviations = torch.cat(
            [trained.deviations(self.spread), with_holes.deviations(self.spread)]
        )
        shares = torch.cat([trained.shares, with_holes.shares])
        terms = torch.column_stack([torch.ones_like(shares), _drift_terms(shares)])
        ridge = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64).diag()
        slopes = torch.linalg.solve(terms.T @ terms + ridge, terms.T @ deviations)
        self.drift = slopes[1:]
        self._rescale(self._adjusted(trained))
        self.float()

    def _contributions(self, errors):
        """Return what the columns contribute where nothing is missing."""
        raise NotImplementedError

    def _relative_sums(self, errors):
        """Return contributions that are yet to be scaled, and a `RelativeSums`."""
        raise NotImplementedError

    def _mean_sum(self):
        """Return the mean sum of the contributions of rows without holes."""
        raise NotImplementedError

    def _rescale(self, sums):
        """Scale what is learned by the adjusted sums of the training rows."""

    def _adjusted(self, relative):
        """Return the sums that rows without holes have that are as strange."""
        roots = (
            relative.deviations(self.spread)
            - _drift_terms(relative.shares) @ self.drift
        )
        roots = _mean_root(self.spread) + roots
        return self._mean_sum() * roots.clamp(min=0) ** 3


@dataclass(frozen=True)
class RelativeSums:
    """Sums over the observed cells of rows, relative to their mean and variance.

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
    def compare(cls, sums, moments, complete):
        """Compare sums with their moments, and these with those without holes.

        Parameters
        ----------
        sums : torch.Tensor of shape (n,)
        moments : tuple of two torch.Tensor of shape (n,)
            The means of the sums, and, up to a factor, their variances.
        complete : tuple of two scalar tensors
            The same of rows without holes.
        """
        (mean, variance), (complete_mean, complete_variance) = moments, complete
        informative = mean > _MIN_SHARE * complete_mean
        mean = torch.where(informative, mean, 1.0)
        ratios = (variance / mean.square()) / (
            complete_variance / complete_mean.square()
        )
        ratios = ratios.clamp(1 / _MAX_RATIO, _MAX_RATIO)
        return cls(
            torch.where(informative, sums / mean, 1.0),
            torch.where(informative, ratios, _MAX_RATIO),
            torch.where(informative, 1 - mean / complete_mean, 0.0).clamp(
                0, _MAX_SHARE_MISSING
            ),
        )

    def deviations(self, spread):
        """Return how far the roots are from their mean, as if there were no holes."""
        roots = self.distances.clamp(min=0) ** (1 / 3)
        roots = roots - _mean_root(spread * self.ratios)
        return roots / self.ratios.sqrt()

    def spread(self):
        """Estimate the variance of the roots of rows without holes."""
        spread = (self.distances.clamp(min=0) ** (1 / 3)).var(correction=0)
        for _ in range(_N_SPREAD_ITERATIONS):
            spread = self.deviations(spread).square().mean()
        return spread


def _drift_terms(shares):
    """Return the terms of which the drift of the roots with what is missing is made."""
    return torch.column_stack([shares.sqrt(), shares])


def _mean_root(variance):
    """Return the mean of normal numbers of some variance whose cubes have the mean 1.

    It solves m^3 + 3 * variance * m = 1.
    """
    variance = variance.clamp(max=_MAX_SPREAD)
    root = (0.5 + (0.25 + variance**3).sqrt()) ** (1 / 3)
    return root - variance / root


def _scaled(contributions, sums, varies):
    """Scale contributions to given sums, or, where there are none, share these out."""
    total = contributions.sum(1, keepdim=True)
    equal = varies / varies.sum().clamp(min=1)
    return sums[:, None] * torch.where(total > 0, contributions / total, equal)

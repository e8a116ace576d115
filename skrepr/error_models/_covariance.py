"""The error model that knows how errors go together."""

from numbers import Integral, Real

import numpy as np
import torch

from skrepr._blocks import blocks
from skrepr._sklearn import Interval
from skrepr._training._threads import ProcessLock, matmul
from skrepr.error_models._base import MIN_SPREAD, ErrorModel, mean_and_std
from skrepr.error_models._holes import AdjustedForHoles, RelativeSums

# Of rows with holes.
_MAX_CELLS = 2**20  # of the matrices of patterns that are computed at once
_NO_CORRELATIONS = 0.999  # shrinkage that leaves none

_lock = ProcessLock()


class Covariance(ErrorModel, name="covariance"):
    """Mahalanobis distance of a row together with its errors.

    A row, its error, and the error of reconstructing its reconstruction are taken as
    one vector, whose mean and covariance are those of the training rows (of 10 000
    random ones, or twice as many as the vector is long, if there are more). So an error
    counts by how unusual it is beside the errors of other columns and beside the row
    itself; and a strange row that the network reconstructs all the same is noticed,
    too. The score is minus the squared distance, over its mean among the training rows:
    these have the mean score -1.

    In a row with holes it is the distance of what is observed, exactly. Its cube root
    is nearly normal, and is brought to the mean and the spread it has without holes.
    That takes the inverse of a matrix as large as what is missing, for every pattern of
    holes, which is slow from some hundreds of columns on.

    The contributions are the squares of the vector after the whitening that changes it
    least (ZCA-cor). They sum to minus the score exactly; where columns that usually
    agree differ, they share what that contributes.

    `AutoencoderTransformer.score` does not depend on the error model, and a grid search
    over its parameters needs a ``scoring`` of its own.

    Parameters
    ----------
    shrinkage : float, default=0.1
        How far the correlations are shrunk towards none, in (0, 1]. The smaller, the
        more counts what the training rows never do, such as two equal columns that
        differ.
    n_reconstructions : int, default=2
        How many times over a row is reconstructed: each time adds its error to the
        vector.

    References
    ----------
    Garthwaite and Koch, "Evaluating the contributions of individual variables to a
    quadratic form", Australian & New Zealand Journal of Statistics 58 (2016).

    Kim, Shim, Lim, Jeon, Choi, Kim and Yoon, "RaPP: Novelty Detection with
    Reconstruction along Projection Pathway", ICLR 2020, compares a row with its
    reconstruction in the hidden layers, this model in the input.

    Examples
    --------
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.error_models import Covariance
    >>> AutoencoderTransformer(error_model=Covariance(shrinkage=0.01))
    AutoencoderTransformer(error_model=Covariance(shrinkage=0.01))
    """

    _parameter_constraints: dict = {
        "shrinkage": [Interval(Real, 0, 1, closed="right")],
        "n_reconstructions": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, shrinkage=0.1, n_reconstructions=2):
        self.shrinkage = shrinkage
        self.n_reconstructions = n_reconstructions

    def build(self, columns):
        """Build the torch module of the error model."""
        return _Covariance(self.shrinkage, self.n_reconstructions, columns)


class _Covariance(AdjustedForHoles):
    mean: torch.Tensor
    std: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    diagonal: torch.Tensor
    mean_distance: torch.Tensor

    def __init__(self, shrinkage, n_reconstructions, columns):
        super().__init__(columns)
        self.shrinkage = shrinkage
        self.n_reconstructions = n_reconstructions
        std = torch.as_tensor(columns.safe_std).float().repeat(1 + n_reconstructions)
        self.register_buffer("mean", torch.zeros_like(std))
        self.register_buffer("std", std)
        self.min_std = MIN_SPREAD * std
        self.has_holes = bool(columns.missing.any())
        # The whitening matrix is left @ right + diagonal * identity. Its square is the
        # inverse of the shrunk correlation matrix, over `mean_distance`.
        for name in ("left", "right", "diagonal", "mean_distance"):
            self.register_buffer(name, torch.empty(0))
        self._cached = None

    def fit(self, errors):
        errors = errors.flatten(1)
        mean, std = mean_and_std(errors, self.min_std)
        self.mean, self.std = mean.float(), std.float()
        directions, factors, diagonal, mean_distance = _shrunk_whitening(
            ((errors - mean) / std).numpy(), self.shrinkage
        )
        left, right = directions * factors, directions.T
        if not 0 < 2 * left.shape[1] <= len(left):  # one product takes less than two
            left, right = left @ right + diagonal * np.eye(len(left)), right[:0]
            diagonal = 0.0
        mean_distance = mean_distance if mean_distance > 0 else 1.0
        scale = mean_distance**-0.5
        self.left = torch.tensor(scale * left).float()
        self.right = torch.tensor(right).float()
        self.diagonal = torch.tensor(scale * diagonal).float()
        self.mean_distance = torch.tensor(mean_distance, dtype=torch.float32)
        self._cached = None

    def _rescale(self, sums):
        # Adjusting the distances of rows with holes has changed the mean of all.
        self._cached = None
        mean = sums.mean()
        if self.has_holes and mean > 0:
            self.left = self.left / mean.sqrt()
            self.diagonal = self.diagonal / mean.sqrt()
            self.mean_distance = self.mean_distance * mean

    def _contributions(self, errors):
        return self._squares(self._standardised(errors))

    def _relative_sums(self, errors):
        # A vector completed by what is most likely beside what is observed of it has
        # the Mahalanobis distance of what is observed.
        completed, moments = self._complete(self._standardised(errors))
        squares = self._squares(completed)
        distances = squares.sum(1) * self.mean_distance
        return squares, RelativeSums.compare(
            distances, moments, self._inverse.complete_moments
        )

    def _mean_sum(self):
        return self._inverse.complete_moments[0] / self.mean_distance

    def _standardised(self, errors):
        return (errors.flatten(1) - self.mean) / self.std

    def _squares(self, standardised):
        """Return the squares of the whitened vectors, summed over every column's."""
        squares = self._whiten(standardised).square_()
        return squares.view(len(squares), -1, len(self.varies)).sum(1)

    def _whiten(self, standardised):
        whitened = matmul(standardised, self.left)
        if len(self.right):
            whitened = matmul(whitened, self.right).add_(self.diagonal * standardised)
        return whitened

    @property
    def _inverse(self):
        with _lock:
            if self._cached is None:
                # For a GPU torch loads its linear algebra at the first call, and fails
                # where two threads make it at once.
                torch.linalg.inv(self.left.new_ones(1, 1))
                kind = _LowRankInverse if len(self.right) else _DenseInverse
                self._cached = kind(self)
        return self._cached

    def _complete(self, vectors):
        """Put the most likely values into holes, and tell the moments of distances.

        Returns
        -------
        completed : torch.Tensor of shape (n, k)
        moments : tuple of two torch.Tensor of shape (n,)
            The mean of the distances of what is observed, and half of their variance if
            the vectors were normal.
        """
        inverse, n_columns = self._inverse, len(self.varies)
        missing = vectors[:, :n_columns].isnan()
        vectors = torch.where(vectors.isnan(), 0.0, vectors)
        projected = inverse.project(vectors)
        patterns, pattern_ids = missing.unique(dim=0, return_inverse=True)
        moments = vectors.new_empty(2, len(patterns))
        place = torch.zeros_like(patterns[:, 0], dtype=torch.long)
        starts = torch.arange(0, vectors.shape[1], n_columns, device=vectors.device)
        # Patterns with as many holes have matrices of one size.
        counts = patterns.sum(1)
        for count in counts.unique().tolist():
            size = count * len(starts)
            n_cells = size * inverse.width(size)
            same = (counts == count).nonzero()[:, 0]
            for chosen in (
                same[block] for block in blocks(len(same), n_cells, _MAX_CELLS)
            ):
                columns = patterns[chosen].nonzero()[:, 1].view(len(chosen), 1, count)
                index = (columns + starts[:, None]).flatten(1)
                solution, moments[:, chosen] = inverse.solve(index)
                place[chosen] = torch.arange(len(chosen), device=place.device)
                rows = torch.isin(pattern_ids, chosen).nonzero()[:, 0]
                for part in (
                    rows[block] for block in blocks(len(rows), n_cells, _MAX_CELLS)
                ):
                    solved = place[pattern_ids[part]]
                    cells = part[:, None], index[solved]
                    vectors[cells] = inverse.fill(
                        solution[solved], projected[part], index[solved]
                    )
        return vectors, moments[:, pattern_ids]


class _DenseInverse:
    """What the inverse P of a covariance matrix says of vectors with missing parts m.

    The inverse of the covariance of the other parts is P_oo - P_om inv(P_mm) P_mo. What
    is wanted of it takes matrices of the size of m only.
    """

    def __init__(self, model):
        self.shrinkage = model.shrinkage
        self.n_columns, self.n_varying = len(model.std), int(model.varies.sum())
        self.n_varying *= self.n_columns // len(model.varies)
        first = matmul(model.left, model.left) * model.mean_distance
        second = matmul(first, first)
        self.powers = first, second, matmul(second, first)
        self.traces = first.trace(), second.trace()
        no_holes = torch.empty(1, 0, dtype=torch.long, device=first.device)
        self.complete_moments = self.solve(no_holes)[1][:, 0]

    def width(self, size):
        """Return the length of the rows of a solution for so many missing parts."""
        return size

    def project(self, vectors):
        """Return what `fill` needs of vectors that are 0 where they are missing."""
        return matmul(vectors, self.powers[0])

    def solve(self, index):
        """Return what `fill` needs of patterns, and the moments of their distances."""
        first, second, third = (
            power[index[:, :, None], index[:, None, :]] for power in self.powers
        )
        inverse = torch.linalg.inv(first)
        product = inverse @ second
        trace = self.traces[0] - product.diagonal(dim1=1, dim2=2).sum(1)
        squared = self.traces[1] - 2 * (inverse * third).sum((1, 2))
        squared += (product * product.mT).sum((1, 2))
        return inverse, self._moments(trace, squared, index.shape[1])

    def _moments(self, trace, squared, n_missing):
        s = self.shrinkage
        if s > _NO_CORRELATIONS:
            n = torch.full_like(trace, self.n_varying - n_missing)
            return torch.stack([n, n])
        n = self.n_columns - n_missing
        return torch.stack(
            [
                (n - s * trace) / (1 - s),
                (n - 2 * s * trace + s**2 * squared) / (1 - s) ** 2,
            ]
        )

    def fill(self, solutions, projected, columns):
        """Return the most likely values of the missing parts."""
        return -(solutions @ projected.gather(1, columns)[:, :, None])[:, :, 0]


class _LowRankInverse:
    """The same for few directions, with matrices of the size of their number."""

    def __init__(self, model):
        self.shrinkage = s = model.shrinkage
        self.directions = model.right.T
        factors = (model.right * model.left.T).sum(1) + model.diagonal
        shrunk = 1 / (model.mean_distance * factors.square())
        variances = (shrunk - s) / (1 - s) if s <= _NO_CORRELATIONS else shrunk
        self.roots = variances.clamp(min=0).sqrt()
        no_holes = torch.empty(1, 0, dtype=torch.long, device=shrunk.device)
        self.complete_moments = self.solve(no_holes)[1][:, 0]

    def width(self, size):
        return len(self.roots)

    def project(self, vectors):
        return matmul(vectors, self.directions)

    def solve(self, index):
        hidden = self.directions[index]
        scaled = hidden * self.roots
        observed = self.roots.square().diag() - scaled.mT @ scaled
        variances, axes = torch.linalg.eigh(observed)
        variances = variances.clamp(min=0)
        shrunk = (1 - self.shrinkage) * variances + self.shrinkage
        shares = variances / shrunk
        moments = torch.stack([shares.sum(1), shares.square().sum(1)])
        inverse = (axes / shrunk[:, None]) @ axes.mT
        solution = (1 - self.shrinkage) * (scaled @ inverse) * self.roots
        return solution, moments

    def fill(self, solutions, projected, columns):
        return (solutions @ projected[:, :, None])[:, :, 0]


def _shrunk_whitening(rows, shrinkage):
    """Compute the symmetric whitening matrix of a shrunk correlation matrix.

    It is the inverse square root W of (1 - shrinkage) C + shrinkage I, with C the
    correlation matrix of the rows.

    Parameters
    ----------
    rows : ndarray of shape (n, k)
        Columns have mean 0 and variance 1. There may be fewer rows than columns. NaN is
        missing: a correlation is that of the rows that have both columns or, with fewer
        rows than columns, is shrunk by what is missing.
    shrinkage : float
        Share of the identity in the matrix, above 0.

    Returns
    -------
    directions : ndarray of shape (k, r)
        Orthonormal columns that span the rows.
    factors : ndarray of shape (r,)
    diagonal : float
        W is (directions * factors) @ directions.T + diagonal * I.
    mean_distance : float
        The mean squared length of the rows when they are whitened.
    """
    n, k = rows.shape
    observed = ~np.isnan(rows)
    if not observed.all():
        rows = np.where(observed, rows, 0.0)
        if n < k:
            rows *= np.sqrt(n / observed.sum(axis=0).clip(1))
    if n >= k:
        pairs = n if observed.all() else _count_pairs(observed)
        variances, directions = np.linalg.eigh(rows.T @ rows / pairs)
    else:  # the same from the smaller matrix of the rows' products
        variances, directions = np.linalg.eigh(rows @ rows.T / n)
        spans = variances > 1e-12 * variances[-1]
        variances = variances[spans]
        directions = rows.T @ directions[:, spans] / np.sqrt(n * variances)
    variances = np.maximum(variances, 0.0)
    shrunk = (1 - shrinkage) * variances + shrinkage
    diagonal = shrinkage**-0.5
    return (
        directions,
        shrunk**-0.5 - diagonal,
        diagonal,
        np.sum(variances / shrunk),
    )


def _count_pairs(observed):
    observed = observed.astype(float)
    return (observed.T @ observed).clip(1)

"""Error models: how far a row's errors are from those of the training rows.

An autoencoder moves a row towards the training rows. An error model learns what its
moves of training rows look like, and makes of a row's moves one number a column: the
column's contribution to the anomaly score.
"""

from numbers import Integral, Real

import numpy as np
import torch
from torch import nn

from skrepr._engine import matmul
from skrepr._sklearn import Interval
from skrepr.parts import Part

# The least spread of an error, in standard deviations of its column: an error that
# never occurred counts as many times as much, but not infinitely often.
_LEAST_SPREAD = 1e-4


class ErrorModel(Part):
    """Base class of the error models.

    An error model of your own implements `build`.
    """

    def build(self, columns):
        """Build the torch module of the error model.

        Parameters
        ----------
        columns : Columns
            The layout of the matrix.

        Returns
        -------
        torch.nn.Module
            With ``n_reconstructions``, the number of times a row is to be reconstructed
            for it, and two methods on errors, a tensor of shape
            (n, 1 + n_reconstructions, n_columns) that holds a row, the row minus its
            reconstruction, the reconstruction minus the reconstruction of that, ...:

            - ``fit(errors)``: learn from the errors of normal rows, in float64, and
              keep what is learned in buffers, in float32. A module that has nothing to
              learn goes without this method.
            - ``forward(errors)``: the contributions of the columns to the score of a
              row, shape (n, n_columns), not negative. Their sum is minus the score.

            Columns that do not vary have only errors of 0 and contribute 0. In a
            categorical column the row is 0, and the error how far the probabilities of
            the reconstruction are from the level, 1 for the frequencies of the training
            rows in root mean square. Nothing is NaN: what is missing has been filled.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


class MeanSquared(ErrorModel):
    """Mean squared error of the standardised columns.

    All columns count alike, however well they can be reconstructed. The mean is over
    the columns that vary among the training rows, and the contribution of a column its
    share of the mean. Rows that are reconstructed no better than by the means of the
    training rows score -1 on average.

    Examples
    --------
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.error_models import MeanSquared
    >>> AutoencoderTransformer(error_model=MeanSquared())
    AutoencoderTransformer(error_model=MeanSquared())
    """

    def build(self, columns):
        """Build the torch module of the error model."""
        return _MeanSquared(columns)


class Diagonal(ErrorModel):
    """Squared error of every column over its variance among the training rows.

    An error counts by how unusual it is in its column. The contribution of a column is
    its squared standardised error over the number of columns that vary. The training
    rows have the mean score -1 (where errors vanish, a mean nearer to 0).

    Examples
    --------
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.error_models import Diagonal
    >>> AutoencoderTransformer(error_model=Diagonal())
    AutoencoderTransformer(error_model=Diagonal())
    """

    def build(self, columns):
        """Build the torch module of the error model."""
        return _Diagonal(columns)


class Covariance(ErrorModel):
    """Mahalanobis distance of a row together with its errors.

    A row, its error, and the error of reconstructing its reconstruction are taken as
    one vector, whose mean and covariance are those of the training rows (of 10 000
    random ones, or twice as many as the vector is long, if there are more). So an error
    counts by how unusual it is beside the errors of other columns and beside the row
    itself; and a strange row that the network reconstructs all the same is noticed,
    too. The score is minus the squared distance, over its mean among the training rows:
    these have the mean score -1.

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


class _MeanSquared(nn.Module):
    n_reconstructions = 1
    std: torch.Tensor

    def __init__(self, columns):
        super().__init__()
        self.register_buffer("std", _positive_std(columns))
        self.n_varying = max(1, int(columns.varies.sum()))

    def forward(self, errors):
        return (errors[:, 1] / self.std).square() / self.n_varying


class _Diagonal(nn.Module):
    n_reconstructions = 1
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, columns):
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(columns)))
        self.register_buffer("std", _positive_std(columns))
        self.least = _LEAST_SPREAD * self.std
        self.n_varying = max(1, int(columns.varies.sum()))

    def fit(self, errors):
        mean, std = _mean_and_std(errors[:, 1], self.least)
        self.mean, self.std = mean.float(), std.float()

    def forward(self, errors):
        return ((errors[:, 1] - self.mean) / self.std).square() / self.n_varying


class _Covariance(nn.Module):
    mean: torch.Tensor
    std: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    rest: torch.Tensor

    def __init__(self, shrinkage, n_reconstructions, columns):
        super().__init__()
        self.shrinkage = shrinkage
        self.n_reconstructions = n_reconstructions
        std = _positive_std(columns).repeat(1 + n_reconstructions)
        self.register_buffer("mean", torch.zeros_like(std))
        self.register_buffer("std", std)
        self.least = _LEAST_SPREAD * std
        # The whitening matrix is left @ right + rest * identity.
        for name in ("left", "right", "rest"):
            self.register_buffer(name, torch.empty(0))

    def fit(self, errors):
        errors = errors.flatten(1)
        mean, std = _mean_and_std(errors, self.least)
        self.mean, self.std = mean.float(), std.float()
        directions, factors, rest, typical = _shrunk_whitening(
            ((errors - mean) / std).numpy(), self.shrinkage
        )
        left, right = directions * factors, directions.T
        if not 0 < 2 * left.shape[1] <= len(left):  # one product takes less than two
            left, right = left @ right + rest * np.eye(len(left)), right[:0]
            rest = 0.0
        scale = typical**-0.5 if typical > 0 else 1.0
        self.left = torch.tensor(scale * left).float()
        self.right = torch.tensor(right).float()
        self.rest = torch.tensor(scale * rest).float()

    def forward(self, errors):
        standardised = (errors.flatten(1) - self.mean) / self.std
        whitened = matmul(standardised, self.left)
        if len(self.right):
            whitened = matmul(whitened, self.right).add_(self.rest * standardised)
        return whitened.square_().view_as(errors).sum(1)


def _shrunk_whitening(rows, shrinkage):
    """Compute the symmetric whitening matrix of a shrunk correlation matrix.

    It is the inverse square root W of (1 - shrinkage) C + shrinkage I, with C the
    correlation matrix of the rows.

    Parameters
    ----------
    rows : ndarray of shape (n, k)
        Columns have mean 0 and variance 1. There may be fewer rows than columns.
    shrinkage : float
        Share of the identity in the matrix, above 0.

    Returns
    -------
    directions : ndarray of shape (k, r)
        Orthonormal columns that span the rows.
    factors : ndarray of shape (r,)
    rest : float
        W is (directions * factors) @ directions.T + rest * I.
    typical : float
        The mean squared length of the rows when they are whitened.
    """
    n, k = rows.shape
    if n >= k:
        variances, directions = np.linalg.eigh(rows.T @ rows / n)
    else:  # the same from the smaller matrix of the rows' products
        variances, directions = np.linalg.eigh(rows @ rows.T / n)
        spans = variances > 1e-12 * variances[-1]
        variances = variances[spans]
        directions = rows.T @ directions[:, spans] / np.sqrt(n * variances)
    variances = np.maximum(variances, 0.0)
    shrunk = (1 - shrinkage) * variances + shrinkage
    rest = shrinkage**-0.5
    return directions, shrunk**-0.5 - rest, rest, np.sum(variances / shrunk)


def _positive_std(columns):
    """Return the standard deviations of the matrix' columns, 1 where it is 0."""
    return torch.as_tensor(np.where(columns.varies, columns.std, 1.0)).float()


def _mean_and_std(errors, least):
    std = errors.std(0, correction=0)
    return errors.mean(0), torch.maximum(std, least.double())


ErrorModel.names = {
    "mean_squared": MeanSquared,
    "diagonal": Diagonal,
    "covariance": Covariance,
}

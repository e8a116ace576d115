"""Error models that take columns as independent."""

import torch

from skrepr.error_models._base import MIN_SPREAD, ErrorModel, mean_and_std
from skrepr.error_models._holes import AdjustedForHoles, RelativeSums


class MeanSquared(ErrorModel, name="mean_squared"):
    """Mean squared error of the standardised columns.

    All columns count alike, however well they can be reconstructed. The mean is over
    the columns that vary among the training rows, and the contribution of a column its
    share of the mean. Rows that are reconstructed no better than by the means of the
    training rows score -1 on average. In a row with holes the mean over what is
    observed is brought to the distribution that it has without holes.

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


class Diagonal(ErrorModel, name="diagonal"):
    """Squared error of every column over its variance among the training rows.

    An error counts by how unusual it is in its column. The contribution of a column is
    its squared standardised error over the number of columns that vary. The training
    rows have the mean score -1 (where errors vanish, a mean nearer to 0). Rows with
    holes are treated as by :class:`MeanSquared`.

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


class _Independent(AdjustedForHoles):
    """Contributions of columns that are taken as independent."""

    mean_contribution: torch.Tensor
    variance: torch.Tensor

    def __init__(self, columns):
        super().__init__(columns)
        self.n_varying = max(1, int(columns.varies.sum()))
        for name in ("mean_contribution", "variance"):
            self.register_buffer(name, torch.as_tensor(columns.varies).float())

    def fit_holes(self, errors, errors_with_holes):
        contributions = self._contributions(errors)
        observed = ~contributions.isnan()
        counts = observed.sum(0).clamp(min=1)
        self.mean_contribution = contributions.nansum(0) / counts
        deviations = torch.where(observed, contributions - self.mean_contribution, 0.0)
        self.variance = deviations.square().sum(0) / counts
        super().fit_holes(errors, errors_with_holes)

    def _relative_sums(self, errors):
        contributions = self._contributions(errors)
        observed = (~contributions.isnan()).to(contributions.dtype)
        return contributions, RelativeSums.compare(
            contributions.nansum(1),
            (observed @ self.mean_contribution, observed @ self.variance),
            (self.mean_contribution.sum(), self.variance.sum()),
        )

    def _mean_sum(self):
        return self.mean_contribution.sum()


class _MeanSquared(_Independent):
    std: torch.Tensor

    def __init__(self, columns):
        super().__init__(columns)
        self.register_buffer("std", torch.as_tensor(columns.safe_std).float())

    def _contributions(self, errors):
        return (errors[:, 1] / self.std).square() / self.n_varying


class _Diagonal(_Independent):
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, columns):
        super().__init__(columns)
        self.register_buffer("mean", torch.zeros(len(columns)))
        self.register_buffer("std", torch.as_tensor(columns.safe_std).float())
        self.min_std = MIN_SPREAD * self.std

    def fit(self, errors):
        mean, std = mean_and_std(errors[:, 1], self.min_std)
        self.mean, self.std = mean.float(), std.float()

    def _contributions(self, errors):
        return ((errors[:, 1] - self.mean) / self.std).square() / self.n_varying

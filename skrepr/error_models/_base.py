"""What error models share."""

import torch
from torch import nn

from skrepr.parts import Part

# The smallest spread of an error, in standard deviations of its column. An error that
# never occurred in training counts by its multiple of this, and not as infinite.
MIN_SPREAD = 1e-4


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
        ErrorModelModule
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


class ErrorModelModule(nn.Module):
    """Base class of the modules of error models.

    A subclass implements `forward`; `fit` and `fit_holes` do nothing by default.

    The errors of a row are a tensor of shape (1 + n_reconstructions, n_columns): the
    row, the row minus its reconstruction, the reconstruction minus the reconstruction
    of that, ... All of them are NaN in a column that the row lacks, and 0 in columns
    that do not vary. In a categorical column the row is minus the logarithm of the
    level's frequency among the training rows, and the error how far the probabilities
    of the reconstruction are from the level, 1 for the frequencies in root mean square.

    Attributes
    ----------
    n_reconstructions : int
        The number of times a row is to be reconstructed.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.error_models import ErrorModel, ErrorModelModule
    >>> class Absolute(ErrorModel):
    ...     def build(self, columns):
    ...         return AbsoluteModule()
    >>> class AbsoluteModule(ErrorModelModule):
    ...     def forward(self, errors):
    ...         return errors[:, 1].abs().nan_to_num()
    >>> ae = AutoencoderTransformer(error_model=Absolute(), max_iter=2, random_state=0)
    >>> ae.fit(load_wine().data).score_samples(load_wine().data).shape
    (178,)
    """

    n_reconstructions: int = 1

    def fit(self, errors):
        """Learn from the errors of normal rows; keep what is learned in buffers.

        Parameters
        ----------
        errors : torch.Tensor of shape (n, 1 + n_reconstructions, n_columns), float64
        """

    def fit_holes(self, errors, errors_with_holes):
        """Learn, after `fit`, what missing cells do to scores.

        Parameters
        ----------
        errors : torch.Tensor of shape (n, 1 + n_reconstructions, n_columns), float64
            The same as for `fit`.
        errors_with_holes : torch.Tensor of the same kind
            Of some of the rows with random cells hidden. The network knows less of
            these, and may reconstruct what it sees of them better or worse.
        """

    def forward(self, errors):
        """Compute the contributions of the columns to the scores of rows.

        Parameters
        ----------
        errors : torch.Tensor of shape (n, 1 + n_reconstructions, n_columns)

        Returns
        -------
        torch.Tensor of shape (n, n_columns)
            Not negative; their sum is minus the score. Columns that do not vary and
            cells that are missing contribute 0.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward.")


def mean_and_std(errors, min_std):
    """Return mean and standard deviation of every column, without what is missing."""
    observed = ~errors.isnan()
    if observed.all():
        mean, std = errors.mean(0), errors.std(0, correction=0)
    else:
        counts = observed.sum(0).clamp(min=1)
        mean = errors.nansum(0) / counts
        deviations = torch.where(observed, errors - mean, 0.0)
        std = (deviations.square().sum(0) / counts).sqrt()
    return mean, torch.maximum(std, min_std.double())

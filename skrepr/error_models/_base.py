"""What error models share."""

import torch

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
            for it, and methods on errors, a tensor of shape
            (n, 1 + n_reconstructions, n_columns) that holds a row, the row minus its
            reconstruction, the reconstruction minus the reconstruction of that, ... All
            of them are NaN in a column that the row lacks.

            - ``fit(errors)``: learn from the errors of normal rows, in float64, and
              keep what is learned in buffers, in float32. A module that has nothing to
              learn goes without this method.
            - ``forward(errors)``: the contributions of the columns to the score of a
              row, shape (n, n_columns), not negative. Their sum is minus the score.

            Columns that do not vary have only errors of 0 and contribute 0, and so does
            what is missing. In a categorical column the row is minus the logarithm of
            the level's frequency among the training rows, and the error how far the
            probabilities of the reconstruction are from the level, 1 for the
            frequencies in root mean square. A third method is called after ``fit``, if
            there is one:

            - ``fit_holes(errors, thinned)``: learn what missing cells do to scores,
              from the same errors and those of some of the rows with random cells
              hidden, in float64. The network knows less of these, and may reconstruct
              what it sees of them better or worse.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


def _mean_and_std(errors, least):
    """Return those of the columns, of what is not missing."""
    observed = ~errors.isnan()
    if observed.all():
        mean, std = errors.mean(0), errors.std(0, correction=0)
    else:
        counts = observed.sum(0).clamp(min=1)
        mean = errors.nansum(0) / counts
        deviations = torch.where(observed, errors - mean, 0.0)
        std = (deviations.square().sum(0) / counts).sqrt()
    return mean, torch.maximum(std, least.double())

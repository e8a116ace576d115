"""New rows: codes from a latent density, and the training rows' values for theirs."""

import numpy as np
import torch
from torch import nn

from skrepr._quantiles import ranks

_N_KNOTS = 1000  # quantiles of generated columns


class Sampler(nn.Module):
    """What is learned after the training, in order to generate rows.

    The decoder's noise leaves the values that a column has: whole numbers, many zeros,
    a range. So a generated value becomes the value that has its rank among the training
    rows. The order of the rows in every column is kept, and with it what columns have
    to do with each other.

    Parameters
    ----------
    density : torch.nn.Module
        As `LatentDensity.build` returns it.

    Attributes
    ----------
    generated : torch.Tensor of shape (n_knots, n_columns)
        Quantiles of generated rows of the matrix, ascending in every column.
    """

    generated: torch.Tensor

    def __init__(self, density):
        super().__init__()
        self.density = density
        self.register_buffer("generated", torch.empty(0))

    def learn(self, matrix):
        """Learn how generated rows of the matrix, (n, n_columns), are distributed."""
        levels = (np.arange(_N_KNOTS) + 0.5) / _N_KNOTS
        quantiles = np.quantile(matrix, levels, axis=0)
        self.generated = torch.from_numpy(quantiles).float()

    def restore(self, matrix, X, quantiles, rng):
        """Put values of the training rows into generated ones.

        Parameters
        ----------
        matrix : ndarray of shape (n_samples, n_columns)
            The generated rows.
        X : ndarray of shape (n_samples, n_columns)
            The same in the user's units. They are changed.
        quantiles : list of Quantiles or None
            Of the training rows. A column with None stays as it is.
        rng : numpy.random.Generator

        Returns
        -------
        ndarray of shape (n_samples, n_columns)
        """
        knots = self.generated.numpy()
        for j, known in enumerate(quantiles):
            if known is not None:
                X[:, j] = known.at(ranks(matrix[:, j], knots[:, j], rng))
        return X

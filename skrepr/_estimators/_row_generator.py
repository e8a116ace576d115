"""New rows: codes from a latent density, decoded, with the training rows' values."""

import numpy as np
import torch
from torch import nn

from skrepr._columns._quantiles import ranks
from skrepr._training._inference import run

_N_LEARNED_FROM = 10_000  # generated rows whose distribution is learned
_N_KNOTS = 1000  # quantiles of a generated column


class RowGenerator(nn.Module):
    """What is learned after the training, in order to generate rows.

    The decoder's noise leaves the values that a column has: whole numbers, many zeros,
    a range. So a generated value becomes the value that has its rank among the training
    rows. The order of the rows in every column is kept, and with it what columns have
    to do with each other.

    The network, which `fit` and `draw` are given, and what it learned of the columns
    are not part of it.

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

    @classmethod
    def fit(cls, latent_density, codes, network, seed):
        """Learn to generate rows from the codes of training rows.

        Parameters
        ----------
        latent_density : LatentDensity
        codes : ndarray of shape (n_codes, n_components)
        network : DecodingModule
            The trained module of the estimator: on the CPU, float32, in eval mode.
        seed : int

        Returns
        -------
        RowGenerator
        """
        generator = torch.Generator().manual_seed(seed)
        row_generator = cls(latent_density.build(codes.astype(np.float64), seed))
        matrix = row_generator._decode(_N_LEARNED_FROM, network, generator)
        at = (np.arange(_N_KNOTS) + 0.5) * len(matrix) / _N_KNOTS
        quantiles = np.sort(matrix, axis=0)[at.astype(int)]
        row_generator.generated = torch.from_numpy(quantiles).float()
        return row_generator

    def draw(self, n_samples, network, table, generator):
        """Generate rows.

        Parameters
        ----------
        n_samples : int
        network : torch.nn.Module
            As of `fit`.
        table : Table
        generator : torch.Generator
            On the CPU, for every random number.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float64
            In the user's units.
        """
        matrix = self._decode(n_samples, network, generator)
        X = network.likelihood.restore(table.from_matrix(matrix.astype(np.float64)))
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        knots = self.generated.numpy()
        for j in np.flatnonzero(table.varies & ~table.linear).tolist():
            if table.quantiles[j] is not None:
                X[:, j] = table.quantiles[j].at(ranks(matrix[:, j], knots[:, j], rng))
        categorical = np.flatnonzero(~table.schema.numeric & table.varies)
        if len(categorical):
            matrix = table.to_matrix(X, np.float32)
            matrix = run(network, "redraw", matrix, "cpu", generator=generator)
            X[:, categorical] = matrix[:, categorical]
        return X

    def _decode(self, n_samples, network, generator):
        """Draw codes, and for each a row of the matrix."""
        codes = self.density.sample(n_samples, generator).numpy()
        return run(network, "sample", codes, "cpu", generator=generator)

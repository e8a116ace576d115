"""New rows: codes from a latent density, decoded, with the training rows' values."""

import numpy as np
import torch
from torch import nn

from skrepr._columns._quantiles import Quantiles, ranks
from skrepr._training._inference import run
from skrepr._training._outputs import check_tensor
from skrepr._training._threads import one_thread
from skrepr.latent_densities import MAX_CODES

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
    quantiles : list of Quantiles or None
        Distributions of the columns among the training rows, in the user's units; None
        for those of categories.

    Attributes
    ----------
    generated : torch.Tensor of shape (n_knots, n_columns)
        Quantiles of generated rows of the matrix, ascending in every column.
    """

    generated: torch.Tensor

    def __init__(self, density, quantiles):
        super().__init__()
        self.density = density
        self.quantiles = quantiles
        self.register_buffer("generated", torch.empty(0))

    @classmethod
    def fit(cls, latent_density, network, table, rows, seed, device):
        """Learn to generate rows from training rows.

        Parameters
        ----------
        latent_density : LatentDensity
        network : DecodingModule
            The trained module of the estimator: on the CPU, float32, in eval mode.
        table : Table
        rows : ndarray of shape (n_rows, n_features)
            In the user's units.
        seed : int
        device : str
            Where to compute codes.

        Returns
        -------
        RowGenerator
        """
        generator = torch.Generator().manual_seed(seed)
        codes = run(
            network,
            "encode",
            some_rows(rows, MAX_CODES, np.random.default_rng(seed)),
            device,
            to_matrix=table.to_matrix,
        )
        density = latent_density.build(codes.astype(np.float64), seed)
        row_generator = cls(density, _quantiles(table, rows))
        matrix = row_generator._decode(_N_LEARNED_FROM, network, generator)
        at = (np.arange(_N_KNOTS) + 0.5) * len(matrix) / _N_KNOTS
        quantiles = np.sort(matrix, axis=0)[at.astype(int)]
        row_generator.generated = torch.from_numpy(quantiles).float()
        return row_generator

    @one_thread()
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
        rng = np.random.default_rng(
            int(torch.randint(2**62, (), generator=generator, device="cpu"))
        )
        knots = self.generated.numpy()
        ranked = table.schema.numeric & table.varies & ~table.linear
        for j in np.flatnonzero(ranked).tolist():
            X[:, j] = self.quantiles[j].at(ranks(matrix[:, j], knots[:, j], rng))
        categorical = np.flatnonzero(~table.schema.numeric & table.varies)
        if len(categorical):
            matrix = table.to_matrix(X, np.float32)
            matrix = run(network, "redraw", matrix, "cpu", generator=generator)
            X[:, categorical] = matrix[:, categorical]
        return X

    def _decode(self, n_samples, network, generator):
        """Draw codes, and for each a row of the matrix."""
        # Whatever the settings of the user for networks of their own.
        with torch.autocast("cpu", enabled=False), torch.device("cpu"):
            codes = self.density.sample(n_samples, generator)
        check_tensor(codes, (n_samples, network.n_components), self.density, "sample")
        return run(network, "sample", codes.numpy(), "cpu", generator=generator)

    def get_extra_state(self):
        """Return what ``state_dict`` holds besides tensors, values JSON can hold."""
        return [each and each.get_state() for each in self.quantiles]

    def set_extra_state(self, state):
        """Take over what `get_extra_state` returned."""
        self.quantiles = [each and Quantiles.from_state(each) for each in state]


def some_rows(rows, max_rows, rng):
    """Return rows, or so many of them drawn at random if there are more."""
    if len(rows) <= max_rows:
        return rows
    return rows[rng.choice(len(rows), max_rows, replace=False)]


def _quantiles(table, rows):
    """Return the distributions of the numeric columns, None for the others."""
    quantiles = list(table.quantiles)
    for j in np.flatnonzero(table.schema.numeric).tolist():
        if quantiles[j] is None:
            column = rows[:, j]
            low, high = table.low[j], table.high[j]
            observed = column[~np.isnan(column)]
            if not len(observed) or observed.min() > low or observed.max() < high:
                # They are some of the training rows, but the range is that of all.
                column = np.append(column, [low, high])
            quantiles[j] = Quantiles.fit(column)
    return quantiles

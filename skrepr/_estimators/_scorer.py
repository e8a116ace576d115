"""Anomaly scores: what an error model makes of a network's errors in rows."""

import numpy as np
import torch
from torch import nn

from skrepr._columns._table import NEVER_SEEN
from skrepr._estimators._row_generator import some_rows
from skrepr._training._inference import run
from skrepr._training._outputs import check_tensor

_N_FITTED = 10_000  # rows that an error model learns from; or twice its dimension
_N_HOLED = 1000  # rows that holes are made in, to learn what holes do to scores
_N_HOLED_IF_WHOLE = 300  # the same if no training row had holes
_MAX_DIMENSION = 200  # largest one for which holes are made if training had none
_MAX_HOLES = 0.8  # share of a row's cells that are made holes
_MIN_PATTERNS = 16  # of holes
_PATTERN_OPERATIONS = 2**27  # for all patterns; each one inverts a matrix


class ScoringModule(nn.Module):
    """A trained network, and the distribution of its errors.

    They are stored apart: the error model of a wide table is large, and only scores
    need it.
    """

    numeric: torch.Tensor
    surprise: torch.Tensor

    def __init__(self, network, error_model, columns):
        super().__init__()
        self.network = network
        self.error_model = error_model
        self.register_buffer("numeric", torch.from_numpy(columns.numeric))
        self.categorical = np.flatnonzero(columns.categorical & columns.varies)
        shape = len(self.categorical), int(columns.n_levels.max(initial=0))
        surprise = np.zeros(shape)
        frequencies = columns.frequencies
        for values, j in zip(surprise, self.categorical, strict=True):
            shares = frequencies[j]
            smallest = shares[shares > 0].min() / 2  # of a level that is only declared
            values[: len(shares)] = -np.log(np.maximum(shares, smallest))
        self.register_buffer("surprise", torch.from_numpy(surprise).float())

    def errors(self, x):
        """Return x, the error of its reconstruction, the error of that one's, ...

        The shape is (n, 1 + n_reconstructions, n_columns). In the place of the codes of
        categories stands minus the logarithm of how frequent they are. The network
        reads holes that are filled, and their errors are NaN.
        """
        network, holes = self.network, x.isnan()
        row = network.fill(x) if holes.any() else x
        found = [torch.where(self.numeric, row, 0.0)]
        if len(self.categorical):
            codes = row[:, self.categorical].long()
            values = self.surprise.gather(1, codes.T).T
            found[0][:, self.categorical] = values
        for _ in range(self.error_model.n_reconstructions):
            output = network.decoder(network.encode(row))
            error = network.likelihood.residual(row, output)
            found.append(torch.where(network.varies, error, 0.0))
            row = torch.where(network.varies, network.likelihood.mean(output), 0.0)
        errors = torch.stack(found, dim=1)
        return errors.masked_fill_((holes & network.varies)[:, None], torch.nan)

    def contributions(self, x):
        contributions = self.error_model(self.errors(x))
        return check_tensor(contributions, x.shape, self.error_model)


class Scorer:
    """From rows in the user's units to contributions of the features to their scores.

    Parameters
    ----------
    network : AutoencoderModule
        Trained: on the CPU, float32, in eval mode.
    error_model : ErrorModelModule
        Fitted.
    table : Table
    device : str
        Where to evaluate the network.
    """

    def __init__(self, network, error_model, table, device):
        self.module = ScoringModule(network, error_model, table.columns)
        self.table = table
        self.device = device

    @classmethod
    def fit(cls, error_model, network, table, rows, seed, device):
        """Learn the errors of normal rows.

        Parameters
        ----------
        error_model : ErrorModel
        network : AutoencoderModule
            As of the class.
        table : Table
        rows : ndarray of shape (n_rows, n_features)
            Training rows.
        seed : int
        device : str
            As of the class.

        Returns
        -------
        Scorer
        """
        scorer = cls(network, error_model.build(table.columns), table, device)
        scorer._learn(rows, np.random.default_rng(seed))
        return scorer

    def _learn(self, rows, rng):
        model, dimension = self.module.error_model, self._dimension
        rows = some_rows(rows, max(_N_FITTED, 2 * dimension), rng)
        errors = self._errors(rows)
        model.fit(errors)
        # After a training without holes, rows with holes may never come: they are
        # learned of only where it is cheap, else from two rows, which say nothing.
        n_holed = 0
        if self.module.network.has_holes:
            n_holed = _N_HOLED
        elif dimension <= _MAX_DIMENSION:
            n_holed = _N_HOLED_IF_WHOLE
        with_holes = errors[:2]
        if n_holed:
            with_holes = self._errors(_make_holes(rows, dimension, rng, n_holed))
        model.fit_holes(errors, with_holes)

    def contributions(self, rows):
        """Split the scores of rows into contributions of the features.

        Parameters
        ----------
        rows : ndarray of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features), float64
            Not negative.
        """
        contributions = self._run("contributions", rows).astype(np.float64)
        varies = self.table.varies
        contributions[:, ~varies] = 0.0  # up to rounding they are
        contributions[self.table.differs(rows)] = NEVER_SEEN / max(1, varies.sum())
        return contributions

    @property
    def _dimension(self):
        """The number of errors of a row."""
        n_columns = len(self.table.varies)
        return (1 + self.module.error_model.n_reconstructions) * n_columns

    def _errors(self, rows):
        return torch.from_numpy(self._run("errors", rows)).double()

    def _run(self, verb, rows):
        return run(
            self.module,
            verb,
            rows,
            self.device,
            to_matrix=self.table.to_matrix,
            cells_per_row=self._dimension,
        )


def _make_holes(rows, dimension, rng, n_rows):
    """Return some rows with random holes, of no more patterns than are quick."""
    rows = rows[rng.choice(len(rows), n_rows, replace=len(rows) < n_rows)]
    n_quick = _PATTERN_OPERATIONS // dimension**3
    n_patterns = int(np.clip(n_quick, _MIN_PATTERNS, n_rows))
    rates = rng.uniform(0, _MAX_HOLES, size=(n_patterns, 1))
    holes = rng.random((n_patterns, rows.shape[1])) < rates
    rows[holes[np.arange(n_rows) % n_patterns]] = np.nan
    return rows

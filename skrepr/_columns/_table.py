"""The border between the user's columns and the float32 matrix the modules see."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from skrepr._blocks import blocks
from skrepr._columns._quantiles import Quantiles
from skrepr._columns._schema import Schema

# The spread that rounding alone can give to equal values, relative to their size.
_ROUNDING = 10 * np.finfo(np.float64).eps


_FARTHEST = 1e6  # standard deviations from the mean: keeps float32 networks finite


_CACHE_CELLS = 2**16  # in float64 half a megabyte, which the cache of a core holds


@dataclass(frozen=True)
class Columns:
    """What the parts know of the matrix: one entry for every column.

    A cell of a numeric column holds a number, a cell of a categorical column the code
    of its level: 0, 1, ... NaN stands for a missing cell in both.

    Kinds of columns are masks, which combine: ``columns.categorical & columns.varies``.
    They index arrays and Columns alike, and ``np.flatnonzero`` makes positions of them.

    Attributes
    ----------
    center, scale : ndarray of shape (n_columns,), float64
        A value of the matrix times `scale` plus `center` is in the user's units. 0 and
        1 for categorical columns.
    mean, std : ndarray of shape (n_columns,), float64
        Of the training rows, in units of the matrix: 0 and 1 where it is standardised,
        and for categorical columns.
    varies : ndarray of shape (n_columns,), bool
        False where the training rows held a single value. The matrix is 0 there.
    names : list
        The names to use in messages.
    n_levels : ndarray of shape (n_columns,), int
        The number of levels of a categorical column, 0 for a numeric one.
    missing : ndarray of shape (n_columns,), bool
        Whether cells were missing in the training rows.
    frequencies : list of ndarray of shape (n_levels,), float64
        Of the levels of every categorical column among the training rows; empty for a
        numeric one.
    """

    center: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    varies: np.ndarray
    names: list
    n_levels: np.ndarray
    missing: np.ndarray
    frequencies: list

    def __len__(self):
        return len(self.scale)

    def __getitem__(self, index):
        """Return the layout of some of the columns, from a mask or an index array."""
        chosen = np.arange(len(self))[index]
        lists: dict[str, Any] = {
            name: [getattr(self, name)[j] for j in chosen]
            for name in ("names", "frequencies")
        }
        arrays: dict[str, Any] = {
            field.name: getattr(self, field.name)[chosen]
            for field in fields(self)
            if field.name not in lists
        }
        return Columns(**arrays, **lists)

    @property
    def numeric(self):
        """Which columns hold numbers, a mask."""
        return self.n_levels == 0

    @property
    def categorical(self):
        """Which columns hold codes of categories, a mask."""
        return self.n_levels > 0

    @property
    def safe_std(self):
        """The standard deviations to divide by: 1 where a column does not vary."""
        return np.where(self.varies, self.std, 1.0)

    @property
    def units(self):
        """The number of the unit of every cell of a row, int.

        Cells of a unit share their scale, quantiles, noise and likelihood. In a table
        every column is a unit of its own.
        """
        return np.arange(len(self))

    @property
    def is_plain(self):
        """Whether the matrix is all numbers: no categories, no holes in training."""
        return not (self.categorical.any() or self.missing.any())


class Table:
    """Standardise columns in float64, before the cast to float32, and go back.

    Categorical columns hold codes, in X as in the matrix. NaN is missing in both.

    Parameters
    ----------
    schema : Schema
        What the training rows came in, and decoded rows go back to.
    mean, std : ndarray of shape (n_columns,), float64
        Of the training rows, in the user's units. A column that held a single value
        has the standard deviation 0. A categorical one that varied has 0 and 1.
    standardize : bool or "quantile"
        Whether the matrix is standardised or holds the user's own values. With
        "quantile" it holds normal scores of the ranks.
    missing : ndarray of shape (n_columns,), bool
        Whether cells were missing in the training rows.
    frequencies : list of ndarray of shape (n_levels,), float64
        Of the levels of every categorical column; empty for a numeric one.
    quantiles : list of Quantiles or None
        Distributions of the numeric columns, in the user's units; None for categorical
        ones, or for all of them.
    linear : ndarray of shape (n_columns,), bool
        The columns that are standardised even with "quantile".
    """

    def __init__(
        self,
        schema,
        mean,
        std,
        standardize,
        missing,
        frequencies,
        quantiles,
        linear,
    ):
        self.schema = schema
        self.mean = mean
        self.std = std
        self.standardize = standardize
        self.missing = missing
        self.frequencies = frequencies
        self.quantiles = quantiles
        self.linear = linear
        self.varies = std > 0
        numeric = schema.numeric
        scaled = self.varies & numeric if standardize else np.zeros_like(numeric)
        self.center = np.where(numeric & (scaled | ~self.varies), mean, 0.0)
        self.scale = np.where(scaled, std, 1.0)
        mapped = self.varies & numeric & ~linear
        if standardize != "quantile":
            mapped[:] = False
        self.maps = {
            j: quantiles[j].normal_map() for j in np.flatnonzero(mapped).tolist()
        }

    @classmethod
    def fit(cls, X, *, standardize, schema, with_quantiles=False):
        """Learn mean and standard deviation of every column, or the frequencies.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
            As `schema` reads rows: floating point, NaN where a cell is missing.
        standardize : bool or "quantile"
            Whether the matrix is to be centred and scaled to unit variance, or made
            normal by the ranks.
        schema : Schema
            What is known of the user's columns.
        with_quantiles : bool
            Whether to learn the distributions of the numeric columns, even if the
            matrix does not need them.

        Returns
        -------
        Table

        Raises
        ------
        ValueError
            If values are too large to compute with, or if a column holds none.
        """
        names = schema.names or list(range(X.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = X.min(axis=0).astype(float), X.max(axis=0).astype(float)
            missing = np.isnan(low)
            first = X[0].astype(float)
            for j in np.flatnonzero(missing).tolist():
                observed = X[~np.isnan(X[:, j]), j]
                if not len(observed):
                    raise ValueError(
                        f"Column {names[j]!r} holds no value: all of its cells are "
                        "missing. Expected some that are not. Leave the column out."
                    )
                low[j], high[j] = observed.min(), observed.max()
                first[j] = observed[0]
            largest = np.maximum(np.abs(low), np.abs(high))
            mean, std = _mean_and_std(X, missing)
            constant = high - low <= _ROUNDING * largest
        numeric = schema.numeric
        too_large = ~(np.isfinite(mean) & np.isfinite(std))
        if not standardize:
            too_large |= largest > np.sqrt(np.finfo(np.float32).max)
        too_large &= ~constant & numeric
        if too_large.any():
            j = int(np.flatnonzero(too_large)[0])
            raise ValueError(
                f"Column {names[j]!r} holds values up to "
                f"{largest[j]:.1e}, too large to compute with. Expected values below "
                f"{'1e150' if standardize else '1e19, or standardize=True'}. Rescale "
                "the column or take its logarithm."
            )
        mean = np.where(constant, first, np.where(numeric, mean, 0.0))
        std = np.where(constant, 0.0, np.where(numeric, std, 1.0))
        frequencies = [
            _frequencies(X[:, j], n) if n else np.empty(0)
            for j, n in enumerate(schema.n_levels)
        ]
        learned = numeric & (with_quantiles or standardize == "quantile")
        quantiles = [
            Quantiles.fit(X[:, j]) if learned[j] else None for j in range(len(learned))
        ]
        return cls(
            schema,
            mean,
            std,
            standardize,
            missing,
            frequencies,
            quantiles,
            linear=np.zeros(len(learned), bool),
        )

    def with_linear(self, linear):
        """Return a table that standardises the columns of a mask even by "quantile"."""
        return Table(
            self.schema,
            self.mean,
            self.std,
            self.standardize,
            self.missing,
            self.frequencies,
            self.quantiles,
            linear,
        )

    @property
    def columns(self):
        """The layout of the matrix, for the parts."""
        affine = self.schema.numeric  # in the user's units by a factor and a summand
        affine[list(self.maps)] = False
        return Columns(
            center=np.where(affine, self.center, 0.0),
            scale=np.where(affine, self.scale, 1.0),
            mean=np.where(affine, (self.mean - self.center) / self.scale, 0.0),
            std=np.where(affine, self.std / self.scale, 1.0),
            varies=self.varies,
            names=self.schema.names or list(range(len(self.scale))),
            n_levels=self.schema.n_levels,
            missing=self.missing,
            frequencies=self.frequencies,
        )

    def to_matrix(self, X, dtype=None):
        """Map rows in the user's units to the matrix.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
        dtype : numpy dtype, optional
            Of the result; by default X's own.

        Returns
        -------
        ndarray of shape (n_samples, n_columns)
            A fresh array. Columns that did not vary in training are 0. Numbers more
            than a million standard deviations from the mean are brought to that
            distance. What is missing stays NaN.
        """
        matrix = np.empty(X.shape, X.dtype if dtype is None else dtype)
        farthest = np.where(self.schema.numeric, _FARTHEST * self.std, np.inf)
        low = (self.mean - farthest - self.center) / self.scale
        high = (self.mean + farthest - self.center) / self.scale
        constant = np.flatnonzero(~self.varies)
        lowest = low[self.varies].max(initial=-np.inf)
        highest = high[self.varies].min(initial=np.inf)
        for rows in blocks(len(X), X.shape[1], _CACHE_CELLS):
            block = X[rows].astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                block -= self.center
                block /= self.scale
                least, most = block.min(), block.max()
            if not (least >= lowest and most <= highest):  # or there is a NaN
                np.clip(block, low, high, out=block)
            block[:, constant] = np.where(np.isnan(block[:, constant]), np.nan, 0.0)
            for j, map_ in self.maps.items():
                scores = map_.forward(X[rows, j].astype(np.float64))
                block[:, j] = scores.clip(-_FARTHEST, _FARTHEST)
            matrix[rows] = block
        return matrix

    def differs(self, X):
        """Tell where a column that did not vary in training has another value.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
            In the user's units.

        Returns
        -------
        ndarray of shape (n_samples, n_columns), bool
            False where it is missing.
        """
        constant = np.flatnonzero(~self.varies)
        differs = np.zeros(X.shape, bool)
        value = self.mean[constant]
        distance = np.abs(X[:, constant] - value)
        differs[:, constant] = distance > _ROUNDING * np.abs(value)
        return differs

    def from_matrix(self, matrix):
        """Map rows of the matrix back to the user's units.

        Parameters
        ----------
        matrix : ndarray of shape (n_samples, n_columns)

        Returns
        -------
        ndarray of shape (n_samples, n_columns), float64
            Columns that did not vary in training hold their one value.
        """
        X = matrix * self.scale
        X += self.center
        for j, map_ in self.maps.items():
            X[:, j] = map_.inverse(matrix[:, j])
        X[:, ~self.varies] = self.mean[~self.varies]
        return X

    def log_slope(self, X):
        """Compute what normal scores add to the log-densities of cells.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
            In the user's units.

        Returns
        -------
        ndarray of shape (n_samples, n_columns), float64
            Logarithms of the scores' derivatives; 0 where X is missing, and in columns
            without normal scores.
        """
        log_slopes = np.zeros(X.shape)
        for j, map_ in self.maps.items():
            observed = ~np.isnan(X[:, j])
            log_slopes[observed, j] = map_.log_slope(X[observed, j])
        return log_slopes

    def get_state(self):
        """Return the fitted state as values JSON can hold.

        Returns
        -------
        dict
        """
        return {
            "schema": self.schema.get_state(),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "standardize": self.standardize,
            "missing": self.missing.tolist(),
            "frequencies": [shares.tolist() for shares in self.frequencies],
            "quantiles": [known and known.get_state() for known in self.quantiles],
            "linear": self.linear.tolist(),
        }

    @classmethod
    def from_state(cls, state):
        """Rebuild a table from what `get_state` returned.

        Parameters
        ----------
        state : dict

        Returns
        -------
        Table
        """
        return cls(
            Schema.from_state(state["schema"]),
            np.asarray(state["mean"], float),
            np.asarray(state["std"], float),
            state["standardize"],
            np.asarray(state["missing"], bool),
            [np.asarray(shares, float) for shares in state["frequencies"]],
            [known and Quantiles.from_state(known) for known in state["quantiles"]],
            np.asarray(state["linear"], bool),
        )


def shortened(values, n_most=10):
    """Write a list for a message, without what is beyond its first values."""
    shown = ", ".join(map(repr, values[:n_most]))
    return shown if len(values) <= n_most else f"{shown}, ..."


def _mean_and_std(X, missing):
    """Compute mean and standard deviation of every column in float64.

    `missing` tells the columns where some cells are NaN, which do not count.
    """
    some = bool(missing.any())
    slices = blocks(len(X), X.shape[1], _CACHE_CELLS)
    n_observed = len(X) - np.isnan(X).sum(axis=0) if some else len(X)
    total = sum(
        (np.nan_to_num(X[rows]) if some else X[rows]).sum(axis=0, dtype=np.float64)
        for rows in slices
    )
    mean = total / n_observed
    squares, rest = np.zeros_like(mean), np.zeros_like(mean)
    for rows in slices:
        deviations = X[rows].astype(np.float64)
        deviations -= mean
        if some:
            deviations[np.isnan(deviations)] = 0.0
        rest += deviations.sum(axis=0)
        squares += np.einsum("ij,ij->j", deviations, deviations)
    # The second pass also finds what rounding has left in the mean.
    rest /= n_observed
    return mean + rest, np.sqrt(np.maximum(squares / n_observed - rest**2, 0))


def _frequencies(codes, n_levels):
    """Compute the shares of the levels among the codes that are not missing."""
    counts = np.bincount(codes[~np.isnan(codes)].astype(np.intp), minlength=n_levels)
    return counts / counts.sum()

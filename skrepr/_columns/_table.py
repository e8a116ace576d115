"""The border between the user's columns and the float32 matrix the modules see."""

from dataclasses import dataclass, replace

import numpy as np

from skrepr._blocks import blocks
from skrepr._columns._columns import Columns
from skrepr._columns._quantiles import NormalMaps, Quantiles
from skrepr._columns._schema import Schema

NEVER_SEEN = 36.0  # squared error of another value in a column that was constant

# The spread that rounding alone can give to equal values, relative to their size.
ROUNDING = 10 * np.finfo(np.float64).eps

# A cell is brought to at most so many standard deviations from the mean: the squares of
# it and of what networks make of it stay far from the largest float32, 3e38.
MAX_DEVIATIONS = 1e6
_CACHE_CELLS = 2**16  # in float64 half a megabyte, which the cache of a core holds


@dataclass(eq=False)
class Table:
    """Standardise columns in float64, before the cast to float32, and go back.

    Categorical columns hold codes, in X as in the matrix. NaN is missing in both.

    Attributes
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
    counts : list of ndarray of shape (n_levels,), int
        Of the training rows with each level of a categorical column; empty for a
        numeric one.
    low, high : ndarray of shape (n_columns,), float64
        The smallest and the largest value of the training rows, in the user's units.
    quantiles : list of Quantiles or None
        Distributions of the numeric columns, in the user's units, with "quantile"; None
        for the others.
    linear : ndarray of shape (n_columns,), bool
        The columns that are standardised even with "quantile".
    """

    schema: Schema
    mean: np.ndarray
    std: np.ndarray
    standardize: bool | str
    missing: np.ndarray
    counts: list
    low: np.ndarray
    high: np.ndarray
    quantiles: list
    linear: np.ndarray

    def __post_init__(self):
        self.varies = self.std > 0
        numeric = self.schema.numeric
        scaled = numeric & self.varies if self.standardize else np.zeros_like(numeric)
        self.center = np.where(numeric & (scaled | ~self.varies), self.mean, 0.0)
        self.scale = np.where(scaled, self.std, 1.0)
        distance = np.where(numeric, MAX_DEVIATIONS * self.std, np.inf)
        low = (self.mean - distance - self.center) / self.scale
        high = (self.mean + distance - self.center) / self.scale
        self._bounds = low, high
        # What lies between these two is within the bounds of every column.
        self._max_low = low[self.varies].max(initial=-np.inf)
        self._min_high = high[self.varies].min(initial=np.inf)
        self._constant = np.flatnonzero(~self.varies)
        mapped = scaled & ~self.linear
        if self.standardize != "quantile":
            mapped[:] = False
        self.mapped = np.flatnonzero(mapped)
        knots = [self.quantiles[j].normal_knots() for j in self.mapped]
        self.maps = NormalMaps(knots, MAX_DEVIATIONS) if knots else None

    @classmethod
    def fit(cls, X, *, standardize, schema):
        """Learn mean and standard deviation of every column, or count the levels.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
            As `schema` reads rows: floating point, NaN where a cell is missing.
        standardize : bool or "quantile"
            Whether the matrix is to be centred and scaled to unit variance, or made
            normal by the ranks.
        schema : Schema
            What is known of the user's columns.

        Returns
        -------
        Table

        Raises
        ------
        ValueError
            If values are too large to compute with, or if a column holds none.
        """
        names = schema.shown_names
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
            constant = high - low <= ROUNDING * largest
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
        counts = [
            np.bincount(X[~np.isnan(X[:, j]), j].astype(int) if n else [], minlength=n)
            for j, n in enumerate(schema.n_levels)
        ]
        ranked = numeric & (standardize == "quantile")
        quantiles = [
            Quantiles.fit(X[:, j]) if ranked[j] else None for j in range(len(ranked))
        ]
        return cls(
            schema,
            mean,
            std,
            standardize,
            missing,
            counts,
            low,
            high,
            quantiles,
            linear=np.zeros(len(ranked), bool),
        )

    def with_linear(self, linear):
        """Return a table that standardises the columns of a mask even by "quantile"."""
        return replace(self, linear=linear)

    @property
    def columns(self):
        """The layout of the matrix, for the parts."""
        affine = self.schema.numeric  # in the user's units by a factor and a summand
        affine[self.mapped] = False
        return Columns(
            center=np.where(affine, self.center, 0.0),
            scale=np.where(affine, self.scale, 1.0),
            mean=np.where(affine, (self.mean - self.center) / self.scale, 0.0),
            std=np.where(affine, self.std / self.scale, 1.0),
            varies=self.varies,
            names=self.schema.shown_names,
            n_levels=self.schema.n_levels,
            missing=self.missing,
            counts=self.counts,
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
        low, high = self._bounds
        constant = self._constant
        for rows in blocks(len(X), X.shape[1], _CACHE_CELLS):
            block = X[rows].astype(np.float64)
            values = block.take(self.mapped, axis=1)
            with np.errstate(over="ignore", invalid="ignore"):
                block -= self.center
                block /= self.scale
                smallest, largest = block.min(), block.max()
            within = smallest >= self._max_low and largest <= self._min_high
            if not within:  # or there is a NaN
                np.clip(block, low, high, out=block)
            if len(constant):
                block[:, constant] = np.where(np.isnan(block[:, constant]), np.nan, 0.0)
            if self.maps:
                block[:, self.mapped] = self.maps.forward(values)
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
        constant = self._constant
        differs = np.zeros(X.shape, bool)
        value = self.mean[constant]
        distance = np.abs(X[:, constant] - value)
        differs[:, constant] = distance > ROUNDING * np.abs(value)
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
        if self.maps:
            for rows in blocks(len(X), X.shape[1], _CACHE_CELLS):
                scores = matrix[rows].take(self.mapped, axis=1).astype(np.float64)
                X[rows, self.mapped] = self.maps.inverse(scores)
        X[:, self._constant] = self.mean[self._constant]
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
        if self.maps:
            for rows in blocks(len(X), X.shape[1], _CACHE_CELLS):
                values = X[rows].take(self.mapped, axis=1).astype(np.float64)
                of_maps = self.maps.log_slope(values)
                of_maps[np.isnan(values)] = 0.0
                log_slopes[rows, self.mapped] = of_maps
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
            "counts": [counts.tolist() for counts in self.counts],
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "quantiles": [each and each.get_state() for each in self.quantiles],
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
            [np.asarray(counts, int) for counts in state["counts"]],
            np.asarray(state["low"], float),
            np.asarray(state["high"], float),
            [each and Quantiles.from_state(each) for each in state["quantiles"]],
            np.asarray(state["linear"], bool),
        )


def _mean_and_std(X, missing):
    """Compute mean and standard deviation of every column in float64.

    `missing` tells the columns where some cells are NaN, which do not count.
    """
    has_holes = bool(missing.any())
    slices = blocks(len(X), X.shape[1], _CACHE_CELLS)
    n_observed = len(X) - np.isnan(X).sum(axis=0) if has_holes else len(X)
    total = sum(
        (np.nan_to_num(X[rows]) if has_holes else X[rows]).sum(axis=0, dtype=np.float64)
        for rows in slices
    )
    mean = total / n_observed
    squares, rounding = np.zeros_like(mean), np.zeros_like(mean)
    for rows in slices:
        deviations = X[rows].astype(np.float64)
        deviations -= mean
        if has_holes:
            deviations[np.isnan(deviations)] = 0.0
        rounding += deviations.sum(axis=0)
        squares += np.einsum("ij,ij->j", deviations, deviations)
    # The second pass also finds what rounding has left in the mean.
    rounding /= n_observed
    return mean + rounding, np.sqrt(np.maximum(squares / n_observed - rounding**2, 0))

"""The border between the user's columns and the float32 matrix the modules see."""

import math
import sys
from dataclasses import dataclass, fields

import numpy as np

# The spread that rounding alone can give to equal values, relative to their size.
_ROUNDING = 10 * np.finfo(np.float64).eps
_FARTHEST = 1e6  # standard deviations from the mean: keeps float32 networks finite


@dataclass(frozen=True)
class Columns:
    """What the parts know of the matrix: one entry for every column.

    A cell of a numeric column holds a number, a cell of a categorical column the code
    of its level: 0, 1, ... NaN stands for a missing cell in both.

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
        lists = {
            name: [getattr(self, name)[j] for j in chosen]
            for name in ("names", "frequencies")
        }
        arrays = {
            field.name: getattr(self, field.name)[chosen]
            for field in fields(self)
            if field.name not in lists
        }
        return Columns(**arrays, **lists)

    @property
    def is_plain(self):
        """Whether the matrix is all numbers: no categories, no holes in training."""
        return not (self.n_levels.any() or self.missing.any())


class Table:
    """Standardise columns in float64, before the cast to float32, and go back.

    Parameters
    ----------
    mean, std : ndarray of shape (n_columns,), float64
        Of the training rows, in the user's units. A column that held a single value
        has the standard deviation 0.
    standardize : bool
        Whether the matrix is standardised or holds the user's own values.
    container : {"array", "pandas", "polars"}
        What the training rows came in, and decoded rows go back to.
    names : list or None
        Names of the columns; None for an array.
    """

    def __init__(self, mean, std, standardize, container, names):
        self.mean = mean
        self.std = std
        self.standardize = standardize
        self.container = container
        self.names = names
        self.varies = std > 0
        scaled = self.varies if standardize else np.zeros_like(self.varies)
        self.center = np.where(scaled | ~self.varies, mean, 0.0)
        self.scale = np.where(scaled, std, 1.0)

    @classmethod
    def fit(cls, X, *, standardize, original):
        """Learn mean and standard deviation of every column.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
            Checked: floating point and finite.
        standardize : bool
            Whether the matrix is to be centred and scaled to unit variance.
        original : array-like or DataFrame
            What the user passed: it decides on the container of decoded rows.

        Returns
        -------
        Table
        """
        container, names = _container(original)
        low, high = X.min(axis=0).astype(float), X.max(axis=0).astype(float)
        largest = np.maximum(np.abs(low), np.abs(high))
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = _mean_and_std(X)
            constant = high - low <= _ROUNDING * largest
        too_large = ~constant & ~(np.isfinite(mean) & np.isfinite(std))
        if not standardize:
            too_large |= ~constant & (largest > np.sqrt(np.finfo(np.float32).max))
        if too_large.any():
            j = int(np.flatnonzero(too_large)[0])
            raise ValueError(
                f"Column {names[j] if names else j!r} holds values up to "
                f"{largest[j]:.1e}, too large to compute with. Expected values below "
                f"{'1e150' if standardize else '1e19, or standardize=True'}. Rescale "
                "the column or take its logarithm."
            )
        mean = np.where(constant, X[0], mean)
        std = np.where(constant, 0.0, std)
        return cls(mean, std, standardize, container, names)

    @property
    def columns(self):
        """The layout of the matrix, for the parts."""
        names = self.names if self.names else list(range(len(self.scale)))
        return Columns(
            center=self.center,
            scale=self.scale,
            mean=(self.mean - self.center) / self.scale,
            std=self.std / self.scale,
            varies=self.varies,
            names=names,
            n_levels=np.zeros(len(self.scale), int),
            missing=np.zeros(len(self.scale), bool),
            frequencies=[np.empty(0)] * len(self.scale),
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
            A fresh array. Columns that did not vary in training are 0. Values more than
            a million standard deviations from the mean are brought to that distance.
        """
        matrix = np.empty(X.shape, X.dtype if dtype is None else dtype)
        low = (self.mean - _FARTHEST * self.std - self.center) / self.scale
        high = (self.mean + _FARTHEST * self.std - self.center) / self.scale
        constant = np.flatnonzero(~self.varies)
        lowest = low[self.varies].max(initial=-np.inf)
        highest = high[self.varies].min(initial=np.inf)
        for rows in _blocks(X):
            block = X[rows].astype(np.float64)
            with np.errstate(over="ignore"):
                block -= self.center
                block /= self.scale
            if block.min() < lowest or block.max() > highest:
                np.clip(block, low, high, out=block)
            block[:, constant] = 0.0
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
        X[:, ~self.varies] = self.center[~self.varies]
        return X

    def wrap(self, X, like=None):
        """Put decoded rows into the container the training rows came in.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
        like : object, optional
            If it is a pandas object, the rows take its index.

        Returns
        -------
        ndarray, pandas.DataFrame or polars.DataFrame
        """
        if self.container == "pandas":
            import pandas as pd

            return pd.DataFrame(X, columns=self.names, index=_pandas_index(like))
        if self.container == "polars":
            import polars as pl

            return pl.DataFrame(X, schema=self.names, orient="row")
        return X

    def get_state(self):
        """Return the fitted state as values JSON can hold.

        Returns
        -------
        dict
        """
        return {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "standardize": self.standardize,
            "container": self.container,
            "names": self.names,
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
            np.asarray(state["mean"], float),
            np.asarray(state["std"], float),
            state["standardize"],
            state["container"],
            state["names"],
        )


def check_numeric(X, name):
    """Raise if a column of a DataFrame cannot be read as numbers.

    Parameters
    ----------
    X : object
        Anything but a pandas or polars DataFrame is let through.
    name : str
        Of the estimator, for the message.

    Raises
    ------
    ValueError
        If a column holds strings, categories or dates.
    """
    if _is_frame(X, "pandas"):
        from pandas.api.types import is_bool_dtype, is_numeric_dtype, is_object_dtype

        readable = [
            is_numeric_dtype(dtype) or is_bool_dtype(dtype) or is_object_dtype(dtype)
            for dtype in X.dtypes
        ]
    elif _is_frame(X, "polars"):
        others = ("Boolean", "Null", "Object")
        readable = [dtype.is_numeric() or str(dtype) in others for dtype in X.dtypes]
    else:
        return
    for column, dtype, fine in zip(X.columns, X.dtypes, readable, strict=True):
        if not fine:
            raise ValueError(
                f"Column {column!r} has dtype {dtype}, but {name} needs numbers. "
                "Encode strings and categories, for example with OneHotEncoder("
                "sparse_output=False) in a ColumnTransformer; turn dates into numbers, "
                "for example with .astype('int64')."
            )


def central_rows(X, trim):
    """Choose the rows that are nearest to the medians of the columns.

    The distance counts a column in median absolute deviations, which outliers do not
    shape, or in standard deviations where half of its values are equal.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_columns)
    trim : float
        The share of the rows to leave out. Two stay at least, and so do rows as near as
        the last that stays.

    Returns
    -------
    ndarray of shape (n_samples,), bool
    """
    distances = np.zeros(len(X))
    for column in X.T:
        column = column.astype(np.float64)
        if np.ptp(column) <= _ROUNDING * np.abs(column).max():
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # as in Table.fit
            deviations = np.abs(column - np.median(column))
            scale = 1.4826 * np.median(deviations) or column.std()
            if scale > 0:
                distances += np.minimum(deviations / scale, _FARTHEST) ** 2
    n_kept = max(2, math.ceil((1 - trim) * len(X)))
    return distances <= np.partition(distances, n_kept - 1)[n_kept - 1]


def _blocks(X, n_cells=2**16):
    """Cut rows into slices whose float64 intermediates a core's cache can hold."""
    size = max(1, n_cells // X.shape[1])
    return [slice(start, start + size) for start in range(0, len(X), size)]


def _mean_and_std(X):
    """Compute mean and standard deviation of every column in float64."""
    mean = sum(X[rows].sum(axis=0, dtype=np.float64) for rows in _blocks(X)) / len(X)
    squares, rest = np.zeros_like(mean), np.zeros_like(mean)
    for rows in _blocks(X):
        deviations = X[rows].astype(np.float64)
        deviations -= mean
        rest += deviations.sum(axis=0)
        squares += np.einsum("ij,ij->j", deviations, deviations)
    # The second pass also finds what rounding has left in the mean.
    rest /= len(X)
    return mean + rest, np.sqrt(np.maximum(squares / len(X) - rest**2, 0))


def _container(X):
    """Name the container of X and list its columns' names."""
    for library in ("pandas", "polars"):
        if _is_frame(X, library):
            return library, list(X.columns)
    return "array", None


def _pandas_index(like):
    return like.index if _is_frame(like, "pandas") else None


def _is_frame(X, library):
    """Tell whether X is a DataFrame of a library, without importing the library."""
    module = sys.modules.get(library)
    return module is not None and isinstance(X, module.DataFrame)

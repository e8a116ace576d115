"""The border between the user's tables and arrays of numbers: dtypes and categories."""

import math
from dataclasses import asdict

import numpy as np
from sklearn.utils import check_array

from skrepr._columns._adapter import ColumnType
from skrepr._columns._libraries import adapter, name_of

_FLOATS = [np.float64, np.float32]

# Dtypes of pandas with levels that JSON holds as strings, or as pairs of numbers.
_LEVELS_CHANGED_BY_JSON = ("interval", "datetime", "timedelta")


class Schema:
    """How a table is read into an array of numbers, and written back.

    In the array a categorical column holds the codes of its levels, 0, 1, ..., and NaN
    stands for what is missing.

    Parameters
    ----------
    container : {"array", "pandas", "polars"}
    names : list or None
        Names of the columns; None for an array.
    columns : list of ColumnType
    """

    def __init__(self, container, names, columns):
        self.container = container
        self.names = names
        self.columns = columns
        self._codes = {
            j: {level: code for code, level in enumerate(column.levels)}
            for j, column in enumerate(columns)
            if column.levels is not None
        }

    @classmethod
    def fit(cls, X, categorical_features, name):
        """Learn the columns of the training rows.

        Parameters
        ----------
        X : ndarray of numbers of shape (n_samples, n_columns) or DataFrame
        categorical_features : "from_dtype", array-like or None
            Which columns hold categories: by their dtype, as a mask, as positions or as
            names.
        name : str
            Of the estimator, for messages.

        Returns
        -------
        Schema

        Raises
        ------
        ValueError
            If `categorical_features` does not fit X, or if a column that is not
            categorical cannot be read as numbers.
        """
        library = adapter(name_of(X))
        names = library.names(X)
        n_columns = X.shape[1]
        by_dtype = isinstance(categorical_features, str)
        is_chosen = np.zeros(n_columns, bool)
        if categorical_features is not None and not by_dtype:
            is_chosen = _mask(categorical_features, names, n_columns)
        columns = []
        for j, label in enumerate(names or range(n_columns)):
            values, levels = library.column(X, j), None
            if is_chosen[j] or (by_dtype and library.is_categorical(values)):
                levels = _levels(library, values, label)
            else:
                _check_numeric(library, values, label, name)
            columns.append(library.describe(values, levels))
        return cls(library.name, names, columns)

    @property
    def shown_names(self):
        """The names to use in messages: positions, where columns have no names."""
        return self.names or list(range(len(self.columns)))

    @property
    def n_levels(self):
        """The number of levels of every column, 0 for a numeric one."""
        return np.array([len(column.levels or ()) for column in self.columns], int)

    @property
    def numeric(self):
        """Which columns hold numbers and not categories, a mask."""
        return self.n_levels == 0

    @property
    def reads_columns(self):
        """Whether `read` needs the columns as they came, and not as numbers."""
        return self.container != "array" and bool(self._codes)

    def read(self, X, name, **checks):
        """Turn rows into an array of numbers.

        Parameters
        ----------
        X : ndarray of floats of shape (n_samples, n_columns), DataFrame or array-like
            Something else than an array of floats or a DataFrame may only be passed
            if `reads_columns`.
        name : str
            Of the estimator, for messages.
        **checks : dict
            Options of scikit-learn's `check_array`.

        Returns
        -------
        ndarray of shape (n_samples, n_columns)
            Of the floating dtype of an array or of columns that all have it; float64
            where a DataFrame has categories. A level that the training rows did not
            have is NaN, as if it were missing.

        Raises
        ------
        ValueError
            If a numeric column holds something else, if a value is infinite, or if a
            column of strings holds numbers, or the other way round.
        """
        checks = {
            "dtype": _FLOATS,
            "ensure_all_finite": "allow-nan",
            "input_name": "X",
            "estimator": name,
            **checks,
        }
        library = adapter(name_of(X))
        if not self.reads_columns:
            if library.name != "array":
                X = check_array(_numbers(library, X, name), **checks)
            if self._codes:
                X = X.copy()
                for j in self._codes:
                    X[:, j] = self._encode(j, *adapter("array").factorize(X[:, j]))
            return X
        if library.name == "array":
            X = check_array(X, dtype=None, ensure_all_finite=False, input_name="X")
        rows = np.empty((len(X), len(self.columns)))
        for j in self._codes:
            rows[:, j] = self._encode(j, *library.factorize(library.column(X, j)))
        numeric = np.flatnonzero(self.numeric).tolist()
        if numeric:
            numbers = _numbers(library, library.select(X, numeric), name)
            rows[:, numeric] = check_array(numbers, **{**checks, "dtype": np.float64})
        return check_array(rows, **checks)

    def write(self, values, like=None):
        """Turn an array of numbers into a table like that of the training rows.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_columns)
            As `read` returns them.
        like : object, optional
            If it is a pandas object, a pandas table takes its index.

        Returns
        -------
        ndarray, pandas.DataFrame or polars.DataFrame
            Integers are rounded, and what lies outside of their range is brought to its
            end. A numeric column with NaN is of floats where its dtype has no missing
            values.
        """
        library = adapter(self.container)
        return library.make_table(values, self.columns, self.names, like)

    def fill(self, X, values):
        """Put values where cells of a table are missing.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_columns)
            Rows that `read` can read.
        values : ndarray of shape (n_samples, n_columns)
            Numbers, as `read` returns them.

        Returns
        -------
        ndarray, pandas.DataFrame or polars.DataFrame
            A copy of X with the values in the place of what is missing; an array if X
            is no DataFrame. Other cells are as they were, a level that the training
            rows did not have among them. A column with missing cells takes the dtype
            that it had in training, if no cell changes by it.
        """
        library = adapter(name_of(X))
        if library.name == "array":
            X = np.array(X)
            if X.dtype.kind == "O" and not self.reads_columns:
                X = X.astype(np.float64)
        columns = []
        for j, column_type in enumerate(self.columns):
            column = library.column(X, j)
            holes = library.missing(column)
            if holes.any():
                filling = adapter(self.container).make_column(values[:, j], column_type)
                dtype = column_type.dtype
                if self.container != library.name:
                    filling, dtype = np.asarray(filling), None
                column = library.fill(column, holes, filling, dtype)
            columns.append(column)
        return library.replace_columns(X, columns)

    def get_state(self):
        """Return the schema as values JSON can hold.

        Returns
        -------
        dict

        Raises
        ------
        TypeError
            If a level is something that JSON cannot hold.
        """
        columns = [asdict(column) for column in self.columns]
        for column in columns:
            if column["levels"] is not None:
                column["levels"] = [_to_json(level) for level in column["levels"]]
        return {"container": self.container, "names": self.names, "columns": columns}

    @classmethod
    def from_state(cls, state):
        """Rebuild a schema from what `get_state` returned.

        Parameters
        ----------
        state : dict

        Returns
        -------
        Schema
        """
        columns = []
        for column in state["columns"]:
            levels = column["levels"]
            dtype = column["categories"] or column["dtype"] or ""
            if levels is not None and dtype.startswith(_LEVELS_CHANGED_BY_JSON):
                levels = adapter("pandas").levels_from_json(levels, dtype)
            columns.append(ColumnType(**{**column, "levels": levels}))
        names = state["names"] and [
            tuple(name) if isinstance(name, list) else name for name in state["names"]
        ]
        return cls(state["container"], names, columns)

    def _encode(self, j, positions, values):
        """Return the codes of a column of the user, NaN where there is none.

        `positions` and `values` are as an adapter's `factorize` returns them.
        """
        code_of = self._codes[j]
        if values and code_of:
            kinds = [
                {isinstance(level, str) for level in levels}
                for levels in (values, code_of)
            ]
            if kinds[0].isdisjoint(kinds[1]):
                name, known_level = self.shown_names[j], next(iter(code_of))
                raise ValueError(
                    f"Column {name!r} holds values such as {values[0]!r}, but in "
                    f"training it held categories such as {known_level!r}. Expected "
                    "categories of the same type. Convert the column, for example with "
                    ".astype."
                )
        codes = [code_of.get(level, math.nan) for level in values]
        return np.array([*codes, math.nan])[positions]  # -1 is what is missing


def _levels(library, column, label):
    """List the levels of a column, in the order of their codes."""
    values = library.factorize(column)[1]
    if not library.declares_levels(column):
        if any(isinstance(value, float) and math.isinf(value) for value in values):
            raise ValueError(
                f"Column {label!r} contains infinity. Expected categories or finite "
                "numbers. Replace it, for example by NaN."
            )
        try:
            values = sorted(values)
        except TypeError as error:
            kinds = sorted({type(value).__name__ for value in values})
            raise ValueError(
                f"Column {label!r} holds values of several types: "
                f"{', '.join(kinds)}. Expected categories of one type. Convert "
                "them, for example with .astype(str)."
            ) from error
    if not values:
        raise ValueError(
            f"Column {label!r} holds no value: all of its cells are missing. Expected "
            "some that are not. Leave the column out."
        )
    return values


def _numbers(library, table, name):
    """Return a table of numeric columns as something NumPy makes floats of."""
    for j, label in enumerate(library.names(table) or ()):
        _check_numeric(library, library.column(table, j), label, name)
    return library.to_numbers(table)


def _check_numeric(library, column, label, name):
    """Raise if a column cannot be read as numbers."""
    if not library.is_numeric(column):
        raise ValueError(
            f"Column {label!r} has dtype {column.dtype}, but {name} needs numbers, or "
            "strings and categories in columns that are categorical. Turn dates into "
            "numbers, for example into days since a first one, with NaN where one is "
            "missing; let other columns hold values of one type; for categories see "
            "the parameter categorical_features."
        )


def _mask(categorical_features, names, n_columns):
    """Turn a mask, positions or names into a mask."""
    chosen = np.asarray(categorical_features)
    mask = np.zeros(n_columns, bool)
    if chosen.size == 0:
        return mask
    if chosen.ndim != 1 or chosen.dtype.kind not in "biuUO":
        raise ValueError(
            "categorical_features must be 'from_dtype', None, or a list of flags, "
            f"positions or names. Got {categorical_features!r}."
        )
    if chosen.dtype.kind == "b":
        if len(chosen) != n_columns:
            raise ValueError(
                f"categorical_features is a mask of {len(chosen)} flags, but X has "
                f"{n_columns} columns. Expected a flag for every column."
            )
        return chosen
    if chosen.dtype.kind in "iu":
        if chosen.min() < 0 or chosen.max() >= n_columns:
            raise ValueError(
                f"categorical_features holds positions from {chosen.min()} to "
                f"{chosen.max()}, but X has {n_columns} columns. Expected positions "
                f"from 0 to {n_columns - 1}."
            )
        mask[chosen] = True
        return mask
    if names is None:
        raise ValueError(
            "categorical_features holds names, but X is no DataFrame. Expected "
            "positions or a mask. Pass a DataFrame, or positions."
        )
    for wanted in chosen.tolist():
        if wanted not in names:
            raise ValueError(
                f"categorical_features holds {wanted!r}, which is no column of X. "
                f"Expected some of {names}."
            )
        mask[names.index(wanted)] = True
    return mask


def _to_json(level):
    """Return a level as a value JSON can hold."""
    if isinstance(level, str | bool | int | float):
        return level
    if isinstance(level, np.generic):
        return level.item()
    kind = type(level).__name__
    if kind == "Interval":
        return [_to_json(level.left), _to_json(level.right)]
    if kind in ("Timestamp", "Timedelta", "date", "datetime"):
        return str(level)
    raise TypeError(
        f"{level!r} is a category of the type {kind}, which JSON cannot hold. Expected "
        "strings, numbers, flags, times or intervals. Convert the column."
    )

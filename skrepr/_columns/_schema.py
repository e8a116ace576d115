"""The border between the user's tables and arrays of numbers: dtypes and categories."""

import math
import sys
from dataclasses import asdict, dataclass
from importlib import import_module

import numpy as np
from sklearn.utils import check_array

_FLOATS = [np.float64, np.float32]


_ARROW_STRING = "string of Arrow"  # whose own name is that of another dtype


@dataclass(frozen=True)
class _Column:
    """What a column of the training rows came as, and goes back to.

    Attributes
    ----------
    levels : list or None
        Of a categorical column, in the order of their codes; None for a numeric one.
    dtype : str or None
        A name that the library of the table knows; None for an array.
    categories : str or None
        The dtype of the categories of pandas' Categorical.
    ordered : bool
        Whether pandas' Categorical is.
    """

    levels: list | None = None
    dtype: str | None = None
    categories: str | None = None
    ordered: bool = False


class Schema:
    """How a table is read into an array of numbers, and written back.

    In the array a categorical column holds the codes of its levels, 0, 1, ..., and NaN
    stands for what is missing.

    Parameters
    ----------
    container : {"array", "pandas", "polars"}
    names : list or None
        Names of the columns; None for an array.
    columns : list of _Column
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
        container = _library(X) or "array"
        names = None if container == "array" else list(X.columns)
        shown = names or list(range(X.shape[1]))
        by_dtype = isinstance(categorical_features, str)
        chosen = np.zeros(X.shape[1], bool)
        if categorical_features is not None and not by_dtype:
            chosen = _chosen(categorical_features, names, X.shape[1])
        columns = []
        for j, is_chosen in enumerate(chosen):
            values = _column(X, j)
            levels = None
            if is_chosen or (by_dtype and container != "array" and _is_text(values)):
                levels = _levels(values, shown[j])
            elif container != "array":
                _check_numeric(values, shown[j], name)
            columns.append(_DESCRIBE[container](values, levels))
        return cls(container, names, columns)

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
        if not self.reads_columns:
            if _library(X):
                X = check_array(numeric_frame(X, name), **checks)
            if self._codes:
                X = X.copy()
                for j in self._codes:
                    X[:, j] = self._encode(X[:, j], j)
            return X
        if not _library(X):
            X = check_array(X, dtype=None, ensure_all_finite=False, input_name="X")
        numeric = [j for j in range(len(self.columns)) if j not in self._codes]
        rows = np.empty((len(X), len(self.columns)))
        for j in self._codes:
            rows[:, j] = self._encode(_column(X, j), j)
        if numeric:
            some = numeric_frame(_columns(X, numeric), name)
            rows[:, numeric] = check_array(some, **{**checks, "dtype": np.float64})
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
        if self.container == "array":
            if self._codes:
                values = values.copy()
                for j in self._codes:
                    values[:, j] = self._written(values, j)
            return values
        if self.container == "polars":
            pl = _imported("polars")
            columns = range(len(self.columns))
            return pl.DataFrame([self._written(values, j) for j in columns])
        pd = _imported("pandas")
        index = like.index if _is_frame(like, "pandas") else None
        dtypes = {column.dtype for column in self.columns}
        if not self._codes and dtypes <= {"float64"}:
            return pd.DataFrame(values.astype(float), columns=self.names, index=index)
        frame = pd.DataFrame(
            {j: self._written(values, j) for j in range(len(self.columns))}
        )
        frame.columns = self.names
        if index is not None:
            frame.index = index
        return frame

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
        library = _library(X)
        if library is None:
            X = np.array(X)
            if X.dtype.kind == "O" and not self.reads_columns:
                X = X.astype(np.float64)
        columns = []
        for j, own in enumerate(self.columns):
            column = _column(X, j)
            holes = _missing(column)
            if holes.any():
                written = self._written(values, j)
                dtype = own.dtype
                if self.container != (library or "array"):
                    written, dtype = np.asarray(written), None
                column = _FILL[library or "array"](column, holes, written, dtype)
            columns.append(column)
        if library == "pandas":
            import pandas as pd

            frame = pd.DataFrame(dict(enumerate(columns)), index=X.index)
            frame.columns = X.columns
            return frame
        if library == "polars":
            import polars as pl

            return pl.DataFrame(columns)
        return np.column_stack(columns)

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
            if levels is not None:
                levels = _from_json(levels, column["categories"] or column["dtype"])
            columns.append(_Column(**{**column, "levels": levels}))
        names = state["names"] and [
            tuple(name) if isinstance(name, list) else name for name in state["names"]
        ]
        return cls(state["container"], names, columns)

    def _encode(self, values, j):
        """Return the codes of a column of the user, NaN where there is none."""
        positions, uniques = _factorize(values)
        known = self._codes[j]
        if uniques and known:
            kinds = [
                {isinstance(level, str) for level in some} for some in (uniques, known)
            ]
            if kinds[0].isdisjoint(kinds[1]):
                shown = j if self.names is None else self.names[j]
                raise ValueError(
                    f"Column {shown!r} holds values such as {uniques[0]!r}, "
                    "but in training it held categories such as "
                    f"{next(iter(known))!r}. Expected categories of the same type. "
                    "Convert the column, for example with .astype."
                )
        codes = np.array([known.get(level, math.nan) for level in uniques] + [math.nan])
        return codes[positions]  # of what is missing it is -1

    def _positions(self, codes, j):
        """Return codes as integers, -1 where they are NaN."""
        missing = np.isnan(codes)
        most = len(self.columns[j].levels) - 1
        whole = np.rint(np.where(missing, 0, codes)).clip(0, most).astype(np.int64)
        return np.where(missing, -1, whole)

    def _written(self, values, j):
        """Return a column in the user's dtype: a Series, or an array."""
        column = self.columns[j]
        positions = None
        if column.levels is not None:
            positions = self._positions(values[:, j], j)
        if self.container == "pandas":
            return _pandas_series(values[:, j], positions, column)
        if self.container == "polars":
            return _polars_series(values[:, j], positions, column).alias(self.names[j])
        if positions is None:
            return values[:, j]
        return np.array([*column.levels, math.nan], values.dtype)[positions]


def is_frame(X):
    """Tell whether X is a DataFrame of pandas or polars.

    Parameters
    ----------
    X : object

    Returns
    -------
    bool
    """
    return _library(X) is not None


def numeric_frame(X, name):
    """Bring a DataFrame of numbers into a form that converts to an array of floats.

    Parameters
    ----------
    X : object
        Anything but a pandas or polars DataFrame is returned as it is.
    name : str
        Of the estimator, for messages.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If a column holds strings, categories or dates.
    """
    library = _library(X)
    if library is None:
        return X
    for column, j in zip(X.columns, range(X.shape[1]), strict=True):
        _check_numeric(_column(X, j), column, name)
    if library == "pandas" and any(dtype.kind == "O" for dtype in X.dtypes):
        values = X.to_numpy(object, copy=True)
        values[X.isna().to_numpy()] = math.nan  # pandas' NA is no float
        return values
    return X


def _library(X):
    """Name the library X is a DataFrame of; None for anything else."""
    for library in ("pandas", "polars"):
        if _is_frame(X, library):
            return library
    return None


def _is_frame(X, library):
    """Tell whether X is a DataFrame of a library, without importing the library."""
    module = sys.modules.get(library)
    return module is not None and isinstance(X, module.DataFrame)


def _imported(library):
    """Import the library of the training rows, which a stored model may lack."""
    try:
        return import_module(library)
    except ImportError as error:
        raise ImportError(
            f"The model was fitted on a DataFrame of {library}, and what it returns is "
            f"one too, but {library} is not installed. Install it with pip install "
            f"{library}."
        ) from error


# Columns of any container: an array, or a Series of pandas or polars.


def _column(X, j):
    """Return a column of a DataFrame, by its position, or of an array."""
    if _is_frame(X, "pandas"):
        return X.iloc[:, j]
    return X.to_series(j) if _is_frame(X, "polars") else X[:, j]


def _columns(X, positions):
    """Return some columns of a DataFrame, by their positions, or of an array."""
    return X.iloc[:, positions] if _is_frame(X, "pandas") else X[:, positions]


def _is_series(column, library):
    module = sys.modules.get(library)
    return module is not None and isinstance(column, module.Series)


def _missing(column):
    """Tell where a column of the user holds nothing."""
    if _is_series(column, "polars"):
        missing = column.is_null()
        if column.dtype.is_float():
            missing |= column.is_nan().fill_null(True)
        return missing.to_numpy()
    if _is_series(column, "pandas"):
        return column.isna().to_numpy()
    if column.dtype.kind == "f":
        return np.isnan(column)
    if column.dtype == object:
        return np.array([is_missing(value) for value in column], bool)
    return np.zeros(len(column), bool)


def is_missing(value):
    """Tell whether a value stands for a missing one: None, NaN, NaT, pandas' NA.

    Parameters
    ----------
    value : object

    Returns
    -------
    bool
    """
    if value is None:
        return True
    differs = value != value  # true of NaN and NaT; NA of NA
    return not isinstance(differs, bool | np.bool_) or bool(differs)


def _factorize(column):
    """Return the number of the value of every row, and the values.

    What is missing has the number -1.
    """
    if _is_series(column, "pandas"):
        import pandas as pd

        if isinstance(column.dtype, pd.CategoricalDtype):
            return column.cat.codes.to_numpy(), column.cat.categories.tolist()
        numbers, values = pd.factorize(column)
        return numbers, values.tolist()
    if _is_series(column, "polars"):
        import polars as pl

        if column.dtype == pl.Enum:
            numbers = column.to_physical().cast(pl.Int64).fill_null(-1)
            return numbers.to_numpy(), column.dtype.categories.to_list()
        if column.dtype == pl.Categorical:
            column = column.cast(pl.String)
        if column.dtype != pl.Object:
            if column.dtype.is_float():
                column = column.fill_nan(None)
            numbers = column.rank("dense").cast(pl.Int64).fill_null(0) - 1
            return numbers.to_numpy(), column.drop_nulls().unique().sort().to_list()
        column = np.array(column.to_list(), object)
    if column.dtype != object:
        missing = _missing(column)
        values, inverse = np.unique(column[~missing], return_inverse=True)
        numbers = np.full(len(column), -1)
        numbers[~missing] = inverse
        return numbers, values.tolist()
    known: dict = {}
    missing = _missing(column)
    numbers = [
        -1 if lacks else known.setdefault(value, len(known))
        for value, lacks in zip(column, missing, strict=True)
    ]
    return np.array(numbers, int), list(known)


def _levels(column, shown):
    """List the levels of a column, in the order of their codes."""
    values = _factorize(column)[1]
    if not _is_declared(column):
        if any(isinstance(value, float) and math.isinf(value) for value in values):
            raise ValueError(
                f"Column {shown!r} contains infinity. Expected categories or finite "
                "numbers. Replace it, for example by NaN."
            )
        try:
            values = sorted(values)
        except TypeError as error:
            kinds = sorted({type(value).__name__ for value in values})
            raise ValueError(
                f"Column {shown!r} holds values of several types: "
                f"{', '.join(kinds)}. Expected categories of one type. Convert "
                "them, for example with .astype(str)."
            ) from error
    if not values:
        raise ValueError(
            f"Column {shown!r} holds no value: all of its cells are missing. Expected "
            "some that are not. Leave the column out."
        )
    return values


def _is_declared(column):
    """Tell whether the dtype of a column lists its categories."""
    if _is_series(column, "pandas"):
        return hasattr(column, "cat")
    return _is_series(column, "polars") and type(column.dtype).__name__ == "Enum"


def _is_text(column):
    """Tell whether a column of a DataFrame holds categories, strings or flags."""
    if _is_series(column, "polars"):
        texts = ("Boolean", "Categorical", "Enum", "String")
        return type(column.dtype).__name__ in texts
    from pandas import CategoricalDtype
    from pandas.api.types import is_bool_dtype, is_object_dtype, is_string_dtype

    dtype = column.dtype
    if is_object_dtype(dtype):
        kinds = {type(value) for value in column.dropna()}
        flags = kinds <= {bool, np.bool_}
        return bool(kinds) and (flags or all(issubclass(k, str) for k in kinds))
    return (
        isinstance(dtype, CategoricalDtype)
        or is_bool_dtype(dtype)
        or is_string_dtype(dtype)
    )


def _check_numeric(column, shown, name):
    """Raise if a column of a DataFrame cannot be read as numbers."""
    dtype = column.dtype
    if _is_series(column, "polars"):
        others = ("Boolean", "Null", "Object")
        readable = dtype.is_numeric() or str(dtype) in others
    else:
        from pandas.api.types import is_bool_dtype, is_numeric_dtype, is_object_dtype

        readable = (
            is_numeric_dtype(dtype) or is_bool_dtype(dtype) or is_object_dtype(dtype)
        )
    if not readable:
        raise ValueError(
            f"Column {shown!r} has dtype {dtype}, but {name} needs numbers, or strings "
            "and categories in columns that are categorical. Turn dates into numbers, "
            "for example into days since a first one, with NaN where one is missing; "
            "for categories see the parameter categorical_features."
        )


def _chosen(categorical_features, names, n_columns):
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


# Dtypes of the libraries, by names that they know.


def _describe_array(values, levels):
    return _Column(levels)


def _describe_pandas(values, levels):
    from pandas import CategoricalDtype

    dtype = values.dtype
    if isinstance(dtype, CategoricalDtype):
        categories = _pandas_name(dtype.categories.dtype, "object")
        return _Column(levels, "category", categories, bool(dtype.ordered))
    otherwise = "float64" if levels is None else "object"
    if dtype.kind == "O" and levels is None:
        return _Column(levels, otherwise)
    return _Column(levels, _pandas_name(dtype, otherwise))


def _pandas_name(dtype, otherwise):
    """Return a name that stands for a dtype of pandas, or another if none does."""
    storage = getattr(dtype, "storage", "")
    for name in (str(dtype), f"{dtype}[{storage}]", _ARROW_STRING):
        try:
            if _pandas_dtype(name) == dtype:
                return name
        except (TypeError, NotImplementedError, ImportError):  # no such name
            continue
    return otherwise


def _pandas_dtype(name):
    import pandas as pd

    if name == _ARROW_STRING:
        import pyarrow as pa

        return pd.ArrowDtype(pa.string())
    return pd.api.types.pandas_dtype(name)


def _describe_polars(values, levels):
    name = type(values.dtype).__name__
    as_numbers = name in ("Float32", "Float64", "Boolean") or _is_whole(name)
    if levels is None and not as_numbers:
        name = "Float64"
    return _Column(levels, name)


def _is_whole(name):
    """Tell whether NumPy has an integer dtype of this name."""
    try:
        return np.dtype(name.lower()).kind in "iu"
    except TypeError:
        return False


def _pandas_series(values, positions, column):
    """Make a Series of numbers, or of the positions of levels."""
    pd = _imported("pandas")
    if column.dtype == "category":
        assert column.levels is not None
        levels = pd.Index(column.levels, dtype=column.categories, tupleize_cols=False)
        dtype = pd.CategoricalDtype(levels, column.ordered)
        return pd.Series(pd.Categorical.from_codes(positions, dtype=dtype))
    dtype = _pandas_dtype(column.dtype)
    if positions is not None:
        levels = np.empty(len(column.levels), object)
        levels[:] = column.levels
        missing = positions < 0
        series = pd.Series(levels[positions]).astype(dtype)
    else:
        missing = np.isnan(values)
        kind = getattr(dtype, "numpy_dtype", dtype)
        series = pd.Series(_rounded(np.where(missing, 0, values), kind)).astype(dtype)
    return series.where(~missing) if missing.any() else series


def _polars_series(values, positions, column):
    """Make a Series of numbers, or of the positions of levels."""
    pl = _imported("polars")
    dtype = getattr(pl, column.dtype)
    if positions is not None:
        if column.dtype == "Enum":
            dtype = pl.Enum(column.levels)
        order = pl.Series(positions)
        order = order.to_frame("").select(pl.when(pl.col("") >= 0).then(pl.col("")))
        return pl.Series(column.levels, dtype=dtype).gather(order.to_series())
    missing = np.isnan(values)
    kind = np.dtype("bool" if column.dtype == "Boolean" else column.dtype.lower())
    series = pl.Series(_rounded(np.where(missing, 0, values), kind))
    if missing.any():
        frame = pl.DataFrame({"values": series, "missing": missing})
        series = frame.select(pl.when(~pl.col("missing")).then("values")).to_series()
    return series


def _rounded(values, dtype):
    """Bring numbers to the nearest ones that a dtype of NumPy holds."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return values >= 0.5
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = float(limits.min), float(limits.max)
        if high > limits.max:  # rounded up
            high = np.nextafter(high, 0)
        return np.rint(values.astype(float)).clip(low, high).astype(dtype)
    largest = np.finfo(dtype).max
    return values.clip(-largest, largest).astype(dtype)


# Cells that are missing.


def _fill_array(column, holes, written, dtype):
    filled = column.copy()
    filled[holes] = np.asarray(written)[holes]
    return filled


def _fill_pandas(column, holes, written, dtype):
    import pandas as pd

    written = pd.Series(written).set_axis(column.index)
    if holes.all():
        return written
    if isinstance(column.dtype, pd.CategoricalDtype):
        new = pd.Index(written[holes].unique()).difference(column.cat.categories)
        column = column.cat.add_categories(new.tolist())
    filled = column.copy()
    filled[holes] = written[holes].astype(column.dtype).array
    if dtype is None or dtype == "category":
        return filled
    try:
        own = filled.astype(_pandas_dtype(dtype))
        return own if bool((own == filled).all()) else filled
    except (TypeError, ValueError, OverflowError):  # not all cells fit
        return filled


def _fill_polars(column, holes, written, dtype):
    import polars as pl

    if not isinstance(written, pl.Series):
        written = pl.Series(column.name, written)
    if holes.all():
        return written.alias(column.name)
    if column.dtype == pl.Enum and written.dtype != column.dtype:
        column = column.cast(pl.String)
        written = written.cast(pl.String)
    elif column.dtype != written.dtype:
        written = written.cast(column.dtype)
    frame = pl.DataFrame({"x": column, "holes": holes, "new": written})
    choice = pl.when("holes").then("new").otherwise("x")
    filled = frame.select(choice).to_series().alias(column.name)
    own = None if dtype is None or dtype == "Enum" else getattr(pl, dtype)
    if own is None or filled.dtype == own:
        return filled
    cast = filled.cast(own, strict=False)
    same = cast.null_count() == 0 and bool((cast.cast(filled.dtype) == filled).all())
    return cast if same else filled


# Levels in JSON.


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


def _from_json(levels, dtype):
    """Return levels of a dtype of pandas or polars from what `_to_json` returned."""
    if dtype is None or not dtype.startswith(("interval", "datetime", "timedelta")):
        return list(levels)
    import pandas as pd

    if dtype.startswith("interval"):
        dtype = pd.api.types.pandas_dtype(dtype)
        sides = zip(*levels, strict=True)
        ends = [pd.Index(side, dtype=dtype.subtype) for side in sides]
        return pd.IntervalIndex.from_arrays(*ends, closed=dtype.closed).tolist()
    return pd.Index(pd.Series(levels).astype(dtype)).tolist()


_DESCRIBE = {
    "array": _describe_array,
    "pandas": _describe_pandas,
    "polars": _describe_polars,
}


_FILL = {"array": _fill_array, "pandas": _fill_pandas, "polars": _fill_polars}

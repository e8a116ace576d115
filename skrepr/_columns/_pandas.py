"""Tables that are DataFrames of pandas. Imported only where there is one."""

import math

import numpy as np
import pandas as pd
from pandas.api.types import (
    is_bool_dtype,
    is_numeric_dtype,
    is_object_dtype,
    is_string_dtype,
)

from skrepr._columns._adapter import Adapter, ColumnType, level_positions, rounded

_ARROW_STRING = "string of Arrow"  # whose own name is that of another dtype


class PandasAdapter(Adapter):
    """DataFrame and Series of pandas, with dtypes of NumPy, pandas and Arrow."""

    name = "pandas"

    def names(self, table):
        return list(table.columns)

    def column(self, table, position):
        return table.iloc[:, position]

    def select(self, table, positions):
        return table.iloc[:, positions]

    def to_numbers(self, table):
        if not any(dtype.kind == "O" for dtype in table.dtypes):
            return table
        values = table.to_numpy(object, copy=True)
        values[table.isna().to_numpy()] = math.nan  # pandas' NA is no float
        return values

    def is_numeric(self, column):
        dtype = column.dtype
        if is_object_dtype(dtype):
            return all(map(_is_number, column.dropna()))
        return is_numeric_dtype(dtype) or is_bool_dtype(dtype)

    def is_categorical(self, column):
        dtype = column.dtype
        if is_object_dtype(dtype):
            kinds = {type(value) for value in column.dropna()}
            flags = kinds <= {bool, np.bool_}
            return bool(kinds) and (flags or all(issubclass(k, str) for k in kinds))
        return (
            isinstance(dtype, pd.CategoricalDtype)
            or is_bool_dtype(dtype)
            or is_string_dtype(dtype)
        )

    def declares_levels(self, column):
        return isinstance(column.dtype, pd.CategoricalDtype)

    def missing(self, column):
        return column.isna().to_numpy()

    def factorize(self, column):
        if self.declares_levels(column):
            return column.cat.codes.to_numpy(), column.cat.categories.tolist()
        positions, values = pd.factorize(column)
        return positions, values.tolist()

    def describe(self, column, levels):
        dtype = column.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            categories = _name(dtype.categories.dtype, "object")
            return ColumnType(levels, "category", categories, bool(dtype.ordered))
        otherwise = "float64" if levels is None else "object"
        if dtype.kind == "O" and levels is None:
            return ColumnType(levels, otherwise)
        return ColumnType(levels, _name(dtype, otherwise))

    def make_column(self, values, column_type):
        levels = column_type.levels
        if levels is None:
            return _numeric_series(values, _dtype(column_type.dtype))
        positions = level_positions(values, len(levels))
        if column_type.dtype == "category":
            index = pd.Index(levels, dtype=column_type.categories, tupleize_cols=False)
            dtype = pd.CategoricalDtype(index, column_type.ordered)
            return pd.Series(pd.Categorical.from_codes(positions, dtype=dtype))
        objects = np.empty(len(levels), object)
        objects[:] = levels
        series = pd.Series(objects[positions]).astype(_dtype(column_type.dtype))
        return _without(series, positions < 0)

    def make_table(self, values, column_types, names, like=None):
        index = like.index if isinstance(like, pd.DataFrame) else None
        if all(t.levels is None and t.dtype == "float64" for t in column_types):
            return pd.DataFrame(values.astype(float), columns=names, index=index)
        columns = [
            self.make_column(values[:, j], column_type)
            for j, column_type in enumerate(column_types)
        ]
        table = pd.DataFrame(dict(enumerate(columns)))  # a name may occur twice
        table.columns = names
        if index is not None:
            table.index = index
        return table

    def fill(self, column, holes, filling, dtype):
        filling = pd.Series(filling).set_axis(column.index)
        if holes.all():
            return filling
        if self.declares_levels(column):
            new = pd.Index(filling[holes].unique()).difference(column.cat.categories)
            column = column.cat.add_categories(new.tolist())
        filled = column.copy()
        filled[holes] = filling[holes].astype(column.dtype).array
        if dtype is None or dtype == "category":
            return filled
        try:
            cast = filled.astype(_dtype(dtype))
            return cast if bool((cast == filled).all()) else filled
        except (TypeError, ValueError, OverflowError):  # not all cells fit
            return filled

    def replace_columns(self, table, columns):
        replaced = pd.DataFrame(dict(enumerate(columns)), index=table.index)
        replaced.columns = table.columns
        return replaced

    def levels_from_json(self, levels, dtype):
        if not dtype.startswith("interval"):
            return pd.Index(pd.Series(levels).astype(dtype)).tolist()
        interval = pd.api.types.pandas_dtype(dtype)
        sides = zip(*levels, strict=True)
        ends = [pd.Index(side, dtype=interval.subtype) for side in sides]
        return pd.IntervalIndex.from_arrays(*ends, closed=interval.closed).tolist()


def _name(dtype, otherwise):
    """Return a name that stands for a dtype, or another if none does."""
    storage = getattr(dtype, "storage", "")
    for name in (str(dtype), f"{dtype}[{storage}]", _ARROW_STRING):
        try:
            if _dtype(name) == dtype:
                return name
        except (TypeError, NotImplementedError, ImportError):  # no such name
            continue
    return otherwise


def _dtype(name):
    """Return the dtype that a name stands for."""
    if name == _ARROW_STRING:
        import pyarrow as pa

        return pd.ArrowDtype(pa.string())
    return pd.api.types.pandas_dtype(name)


def _is_number(value):
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _numeric_series(values, dtype):
    missing = np.isnan(values)
    of_numpy = getattr(dtype, "numpy_dtype", dtype)
    whole = rounded(np.where(missing, 0, values), of_numpy)
    return _without(pd.Series(whole).astype(dtype), missing)


def _without(series, missing):
    """Return a Series without what is missing; of floats, if its dtype needs it."""
    return series.where(~missing) if missing.any() else series

"""Tables that are DataFrames of polars. Imported only where there is one."""

import numpy as np
import polars as pl

from skrepr._columns._adapter import Adapter, ColumnType, level_positions, rounded
from skrepr._columns._arrays import ArrayAdapter


class PolarsAdapter(Adapter):
    """DataFrame and Series of polars."""

    name = "polars"

    def names(self, table):
        return list(table.columns)

    def column(self, table, position):
        return table.to_series(position)

    def select(self, table, positions):
        return table[:, positions]

    def to_numbers(self, table):
        return table

    def is_numeric(self, column):
        dtype = column.dtype
        return dtype.is_numeric() or dtype in (pl.Boolean, pl.Null, pl.Object)

    def is_categorical(self, column):
        return column.dtype in (pl.Boolean, pl.Categorical, pl.Enum, pl.String)

    def declares_levels(self, column):
        return column.dtype == pl.Enum

    def missing(self, column):
        missing = column.is_null()
        if column.dtype.is_float():
            missing |= column.is_nan().fill_null(True)
        return missing.to_numpy()

    def factorize(self, column):
        if self.declares_levels(column):
            positions = column.to_physical().cast(pl.Int64).fill_null(-1)
            return positions.to_numpy(), column.dtype.categories.to_list()
        if column.dtype == pl.Object:
            return ArrayAdapter().factorize(np.array(column.to_list(), object))
        if column.dtype == pl.Categorical:
            column = column.cast(pl.String)
        if column.dtype.is_float():
            column = column.fill_nan(None)
        positions = column.rank("dense").cast(pl.Int64).fill_null(0) - 1
        return positions.to_numpy(), column.drop_nulls().unique().sort().to_list()

    def describe(self, column, levels):
        name = type(column.dtype).__name__
        holds_numbers = name in ("Float32", "Float64", "Boolean") or _is_whole(name)
        if levels is None and not holds_numbers:
            name = "Float64"
        return ColumnType(levels, name)

    def make_column(self, values, column_type):
        levels, name = column_type.levels, column_type.dtype
        if levels is None:
            return _numeric_series(values, name)
        dtype = pl.Enum(levels) if name == "Enum" else getattr(pl, name)
        positions = pl.Series(level_positions(values, len(levels)))
        chosen = _without(positions, positions < 0)
        return pl.Series(levels, dtype=dtype).gather(chosen)

    def make_table(self, values, column_types, names, like=None):
        return pl.DataFrame(
            [
                self.make_column(values[:, j], column_type).alias(names[j])
                for j, column_type in enumerate(column_types)
            ]
        )

    def fill(self, column, holes, filling, dtype):
        if not isinstance(filling, pl.Series):
            filling = pl.Series(column.name, filling)
        if holes.all():
            return filling.alias(column.name)
        if column.dtype == pl.Enum and filling.dtype != column.dtype:
            column = column.cast(pl.String)
            filling = filling.cast(pl.String)
        elif column.dtype != filling.dtype:
            filling = filling.cast(column.dtype)
        table = pl.DataFrame({"x": column, "holes": holes, "filling": filling})
        choice = pl.when("holes").then("filling").otherwise("x")
        filled = table.select(choice).to_series().alias(column.name)
        wanted = None if dtype is None or dtype == "Enum" else getattr(pl, dtype)
        if wanted is None or filled.dtype == wanted:
            return filled
        cast = filled.cast(wanted, strict=False)
        back = cast.cast(filled.dtype)
        return cast if cast.null_count() == 0 and (back == filled).all() else filled

    def replace_columns(self, table, columns):
        return pl.DataFrame(columns)


def _is_whole(name):
    """Tell whether NumPy has an integer dtype of this name."""
    try:
        return np.dtype(name.lower()).kind in "iu"
    except TypeError:
        return False


def _numeric_series(values, name):
    missing = np.isnan(values)
    of_numpy = np.dtype("bool" if name == "Boolean" else name.lower())
    series = pl.Series(rounded(np.where(missing, 0, values), of_numpy))
    return _without(series, pl.Series(missing)) if missing.any() else series


def _without(series, missing):
    """Return a Series with nothing where a Series of flags says so."""
    table = pl.DataFrame({"values": series, "missing": missing})
    return table.select(pl.when(~pl.col("missing")).then("values")).to_series()

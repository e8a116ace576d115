"""Tables that are arrays of NumPy."""

import math

import numpy as np

from skrepr._columns._adapter import Adapter, ColumnType, level_positions
from skrepr._columns._missing import is_missing


class ArrayAdapter(Adapter):
    """An array of numbers, or of objects. Its columns have no names and one dtype."""

    name = "array"

    def names(self, table):
        return None

    def column(self, table, position):
        return table[:, position]

    def select(self, table, positions):
        return table[:, positions]

    def to_numbers(self, table):
        return table

    def is_numeric(self, column):
        return True

    def is_categorical(self, column):
        return False

    def declares_levels(self, column):
        return False

    def missing(self, column):
        if column.dtype.kind == "f":
            return np.isnan(column)
        if column.dtype == object:
            return np.array([is_missing(value) for value in column], bool)
        return np.zeros(len(column), bool)

    def factorize(self, column):
        missing = self.missing(column)
        if column.dtype != object:
            values, inverse = np.unique(column[~missing], return_inverse=True)
            positions = np.full(len(column), -1)
            positions[~missing] = inverse
            return positions, values.tolist()
        position_of: dict = {}
        numbers = [
            -1 if is_hole else position_of.setdefault(value, len(position_of))
            for value, is_hole in zip(column, missing, strict=True)
        ]
        return np.array(numbers, int), list(position_of)

    def describe(self, column, levels):
        return ColumnType(levels)

    def make_column(self, values, column_type):
        levels = column_type.levels
        if levels is None:
            return values
        positions = level_positions(values, len(levels))
        return np.array([*levels, math.nan], values.dtype)[positions]

    def make_table(self, values, column_types, names, like=None):
        categorical = [j for j, t in enumerate(column_types) if t.levels is not None]
        if categorical:
            values = values.copy()
        for j in categorical:
            values[:, j] = self.make_column(values[:, j], column_types[j])
        return values

    def fill(self, column, holes, filling, dtype):
        filled = column.copy()
        filled[holes] = np.asarray(filling)[holes]
        return filled

    def replace_columns(self, table, columns):
        return np.column_stack(columns)

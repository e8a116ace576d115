"""What the schema asks of the library that a table is of, and what it answers with."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ColumnType:
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


class Adapter(ABC):
    """Tables of one library, and the columns that they are made of.

    A table is an array of NumPy or a DataFrame; a column is one of the array, or a
    Series. To read another library is to write one more of these classes, and to name
    it in `_libraries`.

    Attributes
    ----------
    name : str
        Of the library, as states hold it.
    """

    name: str

    # From the user's table.

    @abstractmethod
    def names(self, table):
        """List the names of the columns; None where they have none."""

    @abstractmethod
    def column(self, table, position):
        """Return a column by its position, whatever its name."""

    @abstractmethod
    def select(self, table, positions):
        """Return the table of some of the columns, by their positions."""

    @abstractmethod
    def to_numbers(self, table):
        """Return a table of numeric columns as something NumPy makes floats of."""

    @abstractmethod
    def is_numeric(self, column):
        """Tell whether the dtype allows a column to be read as numbers."""

    @abstractmethod
    def is_categorical(self, column):
        """Tell whether a column holds categories, strings or flags by its dtype."""

    @abstractmethod
    def declares_levels(self, column):
        """Tell whether the dtype of a column lists its levels, in their order."""

    @abstractmethod
    def missing(self, column):
        """Tell where a column holds nothing, as an array of flags."""

    @abstractmethod
    def factorize(self, column):
        """Assign a number to every value of a column.

        Parameters
        ----------
        column : array or Series

        Returns
        -------
        positions : ndarray of shape (n_samples,), int
            Of the value of every row in the list; -1 where it is missing.
        values : list
            The distinct values, or all that the dtype lists.
        """

    @abstractmethod
    def describe(self, column, levels):
        """Return the `ColumnType` of a column that has these levels, or None."""

    # Back to the user.

    @abstractmethod
    def make_column(self, values, column_type):
        """Make a column of numbers, or of the codes of levels; NaN is missing."""

    @abstractmethod
    def make_table(self, values, column_types, names, like=None):
        """Make a table of an array of numbers and codes.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_columns)
        column_types : list of ColumnType
        names : list or None
        like : object, optional
            If it is a table of the library whose rows have labels, the new table takes
            these.
        """

    @abstractmethod
    def fill(self, column, holes, filling, dtype):
        """Return a copy of a column with its holes filled.

        Parameters
        ----------
        column : array or Series
        holes : ndarray of shape (n_samples,), bool
        filling : array or Series
            As long as the column. Only what stands at the holes is used.
        dtype : str or None
            The name of the dtype that the filled column takes, if no cell changes by
            it.
        """

    @abstractmethod
    def replace_columns(self, table, columns):
        """Return a table like another, with all of its columns replaced."""

    def levels_from_json(self, levels, dtype):
        """Return levels of a dtype from what JSON holds of them."""
        return levels


def level_positions(codes, n_levels):
    """Return codes as positions in a list of levels, -1 where they are NaN."""
    missing = np.isnan(codes)
    nearest = np.rint(np.where(missing, 0, codes)).clip(0, n_levels - 1)
    return np.where(missing, -1, nearest.astype(np.int64))


def rounded(values, dtype):
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

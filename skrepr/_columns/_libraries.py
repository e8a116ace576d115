"""Which library a table is of. None is imported before there is a table of it."""

import sys
from importlib import import_module

from skrepr._columns._arrays import ArrayAdapter

_FRAMES = ("pandas", "polars")  # libraries whose DataFrames are read


def name_of(table):
    """Name the library that a table is of.

    Parameters
    ----------
    table : object

    Returns
    -------
    {"pandas", "polars", "array"}
        "array" is whatever is no DataFrame.
    """
    for name in _FRAMES:
        module = sys.modules.get(name)
        if module is not None and isinstance(table, module.DataFrame):
            return name
    return "array"


def is_frame(table):
    """Tell whether a table is a DataFrame of pandas or polars.

    Parameters
    ----------
    table : object

    Returns
    -------
    bool
    """
    return name_of(table) in _FRAMES


def adapter(name):
    """Return what reads and makes tables of a library.

    Parameters
    ----------
    name : {"pandas", "polars", "array"}
        As `name_of` returns it.

    Returns
    -------
    Adapter

    Raises
    ------
    ImportError
        If the library is not installed, where a stored model was fitted on a table of
        it.
    """
    if name == "array":
        return ArrayAdapter()
    try:
        import_module(name)
    except ImportError as error:
        raise ImportError(
            f"The model was fitted on a DataFrame of {name}, and what it returns is "
            f"one too, but {name} is not installed. Install it with pip install {name}."
        ) from error
    if name == "pandas":
        from skrepr._columns._pandas import PandasAdapter

        return PandasAdapter()
    from skrepr._columns._polars import PolarsAdapter

    return PolarsAdapter()

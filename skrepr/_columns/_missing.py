"""Values that stand for a missing one."""

import numpy as np


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

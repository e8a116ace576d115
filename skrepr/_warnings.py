"""Warnings that point at the user's own line."""

import os
import sys
import warnings

import joblib
import sklearn

_FOLDERS = tuple(
    os.path.join(os.path.dirname(file), "")
    for file in (__file__, sklearn.__file__, joblib.__file__)
)


def warn_user(message, category=UserWarning):
    """Warn of what the last line of the user has led to.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    frame, level = sys._getframe(1), 2  # level 1 is this function
    while frame.f_back and frame.f_code.co_filename.startswith(_FOLDERS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)

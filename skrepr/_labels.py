"""The labels of rows, some of which may be missing."""

import numpy as np
from sklearn.utils import assert_all_finite, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets


def check_labels(X, y, unlabelled=None):
    """Bring labels into an array and tell which of them are missing.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
        NaN, None, NaT and pandas' NA are missing.
    unlabelled : object, optional
        A label that also stands for a missing one.

    Returns
    -------
    labels : ndarray of shape (n_labelled,)
        Those that are not missing.
    missing : ndarray of shape (n_samples,), bool

    Raises
    ------
    ValueError
        If y does not have one label a row, or none at all.
    """
    if isinstance(y, list | tuple) and any(isinstance(label, str) for label in y):
        y = np.array(y, dtype=object)  # or NaN would become the string "nan"
    y = column_or_1d(y, warn=True)
    check_consistent_length(X, y)
    if y.dtype == object:
        missing = np.fromiter(map(_is_missing, y), bool, len(y))
    elif y.dtype.kind in "fcmM":
        missing = np.isnan(y)
    else:
        missing = np.zeros(len(y), bool)
    if unlabelled is not None:
        pairs = zip(y.tolist(), missing, strict=True)
        missing = np.array([lacks or label == unlabelled for label, lacks in pairs])
    if missing.all():
        raise ValueError(
            f"All of the {len(y)} labels in y are missing. Expected some that are not: "
            "missing are NaN, None and pandas' NA"
            + ("." if unlabelled is None else f", and here also {unlabelled!r}.")
        )
    labels = y[~missing]
    if labels.dtype == object:
        labels = np.array(labels.tolist())  # of their own type: str, int, bool
    return labels, missing


def encode_classes(labels):
    """Give every class of the labels a number.

    Parameters
    ----------
    labels : ndarray of shape (n_labelled,)
        As `check_labels` returns them.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The distinct labels in ascending order.
    numbers : ndarray of shape (n_labelled,), int
        Position of every label in `classes`.

    Raises
    ------
    ValueError
        If the labels are not those of classes: fractions, infinity.
    """
    assert_all_finite(labels, input_name="y")  # or type_of_target casts infinity to int
    check_classification_targets(labels)
    return np.unique(labels, return_inverse=True)


def _is_missing(label):
    if label is None:
        return True
    differs = label != label  # True of NaN, NA of NA
    return not isinstance(differs, bool | np.bool_) or bool(differs)

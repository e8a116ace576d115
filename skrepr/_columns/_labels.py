"""The labels of rows, some of which may be missing."""

import numpy as np
from sklearn.utils import assert_all_finite, check_consistent_length, column_or_1d

from skrepr._columns._missing import is_missing


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
        If y does not have one label a row, none at all, or labels of several types.
    """
    if isinstance(y, list | tuple) and any(isinstance(label, str) for label in y):
        y = np.array(y, dtype=object)  # or NaN would become the string "nan"
    y = column_or_1d(y, warn=True)
    check_consistent_length(X, y)
    if y.dtype == object:
        missing = np.fromiter(map(is_missing, y), bool, len(y))
    elif y.dtype.kind in "fcmM":
        missing = np.isnan(y)
    else:
        missing = np.zeros(len(y), bool)
    missing |= are_unlabelled(y, unlabelled)
    if missing.all():
        raise ValueError(
            f"All of the {len(y)} labels in y are missing. Expected some that are not: "
            "missing are NaN, None and pandas' NA"
            + ("." if is_missing(unlabelled) else f", and here also {unlabelled!r}.")
        )
    labels = y[~missing]
    if labels.dtype == object:
        if len({isinstance(label, str) for label in labels}) > 1:
            raise ValueError(
                "Some labels in y are strings and some are not. Expected labels of one "
                "type. Convert them, for example with y.astype(str)."
            )
        labels = np.array(labels.tolist())  # of their own type: str, int, bool
    return labels, missing


def are_unlabelled(labels, unlabelled):
    """Tell which labels are equal to the one that stands for a missing one.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,)
    unlabelled : object
        None, or another that is missing itself, if there is no such label.

    Returns
    -------
    ndarray of shape (n_samples,), bool
    """
    if is_missing(unlabelled):
        return np.zeros(len(labels), bool)
    return np.array(
        [not is_missing(label) and label == unlabelled for label in labels.tolist()],
        bool,
    )


def encode_classes(labels):
    """Assign an id to every class: 0, 1, ...

    Parameters
    ----------
    labels : ndarray of shape (n_labelled,)
        As `check_labels` returns them.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The distinct labels in ascending order.
    ids : ndarray of shape (n_labelled,), int
        Position of every label in `classes`.

    Raises
    ------
    ValueError
        If the labels are not those of classes: fractions, infinity.
    """
    assert_all_finite(labels, input_name="y")
    if labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
        raise ValueError(
            "Unknown label type: continuous. y holds fractions, but was expected to "
            "hold classes or groups. Bin it, for example with pandas.qcut; to predict "
            "numbers there is FineTunedRegressor."
        )
    return np.unique(labels, return_inverse=True)


def stratified(order, ids):
    """Reorder rows so that every beginning holds the classes in proportion.

    The last row of every class comes after all others: a class is complete only in a
    beginning that leaves fewer rows out than there are classes.

    Parameters
    ----------
    order : ndarray of shape (n_samples,), int
        Numbers of the rows.
    ids : ndarray of shape (n_samples,), int
        Of the class of the row of every number.

    Returns
    -------
    ndarray of shape (n_samples,), int
        The numbers, those of each class in the order they had.
    """
    _, ids, sizes = np.unique(ids[order], return_inverse=True, return_counts=True)
    by_class = ids.argsort(kind="stable")
    starts = sizes.cumsum() - sizes
    place = np.empty(len(order))  # of a row in its class
    place[by_class] = np.arange(len(order)) - starts.repeat(sizes)
    return order[np.argsort((place + 1) / sizes[ids], kind="stable")]

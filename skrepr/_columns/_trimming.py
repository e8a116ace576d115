"""Which of the training rows to trust."""

import math

import numpy as np

from skrepr._columns._table import MAX_DEVIATIONS, ROUNDING

# Of a normal distribution: the standard deviation over the median absolute deviation.
_STD_OF_MAD = 1.4826


def central_rows(X, trim, numeric=None):
    """Choose the rows that are nearest to the medians of the columns.

    The distance counts a column in median absolute deviations, which outliers do not
    shape, or in standard deviations where half of its values are equal. For a cell
    that is missing it counts the mean over the other columns of its row.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_columns)
    trim : float
        The share of the rows to leave out. Two stay at least, and so do rows as near as
        the last that stays.
    numeric : ndarray of shape (n_columns,), bool, optional
        The columns that count, by default all.

    Returns
    -------
    ndarray of shape (n_samples,), bool
    """
    distances = np.zeros(len(X))
    n_counted, n_missing = 0, np.zeros(len(X))
    for column in X.T if numeric is None else X.T[numeric]:
        column = column.astype(np.float64)
        missing = np.isnan(column)
        rows = ~missing if missing.any() else slice(None)
        observed = column[rows]
        if not len(observed):  # Table.fit raises the error
            continue
        if np.ptp(observed) <= ROUNDING * np.abs(observed).max():
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # as in Table.fit
            deviations = np.abs(observed - np.median(observed))
            scale = _STD_OF_MAD * np.median(deviations) or observed.std()
            if scale > 0:
                distances[rows] += np.minimum(deviations / scale, MAX_DEVIATIONS) ** 2
                n_counted += 1
                n_missing += missing
    if n_missing.any():
        distances *= n_counted / np.maximum(n_counted - n_missing, 1)
    n_kept = max(2, math.ceil((1 - trim) * len(X)))
    return distances <= np.partition(distances, n_kept - 1)[n_kept - 1]

"""Thresholds: below which score a row is an outlier."""

import numpy as np

_AUTO = 0.0025  # share of normal rows to flag with contamination="auto"


def automatic_threshold(scores):
    """Compute below which of the scores of mostly normal rows a row is an outlier.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)

    Returns
    -------
    float
        A low quantile, or the fence of the boxplot if clearly more rows than the
        quantile's share lie below it.
    """
    fence = adjusted_lower_fence(scores)
    expected = 2 * _AUTO * len(scores)
    if np.sum(scores < fence) > expected + 3 * np.sqrt(expected):
        return fence
    return threshold_of_share(scores, _AUTO)


def threshold_of_share(scores, share):
    """Compute a finite threshold below which a share of the scores lies.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
        -inf, the log-density of the impossible, may be among them.
    share : float

    Returns
    -------
    float
    """
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        raise ValueError(
            "The estimator gives no row a finite score, so there is no threshold. "
            "Expected finite scores for most rows. Check the estimator's parameters."
        )
    lowest = len(scores) - len(finite)
    if share * (len(scores) - 1) < lowest:  # the quantile would be infinite
        return finite.min()
    return np.quantile(scores, share)


def adjusted_lower_fence(scores):
    """Compute the lower fence of the skewness-adjusted boxplot.

    With quartiles Q1 and Q3 and the medcouple MC it is
    Q1 - 1.5 exp(-3 MC) (Q3 - Q1) for skewness to the left. Skewness to the right does
    not raise it above the fence of the ordinary boxplot.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)

    Returns
    -------
    float
    """
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return -np.inf
    first, third = np.quantile(scores, [0.25, 0.75])
    skewness = min(medcouple(scores), 0.0)
    return first - 1.5 * np.exp(-3 * skewness) * (third - first)


def medcouple(values, *, n_quantiles=501):
    """Compute the medcouple, a robust measure of skewness in [-1, 1].

    It is the median of ((b - m) - (m - a)) / (b - a) over all pairs a <= m <= b, where
    m is the median of the values. Of k values that equal m, the pair of the i-th and
    the j-th counts as the sign of k - 1 - i - j.

    Parameters
    ----------
    values : ndarray of shape (n,)
    n_quantiles : int
        More values than this are stood for by as many quantiles.

    Returns
    -------
    float

    References
    ----------
    Brys, Hubert and Struyf, "A robust measure of skewness", Journal of Computational
    and Graphical Statistics 13 (2004).
    """
    if len(values) > n_quantiles:
        values = np.quantile(values, np.linspace(0, 1, n_quantiles))
    deviations = np.sort(values) - np.median(values)
    below = deviations[deviations <= 0][::-1]
    above = deviations[deviations >= 0][:, None]
    spread = above - below
    kernel = np.divide(
        above + below, spread, where=spread > 0, out=np.zeros_like(spread)
    )
    tied = np.arange(np.sum(deviations == 0))
    kernel[: len(tied), : len(tied)] = np.sign(len(tied) - 1 - tied[:, None] - tied)
    return float(np.median(kernel))

"""Metrics of embeddings: how they spread, and what can be read from them.

An embedding Z has one row a sample and one column a component.
"""

import math
from numbers import Integral, Real

import numpy as np
from scipy.linalg import svdvals
from scipy.special import entr, logsumexp
from scipy.stats import mode
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import euclidean_distances
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.utils import check_array

from skrepr._blocks import blocks
from skrepr._columns._labels import check_labels, encode_classes
from skrepr._sklearn import Interval, validate_params

__all__ = [
    "active_units",
    "alignment",
    "effective_rank",
    "knn_accuracy",
    "linear_probe_accuracy",
    "normalized_std",
    "uniformity",
]

_POSITIVE = [Interval(Real, 0, None, closed="neither")]
_MAX_DISTANCES = 2**18  # in memory at a time: 2 MB in float64


@validate_params({"alpha": _POSITIVE}, prefer_skip_nested_validation=True)
def alignment(Z_a, Z_b, alpha=2):
    """Measure how far apart two embeddings of the same rows are, such as two views.

    The mean over i of ``||a_i - b_i|| ** alpha``, where a_i and b_i are the rows
    divided by their lengths. It is 0 where the directions agree, and at most
    ``2 ** alpha``.

    Parameters
    ----------
    Z_a, Z_b : array-like of shape (n_samples, n_components)
        Row i of one belongs with row i of the other. A row of zeros has no direction
        and stays what it is.
    alpha : float, default=2
        Exponent of the distance, positive.

    Returns
    -------
    alignment : float
        The lower, the better aligned.

    Raises
    ------
    ValueError
        If the shapes differ.

    See Also
    --------
    uniformity : How evenly embeddings spread; a collapsed one is aligned, too.

    References
    ----------
    Wang and Isola, "Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere", ICML 2020.

    Examples
    --------
    >>> from skrepr.metrics import alignment
    >>> a, b = [[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 0.0]]
    >>> print(f"{alignment(a, b):.3f}")
    1.000
    """
    Z_a = check_array(Z_a, dtype=np.float64, input_name="Z_a")
    Z_b = check_array(Z_b, dtype=np.float64, input_name="Z_b")
    if Z_a.shape != Z_b.shape:
        raise ValueError(
            f"Z_a has the shape {Z_a.shape} and Z_b the shape {Z_b.shape}. Expected "
            "two embeddings of the same rows, of one shape."
        )
    distances = np.linalg.norm(normalize(Z_a) - normalize(Z_b), axis=1)
    return float(np.mean(distances**alpha))


@validate_params({"t": _POSITIVE}, prefer_skip_nested_validation=True)
def uniformity(Z, t=2):
    """Measure how evenly embeddings spread over the sphere.

    The logarithm of the mean of ``exp(-t * ||z_i - z_j|| ** 2)`` over all pairs of
    distinct rows, each divided by its length. It is 0 if all directions are the same,
    lower the more evenly they spread over the sphere, and never below ``-4 * t``.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_components)
        At least two rows. A row of zeros stays what it is. The time grows with the
        square of the number of rows, the memory does not.
    t : float, default=2
        Inverse width of the potential, positive.

    Returns
    -------
    uniformity : float
        The lower, the more uniform.

    See Also
    --------
    alignment : How near each other the views of a row are.

    References
    ----------
    Wang and Isola, "Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere", ICML 2020.

    Examples
    --------
    >>> from skrepr.metrics import uniformity
    >>> uniformity([[1.0, 0.0], [-3.0, 0.0]])
    -8.0
    """
    Z = normalize(_check_rows(Z))
    n = len(Z)
    log_sums = []
    for block in blocks(n - 1, n, _MAX_DISTANCES):
        squares = euclidean_distances(Z[block], Z[block.start :], squared=True)
        i, j = np.ogrid[: squares.shape[0], : squares.shape[1]]
        log_sums.append(logsumexp(-t * squares[i < j]))
    return float(logsumexp(log_sums) - math.log(n * (n - 1) / 2))


def effective_rank(Z):
    """Count the directions an embedding makes use of, by their weight.

    The exponential of the entropy of p, the singular values of Z divided by their sum
    (RankMe). Z is not centred. It is r if r singular values are equal and the others
    are 0, and it does not depend on the scale of Z or on rotations. RankMe adds 1e-7
    to every p_k against a logarithm of 0; here 0 log 0 is 0.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_components)
        At least two rows.

    Returns
    -------
    rank : float
        Between 1 and ``min(n_samples, n_components)``, or 0 if all of Z is 0.

    See Also
    --------
    normalized_std : A check for collapse that is quicker.

    References
    ----------
    Garrido, Balestriero, Najman and LeCun, "RankMe: Assessing the Downstream
    Performance of Pretrained Self-Supervised Representations by Their Rank", ICML 2023.

    Roy and Vetterli, "The Effective Rank: A Measure of Effective Dimensionality",
    EUSIPCO 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from skrepr.metrics import effective_rank
    >>> print(f"{effective_rank(np.diag([1.0, 1.0, 1.0, 0.0])):.3f}")
    3.000
    """
    values = svdvals(_check_rows(Z))
    if values[0] == 0:
        return 0.0
    shares = values / values.sum()
    return float(np.exp(entr(shares).sum()))


def normalized_std(Z):
    """Measure how far embeddings are from having collapsed.

    The mean over components of the standard deviation of the rows, each divided by its
    length, times ``sqrt(n_components)``.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_components)
        At least two rows. A row of zeros stays what it is.

    Returns
    -------
    std : float
        Between 0, if all directions are the same, and 1, if all directions occur
        alike, as of an isotropic Gaussian distribution about 0.

    See Also
    --------
    effective_rank : Notices components that are copies of others, too.

    References
    ----------
    Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021.

    Examples
    --------
    >>> from skrepr.metrics import normalized_std
    >>> square = [[1.0, 1.0], [-2.0, 2.0], [-3.0, -3.0], [4.0, -4.0]]
    >>> print(f"{normalized_std(square):.3f}")
    1.000
    """
    Z = normalize(_check_rows(Z))
    return float(Z.std(axis=0).mean() * math.sqrt(Z.shape[1]))


@validate_params(
    {"n_neighbors": [Interval(Integral, 1, None, closed="left")]},
    prefer_skip_nested_validation=True,
)
def knn_accuracy(Z, y, n_neighbors=5):
    """Measure how often the nearest neighbours of a row vote for its class.

    A leave-one-out accuracy: every labelled row is given the most frequent class of
    the `n_neighbors` labelled rows nearest to it. It is not its own neighbour, but a
    duplicate of it may be.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_components)
        Distances are Euclidean, in the units of Z: standardise columns or normalise
        rows (for the order of cosine similarity) beforehand if they should count so.
    y : array-like of shape (n_samples,)
        Classes. Rows whose label is missing (NaN, None, pandas' NA) are left out.
    n_neighbors : int, default=5
        Number of votes. Of classes with equally many the first in ascending order
        wins.

    Returns
    -------
    accuracy : float
        Share of the labelled rows that are given their own class.

    Raises
    ------
    ValueError
        If there are no more labelled rows than neighbours.

    See Also
    --------
    linear_probe_accuracy : What a linear classifier can read from Z.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skrepr.metrics import knn_accuracy
    >>> Z, y = load_iris(return_X_y=True)
    >>> print(f"{knn_accuracy(Z, y):.3f}")
    0.967
    """
    Z, _, ids = _labelled_rows(Z, y)
    if n_neighbors >= len(Z):
        raise ValueError(
            f"n_neighbors={n_neighbors} is too large for {len(Z)} labelled rows, of "
            f"which each has {len(Z) - 1} neighbours. Lower n_neighbors or label more "
            "rows."
        )
    # Without an argument, kneighbors leaves out the row itself.
    nearest = NearestNeighbors(n_neighbors=n_neighbors).fit(Z).kneighbors()[1]
    elected = mode(ids[nearest], axis=1).mode
    return float(np.mean(elected == ids))


@validate_params({"cv": ["cv_object"]}, prefer_skip_nested_validation=True)
def linear_probe_accuracy(Z, y, cv=5):
    """Measure how well a linear classifier tells classes apart.

    The cross-validated accuracy of a logistic regression on the standardised columns.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_components)
        Columns may come in any units.
    y : array-like of shape (n_samples,)
        Classes. Rows whose label is missing (NaN, None, pandas' NA) are left out.
    cv : int or cross-validation generator, default=5
        Number of stratified folds, not shuffled, or one of scikit-learn's splitters
        of the labelled rows.

    Returns
    -------
    accuracy : float
        Mean over the folds.

    Raises
    ------
    ValueError
        If there is a single class, or one has fewer than `cv` rows.

    See Also
    --------
    knn_accuracy : A measure without a model, of the classes' neighbourhoods.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skrepr.metrics import linear_probe_accuracy
    >>> Z, y = load_iris(return_X_y=True)
    >>> print(f"{linear_probe_accuracy(Z, y):.3f}")
    0.960
    """
    Z, classes, ids = _labelled_rows(Z, y)
    if len(classes) == 1:
        raise ValueError(
            f"All labels in y are {classes.tolist()[0]!r}. Expected at least two "
            "classes to tell apart."
        )
    sizes = np.bincount(ids)
    if isinstance(cv, Integral) and sizes.min() < cv:
        rarest = sizes.argmin()
        raise ValueError(
            f"The class {classes.tolist()[rarest]!r} has {sizes[rarest]} labelled "
            f"row(s), fewer than cv={cv} folds. Lower cv, or leave the class out by "
            "setting its labels to None."
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    return float(cross_val_score(probe, Z, ids, cv=cv, error_score="raise").mean())


def _check_rows(Z):
    return check_array(Z, dtype=np.float64, ensure_min_samples=2, input_name="Z")


def _labelled_rows(Z, y):
    """Return the labelled rows, the classes, and the id of every row's class."""
    Z = _check_rows(Z)
    labels, missing = check_labels(Z, y)
    return Z[~missing], *encode_classes(labels)


def active_units(codes, *, threshold=0.01):
    """Tell which components of codes vary.

    Of a variational autoencoder these are the latents whose posterior depends on the
    row; the others have collapsed to the prior.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_components)
        Posterior means, as ``transform`` returns them.
    threshold : float, default=0.01
        The smallest variance of a component that varies.

    Returns
    -------
    active : ndarray of shape (n_components,), bool

    References
    ----------
    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016.

    Examples
    --------
    >>> from skrepr.metrics import active_units
    >>> active_units([[0.0, 1.0], [0.1, -1.0]])
    array([False,  True])
    """
    codes = check_array(codes)
    return codes.var(axis=0) >= threshold

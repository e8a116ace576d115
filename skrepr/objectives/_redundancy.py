"""Objectives without negatives that decorrelate the components of a code."""

from collections.abc import Callable
from numbers import Real

import torch
from torch.nn import functional as F

from skrepr._sklearn import Interval
from skrepr.objectives._base import Objective, ObjectiveModule


def barlow_twins(a, b):
    """Compute how far the correlations across two views are from the identity matrix.

    Columns are standardised over the batch; those without variance have correlation 0
    with all.

    Parameters
    ----------
    a, b : torch.Tensor of shape (n, width)
        Row i of one is the partner of row i of the other.

    Returns
    -------
    invariance, redundancy : torch.Tensor
        0-d tensors: Σ (1 - c_ii)² and Σ c_ij², i ≠ j.
    """
    # 1e-5 is added to the variance.
    a, b = (F.batch_norm(x, None, None, training=True) for x in (a, b))
    correlations = a.T @ b / len(a)
    diagonal = correlations.diagonal()
    return (1 - diagonal).square().sum(), _off_diagonal_squares(correlations)


def vicreg(a, b):
    """Compute invariance, variance and covariance of two views.

    As in the authors' code, the invariance is a mean over cells, the variance one over
    the views, and the covariances of the views are summed.

    Parameters
    ----------
    a, b : torch.Tensor of shape (n, width)
        Row i of one is the partner of row i of the other.

    Returns
    -------
    invariance : torch.Tensor
        A 0-d tensor: the mean of (a - b)².
    variance : torch.Tensor
        The mean over columns of max(0, 1 - s), with s = sqrt(variance + 1e-4).
    covariance : torch.Tensor
        The sum of the squared covariances of different columns, over the width.
    """
    variance = covariance = torch.zeros_like(a[0, 0])
    for x in (a, b):
        spread = (x.var(0) + 1e-4).sqrt()
        variance = variance + F.relu(1 - spread).mean() / 2
        x = x - x.mean(0)
        squares = _off_diagonal_squares(x.T @ x / (len(x) - 1))
        covariance = covariance + squares / x.shape[1]
    return (a - b).square().mean(), variance, covariance


def _off_diagonal_squares(matrix):
    """Sum the squares of a matrix' cells beside the diagonal."""
    return matrix.square().fill_diagonal_(0).sum()


class BarlowTwins(Objective, name="barlow_twins"):
    """Barlow Twins: correlations across the two views like those of the identity.

    A column of the projections should agree with itself across the views, and tell
    nothing of the others. The projections are standardised over the batch; ids are not
    used.

    Parameters
    ----------
    off_diagonal_weight : float, default=5e-3
        Factor of the squared correlations of different columns.

    References
    ----------
    Zbontar, Jing, Misra, LeCun and Deny, "Barlow Twins: Self-Supervised Learning via
    Redundancy Reduction", ICML 2021.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import BarlowTwins
    >>> ContrastiveTransformer(objective=BarlowTwins(off_diagonal_weight=0.01))
    ContrastiveTransformer(objective=BarlowTwins(off_diagonal_weight=0.01))
    """

    _parameter_constraints: dict = {
        "off_diagonal_weight": [Interval(Real, 0, None, closed="left")]
    }

    def __init__(self, off_diagonal_weight=5e-3):
        self.off_diagonal_weight = off_diagonal_weight

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch."""
        weights = {"invariance": 1.0, "redundancy": self.off_diagonal_weight}
        return _BarlowTwins(head, weights)


class _WeightedTerms(ObjectiveModule):
    """Several terms of the projections of two views, each with a weight."""

    terms: Callable

    def __init__(self, head, weights):
        super().__init__()
        self.head = head
        self.weights = weights

    def forward(self, views):
        values = self.terms(*self.head(views.codes).chunk(2))
        items = zip(self.weights.items(), values, strict=True)
        return {name: weight * value for (name, weight), value in items}


class _BarlowTwins(_WeightedTerms):
    terms = staticmethod(barlow_twins)


class VICReg(Objective, name="vicreg"):
    """Variance, invariance and covariance regularisation of the projections.

    Projections of partners should be equal, every column of them should vary with a
    standard deviation of at least 1, and different columns should not covary. The
    projections are not normalised; ids are not used.

    Parameters
    ----------
    invariance : float, default=25.0
        Factor of the mean squared difference of partners.
    variance : float, default=25.0
        Factor of the mean, over columns, of what the standard deviation lacks to 1.
    covariance : float, default=1.0
        Factor of the sum of squared covariances over the number of columns.

    References
    ----------
    Bardes, Ponce and LeCun, "VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning", ICLR 2022.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import VICReg
    >>> ContrastiveTransformer(objective=VICReg(covariance=4.0))
    ContrastiveTransformer(objective=VICReg(covariance=4.0))
    """

    _parameter_constraints: dict = {
        name: [Interval(Real, 0, None, closed="left")]
        for name in ("invariance", "variance", "covariance")
    }

    def __init__(self, invariance=25.0, variance=25.0, covariance=1.0):
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch."""
        return _VICReg(
            head,
            {
                "invariance": self.invariance,
                "variance": self.variance,
                "covariance": self.covariance,
            },
        )


class _VICReg(_WeightedTerms):
    terms = staticmethod(vicreg)

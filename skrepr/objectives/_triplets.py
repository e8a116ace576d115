"""Objectives that compare a positive with negatives by a margin."""

from numbers import Real

import torch
from torch.nn import functional as F

from skrepr._sklearn import Interval, StrOptions
from skrepr.objectives._base import Objective, ProjectionLoss
from skrepr.objectives._blocks import (
    pair_counts,
    pair_distances,
    per_anchor,
    positives_and_negatives,
    square_distances,
)


def triplet(z, ids, margin, mining="semi_hard"):
    """Compute the triplet loss, the mean of max(0, d₊² - d₋² + margin).

    d is the Euclidean distance of the normalised embeddings.

    Parameters
    ----------
    z : torch.Tensor of shape (n_views, width)
    ids : torch.Tensor of shape (n_views,)
        Views of one id are positives of each other.
    margin : float
    mining : {"semi_hard", "all", "hard"}
        Over which triplets the mean is: for every anchor and positive the nearest
        negative that is farther than the positive, or the farthest if none is; all
        triplets; for every anchor its farthest positive and nearest negative.

    Returns
    -------
    torch.Tensor
        A 0-d tensor, 0 if there is no triplet.
    """
    z, n = F.normalize(z, dim=1), len(z)
    n_positives, n_negatives = pair_counts(ids)
    max_positives = int(n_positives.max())

    def losses(block, z):
        positive, negative = positives_and_negatives(ids, block)
        squares = square_distances(z, block)
        return _MINING[mining](squares, positive, negative, margin, max_positives)

    n_triplets = {
        "all": n_positives * n_negatives,
        "semi_hard": n_positives * (n_negatives > 0),
        "hard": (n_positives > 0) & (n_negatives > 0),
    }[mining].sum()
    return per_anchor(losses, n, n, z).sum() / n_triplets.clamp(min=1)


# The triplets of anchors, summed for each: `squares` (n_anchors, n_views) are d², of
# which `positive` and `negative` say whose they are; no anchor has more positives than
# `max_positives`. Positives are sorted, and ranks count among them; where there are
# fewer, they end with infinities. No triplet is ever written down: a negative knows by
# its rank which positives are nearer, and all of one rank are counted or compared at
# once.


def _sorted_positives(squares, positive, max_positives):
    squares = squares.masked_fill(~positive, torch.inf)
    return squares.topk(max_positives, dim=1, largest=False).values


def _all_triplets(squares, positive, negative, margin, max_positives):
    to_positives = _sorted_positives(squares, positive, max_positives)
    # The triplets above 0 have positives of this rank or higher.
    bounds = squares.detach() - margin
    ranks = torch.searchsorted(to_positives.detach(), bounds, right=True)
    n_of_rank = torch.zeros_like(squares[:, : max_positives + 1])
    n_of_rank.scatter_add_(1, ranks, negative.to(squares.dtype))
    per_positive = n_of_rank.cumsum(1)[:, :max_positives]
    per_negative = (positive.sum(1, keepdim=True) - ranks) * negative
    to_positives = torch.where(to_positives.isfinite(), to_positives + margin, 0.0)
    return (per_positive * to_positives).sum(1) - (per_negative * squares).sum(1)


def _semi_hard_triplets(squares, positive, negative, margin, max_positives):
    to_positives = _sorted_positives(squares, positive, max_positives)
    ranks = torch.searchsorted(to_positives.detach(), squares.detach())
    to_negatives = squares.masked_fill(~negative, torch.inf)
    nearest_negatives = torch.full_like(squares[:, : max_positives + 1], torch.inf)
    nearest_negatives = nearest_negatives.scatter_reduce(1, ranks, to_negatives, "amin")
    farther_negatives = nearest_negatives[:, 1:].flip(1).cummin(1).values.flip(1)
    farthest_negative = squares.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
    to_negatives = torch.where(
        farther_negatives.isfinite(), farther_negatives, farthest_negative
    )
    exists = to_positives.isfinite() & to_negatives.isfinite()
    losses = F.relu(to_positives - to_negatives + margin)
    return torch.where(exists, losses, 0.0).sum(1)


def _hard_triplets(squares, positive, negative, margin, max_positives):
    farthest_positive = squares.masked_fill(~positive, -torch.inf).amax(1)
    nearest_negative = squares.masked_fill(~negative, torch.inf).amin(1)
    exists = farthest_positive.isfinite() & nearest_negative.isfinite()
    losses = F.relu(farthest_positive - nearest_negative + margin)
    return torch.where(exists, losses, 0.0)


_MINING = {
    "semi_hard": _semi_hard_triplets,
    "all": _all_triplets,
    "hard": _hard_triplets,
}


def lifted_structured(z, ids, margin, form="smooth"):
    """Compute the lifted structured loss, the mean of max(0, L_ij)² / 2.

    The mean is over the pairs of positives. L_ij is d_ij plus the logarithm of
    Σ exp(margin - d_ik) + Σ exp(margin - d_jk), over the negatives k of i and of j, or
    plus the largest of these margin - d. d is the Euclidean distance of the normalised
    embeddings.

    Parameters
    ----------
    z : torch.Tensor of shape (n_views, width)
    ids : torch.Tensor of shape (n_views,)
        Views of one id are positives of each other.
    margin : float
    form : {"smooth", "hard"}
        The sum of exponentials, or the largest.

    Returns
    -------
    torch.Tensor
        A 0-d tensor, 0 if there are no positives or no negatives.
    """
    z, n = F.normalize(z, dim=1), len(z)
    n_positives, n_negatives = pair_counts(ids)
    has_pairs = (n_positives > 0) & (n_negatives > 0)

    def nearness(block, z):
        _, negative = positives_and_negatives(ids, block)
        near = (margin - pair_distances(z, block)).masked_fill(~negative, -torch.inf)
        near = near.logsumexp(1) if form == "smooth" else near.amax(1)
        return torch.where(has_pairs[block], near, 0.0)

    def losses(block, z, near):
        positive, _ = positives_and_negatives(ids, block)
        combine = torch.logaddexp if form == "smooth" else torch.maximum
        excess = combine(near[block, None], near) + pair_distances(z, block)
        exists = positive & has_pairs[block, None]
        return torch.where(exists, F.relu(excess).square(), 0.0).sum(1)

    n_pairs = (n_positives * has_pairs).sum().clamp(min=1)
    near = per_anchor(nearness, n, n, z)
    return per_anchor(losses, n, n, z, near).sum() / (2 * n_pairs)


class Triplet(Objective, name="triplet"):
    """Triplet loss: a positive is nearer to the anchor than a negative, by a margin.

    The mean of max(0, d₊² - d₋² + margin) over triplets of views, with d the Euclidean
    distance of the normalised projections.

    Parameters
    ----------
    margin : float, default=0.2
        By how much d₋² should exceed d₊². Neither exceeds 4.
    mining : {"semi_hard", "all", "hard"}, default="semi_hard"
        Which triplets count. "semi_hard": for every anchor and positive the nearest
        negative that is farther than the positive, or the farthest if none is. "all":
        all. "hard": for every anchor its farthest positive and its nearest negative.

    References
    ----------
    Schroff, Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face
    Recognition and Clustering", CVPR 2015.

    Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person
    Re-Identification", arXiv:1703.07737, 2017.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import Triplet
    >>> ContrastiveTransformer(objective=Triplet(mining="all"))
    ContrastiveTransformer(objective=Triplet(mining='all'))
    """

    _parameter_constraints: dict = {
        "margin": [Interval(Real, 0, None, closed="neither")],
        "mining": [StrOptions(set(_MINING))],
    }

    def __init__(self, margin=0.2, mining="semi_hard"):
        self.margin = margin
        self.mining = mining

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch."""
        return _Triplet(head, margin=self.margin, mining=self.mining)


class _Triplet(ProjectionLoss):
    loss = staticmethod(triplet)


class LiftedStructured(Objective, name="lifted_structured"):
    """Lifted structured loss: a positive pair is compared with all negatives of both.

    The mean over the pairs of positives, halved, of max(0, L)², with L the distance of
    the pair plus the logarithm of the sum of exp(margin - d) over all negatives of
    either. d is the Euclidean distance of the normalised projections.

    Parameters
    ----------
    margin : float, default=1.0
        By how much negatives should be farther than positives.
    form : {"smooth", "hard"}, default="smooth"
        Whether all negatives count, by the logarithm of a sum of exponentials, or only
        the nearest.

    References
    ----------
    Oh Song, Xiang, Jegelka and Savarese, "Deep Metric Learning via Lifted Structured
    Feature Embedding", CVPR 2016.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import LiftedStructured
    >>> ContrastiveTransformer(objective=LiftedStructured(form="hard"))
    ContrastiveTransformer(objective=LiftedStructured(form='hard'))
    """

    _parameter_constraints: dict = {
        "margin": [Interval(Real, 0, None, closed="neither")],
        "form": [StrOptions({"smooth", "hard"})],
    }

    def __init__(self, margin=1.0, form="smooth"):
        self.margin = margin
        self.form = form

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch."""
        return _LiftedStructured(head, margin=self.margin, form=self.form)


class _LiftedStructured(ProjectionLoss):
    loss = staticmethod(lifted_structured)

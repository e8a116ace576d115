"""Objectives of contrastive learning: what the views of a batch should agree on.

The losses are pure functions and come first, the parts that choose them follow.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real

import torch
from torch import nn
from torch.nn import functional as F

from skrepr._engine import matmul, refuse_second_derivatives
from skrepr._sklearn import Interval, StrOptions
from skrepr.parts import Part

_CELLS = 2**20  # of the matrices of pairs that are in memory at a time
_LEAST_FAST_TEMPERATURE = 0.025  # exp(-2 / 0.025) is still a float32
_NOBODY = torch.iinfo(torch.int64).min  # the id of a slot of the queue that is empty


@dataclass
class Views:
    """Two views of every row of a batch, and what the encoder makes of them.

    Attributes
    ----------
    rows : torch.Tensor of shape (2n, n_columns)
        The views. View n + i is the partner of view i.
    originals : torch.Tensor of shape (2n, n_columns)
        The rows before they were changed.
    codes : torch.Tensor of shape (2n, n_components)
        The encoder's output for `rows`, part of the autograd graph.
    ids : torch.Tensor of shape (2n,), int64
        Views of one id are positives of each other. Partners always share theirs.
    pairs_only : bool
        Whether nothing but partners shares an id.
    progress : torch.Tensor
        A 0-d tensor: the fraction of training done, in [0, 1].
    """

    rows: torch.Tensor
    originals: torch.Tensor
    codes: torch.Tensor
    ids: torch.Tensor
    pairs_only: bool
    progress: torch.Tensor


# Every loss of pairs is a value per anchor, from one row of a matrix of pairs. Of large
# matrices only a block of rows is in memory at a time, forwards and backwards.


def _blocks(n_anchors, n_others):
    """Split the anchors so that a block has at most `_CELLS` pairs, but one row."""
    step = max(1, _CELLS // n_others)
    return [slice(i, min(i + step, n_anchors)) for i in range(0, n_anchors, step)]


def _per_anchor(function, n_anchors, n_others, *tensors):
    """Compute a value for every anchor, a block of anchors at a time.

    Parameters
    ----------
    function : callable
        ``function(block, *tensors)`` returns the values of a slice of the anchors.
    n_anchors, n_others : int
        Shape of the matrices of pairs.
    *tensors : torch.Tensor or float
        All that the values are to be differentiated by.

    Returns
    -------
    torch.Tensor of shape (n_anchors,)
    """
    blocks = _blocks(n_anchors, n_others)
    if len(blocks) == 1:
        return function(blocks[0], *tensors)
    return _InBlocks.apply(function, blocks, *tensors)


class _InBlocks(torch.autograd.Function):
    """Values of blocks, whose intermediate values are computed again backwards.

    torch.utils.checkpoint does the same, but imports torch's compiler: a second, and
    more memory than it saves.
    """

    @staticmethod
    def forward(ctx, function, blocks, *tensors):
        ctx.function, ctx.blocks, ctx.tensors = function, blocks, tensors
        return torch.cat([function(block, *tensors) for block in blocks])

    @staticmethod
    def backward(ctx, slope):
        refuse_second_derivatives()
        needed = ctx.needs_input_grad[2:]
        # In detached copies, at which the derivatives end.
        tensors = [
            x.detach().requires_grad_() if is_needed else x
            for x, is_needed in zip(ctx.tensors, needed, strict=True)
        ]
        leaves = [x for x, is_needed in zip(tensors, needed, strict=True) if is_needed]
        totals = [torch.zeros_like(leaf) for leaf in leaves]
        for block in ctx.blocks:
            with torch.enable_grad():
                values = ctx.function(block, *tensors)
            slopes = torch.autograd.grad(values, leaves, slope[block])
            for total, part in zip(totals, slopes, strict=True):
                total.add_(part)
        found = iter(totals)
        return None, None, *(next(found) if is_needed else None for is_needed in needed)


def _positives_and_negatives(ids, block):
    """Tell which views are positives and which are negatives of a block of anchors.

    Parameters
    ----------
    ids : torch.Tensor of shape (n_views,)
    block : slice

    Returns
    -------
    positive, negative : torch.Tensor of shape (n_anchors, n_views), bool
        A view is neither for itself.
    """
    positive = ids[block, None] == ids
    negative = ~positive
    positive.diagonal(block.start).fill_(False)
    return positive, negative


def _counts(ids):
    """Count the positives and the negatives of every view."""
    _, position, n_same = ids.unique(return_inverse=True, return_counts=True)
    n_same = n_same[position]
    return n_same - 1, len(ids) - n_same


def _square_distances(z, block):
    """Compute d² between a block of the normalised rows of z and all of them."""
    return 2 - 2 * z[block] @ z.T


def _distances(z, block):
    """Compute d between a block of the normalised rows of z and all of them.

    Below what rounding leaves of d² there is no distance to tell and no slope: that of
    the square root would be infinite at 0.
    """
    return _square_distances(z, block).clamp(min=torch.finfo(z.dtype).eps).sqrt()


def nt_xent(a, b, temperature, ids=None):
    """Compute the NT-Xent loss of two views (InfoNCE), a mean over both.

    The logits of a view are its cosine similarities to the other 2n - 1, divided by
    the temperature. The loss is the cross-entropy of telling its partner.

    Parameters
    ----------
    a, b : torch.Tensor of shape (n, width)
        Row i of one is the partner of row i of the other.
    temperature : float or torch.Tensor
        A number or a 0-d tensor.
    ids : torch.Tensor of shape (n,), optional
        Of the rows, if some share theirs: a view is then not told from the views of
        its id, except its partner.

    Returns
    -------
    torch.Tensor
        A 0-d tensor.
    """
    n, z = len(a), F.normalize(torch.cat([a, b]), dim=1)
    is_number = not isinstance(temperature, torch.Tensor)  # without derivative
    if ids is None and is_number and temperature >= _LEAST_FAST_TEMPERATURE:
        return _FastNTXent.apply(z, temperature)
    ids = torch.arange(n, device=z.device) if ids is None else ids
    ids, partners = ids.repeat(2), torch.arange(2 * n, device=z.device).roll(n)

    def cross_entropies(block, z, temperature):
        logits, partner = (z[block] / temperature) @ z.T, partners[block]
        same = ids[block, None] == ids
        same.scatter_(1, partner[:, None], False)
        logits = logits.masked_fill(same, -torch.inf)
        return F.cross_entropy(logits, partner, reduction="none")

    return _per_anchor(cross_entropies, 2 * n, 2 * n, z, temperature).mean()


def _nt_xent_and_slope(z, temperature):
    """Compute the NT-Xent loss of 2n normalised views and its derivative by them.

    No similarity exceeds 1, so that 1 / temperature may be subtracted from all logits
    before the exponential, instead of the maximum of each row, as long as the least
    logit, -2 / temperature then, does not underflow.
    """
    scaled, partners = z / temperature, z.roll(len(z) // 2, 0)
    blocks = _blocks(len(z), len(z))

    def exponentials(block):
        cells = matmul(scaled[block], z.T).sub_(1 / temperature).exp_()
        cells.diagonal(block.start).zero_()
        return cells

    sums, slope = z.new_empty(len(z)), torch.empty_like(z)
    for block in blocks:
        cells = exponentials(block)
        sums[block] = cells.sum(1)
    weights = 1 / sums
    for block in blocks:
        if len(blocks) > 1:
            cells = exponentials(block)
        # A logit has its weight in the softmax of its row and in that of its column.
        slope[block] = matmul(cells.mul_(weights[block, None] + weights), z)
    slope.sub_(partners, alpha=2).div_(len(z) * temperature)
    loss = (sums.log().sum() - (scaled * partners).sum()) / len(z) + 1 / temperature
    return loss, slope


class _FastNTXent(torch.autograd.Function):
    """NT-Xent of normalised views as one node of the autograd graph."""

    @staticmethod
    def forward(ctx, z, temperature):
        loss, ctx.slope = _nt_xent_and_slope(z, temperature)
        return loss

    @staticmethod
    def backward(ctx, slope):
        refuse_second_derivatives()
        return ctx.slope * slope, None


def moco(queries, keys, ids, queue, queue_ids, temperature):
    """Compute InfoNCE of queries against their keys and a queue of older ones.

    The positive is in the denominator, too. Keys of the query's own id in the queue
    are left out of it.

    Parameters
    ----------
    queries, keys : torch.Tensor of shape (n, width)
        Row i of one is the positive of row i of the other. Keys get no gradient.
    ids : torch.Tensor of shape (n,)
        Of the queries.
    queue : torch.Tensor of shape (n_queue, width)
        Normalised. Slots that are still empty have the id -2**63.
    queue_ids : torch.Tensor of shape (n_queue,)
    temperature : float or torch.Tensor
        Divides the cosine similarities.

    Returns
    -------
    torch.Tensor
        A 0-d tensor: the mean over the queries, 0 while the queue is empty.
    """
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys.detach(), dim=1)

    def losses(block, queries, temperature):
        query = queries[block] / temperature
        positive = (query * keys[block]).sum(1, keepdim=True)
        left_out = (ids[block, None] == queue_ids) | (queue_ids == _NOBODY)
        negative = (query @ queue.T).masked_fill(left_out, -torch.inf)
        logits = torch.cat([positive, negative], dim=1)
        return logits.logsumexp(1) - logits[:, 0]

    n, n_queue = len(queries), len(queue)
    return _per_anchor(losses, n, 1 + n_queue, queries, temperature).mean()


def sup_con(z, ids, temperature):
    """Compute the supervised contrastive loss, with the mean outside of the logarithm.

    The loss of a view is minus the mean over its positives of the logarithm of the
    probability that the softmax over all other views gives them.

    Parameters
    ----------
    z : torch.Tensor of shape (n_views, width)
    ids : torch.Tensor of shape (n_views,)
        Views of one id are positives of each other.
    temperature : float or torch.Tensor
        Divides the cosine similarities.

    Returns
    -------
    torch.Tensor
        A 0-d tensor: the mean over the views that have a positive, 0 if none has.
    """
    z, n, n_positives = F.normalize(z, dim=1), len(z), _counts(ids)[0]

    def losses(block, z, temperature):
        positive, negative = _positives_and_negatives(ids, block)
        logits = (z[block] / temperature) @ z.T
        mean = torch.where(positive, logits, 0.0).sum(1) / n_positives[block]
        others = logits.masked_fill(~(positive | negative), -torch.inf)
        return torch.where(n_positives[block] > 0, others.logsumexp(1) - mean, 0.0)

    n_anchors = (n_positives > 0).sum().clamp(min=1)
    return _per_anchor(losses, n, n, z, temperature).sum() / n_anchors


def contrastive(z, ids, margin):
    """Compute the contrastive loss of all pairs of views.

    It is the mean of d² over the positive pairs plus the mean of max(0, margin - d)²
    over the negative pairs, so that neither drowns the other in a batch of any size.
    d is the Euclidean distance of the normalised embeddings, at most 2.

    Parameters
    ----------
    z : torch.Tensor of shape (n_views, width)
    ids : torch.Tensor of shape (n_views,)
        Views of one id are positives of each other.
    margin : float

    Returns
    -------
    torch.Tensor
        A 0-d tensor. A mean over no pairs is 0.
    """
    z, n = F.normalize(z, dim=1), len(z)
    n_positives, n_negatives = (count.sum().clamp(min=1) for count in _counts(ids))

    def losses(block, z):
        positive, negative = _positives_and_negatives(ids, block)
        d = _distances(z, block)
        near = torch.where(positive, d.square(), 0.0).sum(1)
        far = torch.where(negative, F.relu(margin - d).square(), 0.0).sum(1)
        return near / n_positives + far / n_negatives

    return _per_anchor(losses, n, n, z).sum()


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
    n_positives, n_negatives = _counts(ids)
    most = int(n_positives.max())

    def losses(block, z):
        positive, negative = _positives_and_negatives(ids, block)
        squares = _square_distances(z, block)
        return _MINING[mining](squares, positive, negative, margin, most)

    n_triplets = {
        "all": n_positives * n_negatives,
        "semi_hard": n_positives * (n_negatives > 0),
        "hard": (n_positives > 0) & (n_negatives > 0),
    }[mining].sum()
    return _per_anchor(losses, n, n, z).sum() / n_triplets.clamp(min=1)


# The triplets of anchors, summed for each: `squares` (n_anchors, n_views) are d², of
# which `positive` and `negative` say whose they are; no anchor has more positives than
# `most`. Positives are sorted, and ranks count among them; where there are fewer, they
# end with infinities. No triplet is ever written down: a negative knows by its rank
# which positives are nearer, and all of one rank are counted or compared at once.


def _sorted_positives(squares, positive, most):
    squares = squares.masked_fill(~positive, torch.inf)
    return squares.topk(most, dim=1, largest=False).values


def _all_triplets(squares, positive, negative, margin, most):
    near = _sorted_positives(squares, positive, most)
    # The triplets above 0 have positives of this rank or higher.
    ranks = torch.searchsorted(near.detach(), squares.detach() - margin, right=True)
    n_of_rank = torch.zeros_like(squares[:, : most + 1])
    n_of_rank.scatter_add_(1, ranks, negative.to(squares.dtype))
    per_positive = n_of_rank.cumsum(1)[:, :most]
    per_negative = (positive.sum(1, keepdim=True) - ranks) * negative
    near = torch.where(near.isfinite(), near + margin, 0.0)
    return (per_positive * near).sum(1) - (per_negative * squares).sum(1)


def _semi_hard_triplets(squares, positive, negative, margin, most):
    near = _sorted_positives(squares, positive, most)
    ranks = torch.searchsorted(near.detach(), squares.detach())
    far = squares.masked_fill(~negative, torch.inf)
    nearest = torch.full_like(squares[:, : most + 1], torch.inf)
    nearest = nearest.scatter_reduce(1, ranks, far, "amin")
    farther = nearest[:, 1:].flip(1).cummin(1).values.flip(1)
    farthest = squares.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
    far = torch.where(farther.isfinite(), farther, farthest)
    exists = near.isfinite() & far.isfinite()
    return torch.where(exists, F.relu(near - far + margin), 0.0).sum(1)


def _hard_triplets(squares, positive, negative, margin, most):
    near = squares.masked_fill(~positive, -torch.inf).amax(1)
    far = squares.masked_fill(~negative, torch.inf).amin(1)
    exists = near.isfinite() & far.isfinite()
    return torch.where(exists, F.relu(near - far + margin), 0.0)


_MINING = {
    "semi_hard": _semi_hard_triplets,
    "all": _all_triplets,
    "hard": _hard_triplets,
}


def lifted_structured(z, ids, margin, form="smooth"):
    """Compute the lifted structured loss, 1 / (2 |P|) Σ max(0, L_ij)².

    The sum is over the pairs P of positives. L_ij is d_ij plus the logarithm of
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
    n_positives, n_negatives = _counts(ids)
    has_pairs = (n_positives > 0) & (n_negatives > 0)

    def nearness(block, z):
        _, negative = _positives_and_negatives(ids, block)
        near = (margin - _distances(z, block)).masked_fill(~negative, -torch.inf)
        near = near.logsumexp(1) if form == "smooth" else near.amax(1)
        return torch.where(has_pairs[block], near, 0.0)

    def losses(block, z, near):
        positive, _ = _positives_and_negatives(ids, block)
        combine = torch.logaddexp if form == "smooth" else torch.maximum
        excess = combine(near[block, None], near) + _distances(z, block)
        exists = positive & has_pairs[block, None]
        return torch.where(exists, F.relu(excess).square(), 0.0).sum(1)

    n_pairs = (n_positives * has_pairs).sum().clamp(min=1)
    near = _per_anchor(nearness, n, n, z)
    return _per_anchor(losses, n, n, z, near).sum() / (2 * n_pairs)


def n_pair(a, b, ids=None):
    """Compute the multi-class N-pair loss, log(1 + Σ exp(aᵢ·bⱼ - aᵢ·bᵢ)), j ≠ i.

    Parameters
    ----------
    a, b : torch.Tensor of shape (n, width)
        Anchors and their positives, of any length.
    ids : torch.Tensor of shape (n,), optional
        Of the rows, if some share theirs: these are then no negatives of each other.

    Returns
    -------
    torch.Tensor
        A 0-d tensor: the mean over the anchors.
    """
    n = len(a)
    ids = torch.arange(n, device=a.device) if ids is None else ids

    def losses(block, a, b):
        left_out, _ = _positives_and_negatives(ids, block)
        products = (a[block] @ b.T).masked_fill(left_out, -torch.inf)
        return products.logsumexp(1) - products.diagonal(block.start)

    return _per_anchor(losses, n, n, a, b).mean()


def prediction(predictions, targets):
    """Compute how far predictions are from the partners' targets: 2 - 2 cos.

    That is the squared Euclidean distance of the normalised rows.

    Parameters
    ----------
    predictions, targets : torch.Tensor of shape (2n, width)
        View n + i is the partner of view i. The targets get no gradient.

    Returns
    -------
    torch.Tensor
        A 0-d tensor: the mean over the views.
    """
    predictions, targets = F.normalize(predictions), F.normalize(targets.detach())
    partners = targets.roll(len(targets) // 2, 0)
    return 2 - 2 * (predictions * partners).sum(1).mean()


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


class Objective(Part):
    """Base class of the objectives.

    An objective of your own implements `build`.
    """

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch.

        Parameters
        ----------
        encoder : torch.nn.Module
            Maps (n, n_columns) to (n, n_components). The module may copy it, for a
            target that follows it, but must not own it: its codes come with the views.
        head : torch.nn.Sequential
            The projection head, for the module to own. It maps (n, n_components) to
            (n, width); its last layer is linear.
        n_components : int

        Returns
        -------
        torch.nn.Module
            ``forward(views)`` takes :class:`Views` and returns a dict of named 0-d loss
            terms that sum to the loss. Targets, queues and predictors belong to the
            module; they change in training mode only. Its optional
            ``after_step(encoder)`` is called after every step of the optimiser.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


class _OfProjections(nn.Module):
    """A loss of the projections of all views and their ids.

    It is an attribute of the class: the engine leaves modules alone that have functions
    of their own.
    """

    loss: Callable

    def __init__(self, head, **options):
        super().__init__()
        self.head = head
        self.options = options

    def forward(self, views):
        z = self.head(views.codes)
        return {self.loss.__name__: self.loss(z, views.ids, **self.options)}


class _Temperature(nn.Module):
    """The number that divides similarities, fixed or learned.

    What is learned is its logarithm. It is brought back to the least temperature after
    a step that went below, and never has a slope of 0: it can always rise again.
    """

    def __init__(self, part):
        super().__init__()
        self.fixed = part.temperature
        self.is_learned = part.learn_temperature
        if self.is_learned:
            self.logarithm = nn.Parameter(torch.tensor(float(part.temperature)).log())
            self.least = math.log(part.min_temperature)

    def forward(self):
        return self.logarithm.exp() if self.is_learned else self.fixed

    @torch.no_grad()
    def after_step(self):
        if self.is_learned:
            self.logarithm.clamp_(min=self.least)


class _HasTemperature(Objective):
    _parameter_constraints: dict = {
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "learn_temperature": ["boolean"],
        "min_temperature": [Interval(Real, 0, None, closed="neither")],
    }

    def _validate_params(self):
        super()._validate_params()
        if self.learn_temperature and self.temperature < self.min_temperature:
            raise ValueError(
                f"The temperature={self.temperature!r} of {type(self).__name__}, at "
                "which learning starts, must not be below "
                f"min_temperature={self.min_temperature!r}. Raise the one or lower the "
                "other."
            )


class NTXent(_HasTemperature, name="nt_xent"):
    """Normalised temperature-scaled cross-entropy between two views (InfoNCE).

    Every projected view is told from the 2n - 2 projections of the other rows by its
    cosine similarity to its partner. Where more than two views share an id, the others
    of that id are left out: they are neither positives nor negatives.

    Parameters
    ----------
    temperature : float, default=0.05
        Divides the similarities. Low temperatures weigh the nearest negatives most.
    learn_temperature : bool, default=False
        Whether the temperature is learned, from `temperature` on.
    min_temperature : float, default=0.02
        The least temperature that may be learned.

    References
    ----------
    Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning
    of Visual Representations", ICML 2020.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import NTXent
    >>> ContrastiveTransformer(objective=NTXent(temperature=0.5))
    ContrastiveTransformer(objective=NTXent(temperature=0.5))
    """

    def __init__(self, temperature=0.05, learn_temperature=False, min_temperature=0.02):
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.min_temperature = min_temperature

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch."""
        return _NTXent(head, _Temperature(self))


class _NTXent(nn.Module):
    def __init__(self, head, temperature):
        super().__init__()
        self.head = head
        self.temperature = temperature

    def forward(self, views):
        a, b = self.head(views.codes).chunk(2)
        ids = None if views.pairs_only else views.ids[: len(a)]
        return {"nt_xent": nt_xent(a, b, self.temperature(), ids)}

    def after_step(self, encoder):
        self.temperature.after_step()


class SupCon(_HasTemperature, name="sup_con"):
    """Supervised contrastive loss: every view is drawn to all views of its id.

    The loss of a projected view is minus the mean, over its positives, of the logarithm
    of the probability that the softmax of the cosine similarities to all other views
    gives them. It is NT-Xent if partners are the only positives.

    Parameters
    ----------
    temperature : float, default=0.1
        Divides the similarities. Low temperatures weigh the nearest negatives most.
    learn_temperature : bool, default=False
        Whether the temperature is learned, from `temperature` on.
    min_temperature : float, default=0.02
        The least temperature that may be learned.

    References
    ----------
    Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu and Krishnan,
    "Supervised Contrastive Learning", NeurIPS 2020.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import SupCon
    >>> ContrastiveTransformer(objective=SupCon(temperature=0.2))
    ContrastiveTransformer(objective=SupCon(temperature=0.2))
    """

    def __init__(self, temperature=0.1, learn_temperature=False, min_temperature=0.02):
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.min_temperature = min_temperature

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch."""
        return _SupCon(head, _Temperature(self))


class _SupCon(nn.Module):
    def __init__(self, head, temperature):
        super().__init__()
        self.head = head
        self.temperature = temperature

    def forward(self, views):
        z = self.head(views.codes)
        return {"sup_con": sup_con(z, views.ids, self.temperature())}

    def after_step(self, encoder):
        self.temperature.after_step()


class Contrastive(Objective, name="contrastive"):
    """Contrastive loss of pairs: positives together, negatives a margin apart.

    The mean of d² over the positive pairs of views plus the mean of max(0, margin - d)²
    over the negative pairs, with d the Euclidean distance of the normalised
    projections.

    Parameters
    ----------
    margin : float, default=1.0
        Distance from which on a negative no longer counts. The largest distance there
        is, is 2; that of orthogonal projections is 1.41.

    References
    ----------
    Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant
    Mapping", CVPR 2006.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import Contrastive
    >>> ContrastiveTransformer(objective=Contrastive(margin=0.5))
    ContrastiveTransformer(objective=Contrastive(margin=0.5))
    """

    _parameter_constraints: dict = {
        "margin": [Interval(Real, 0, None, closed="neither")]
    }

    def __init__(self, margin=1.0):
        self.margin = margin

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch."""
        return _Contrastive(head, margin=self.margin)


class _Contrastive(_OfProjections):
    loss = staticmethod(contrastive)


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


class _Triplet(_OfProjections):
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


class _LiftedStructured(_OfProjections):
    loss = staticmethod(lifted_structured)


class NPair(Objective, name="n_pair"):
    """Multi-class N-pair loss: a softmax over raw dot products with other rows' views.

    First views are the anchors. Each is told to find its partner among the second
    views, by log(1 + Σ exp(fᵢ·fⱼ⁺ - fᵢ·fᵢ⁺)); second views of its own id are left out,
    but for the partner. Projections are not normalised: their length acts as an inverse
    temperature, which a penalty keeps finite.

    Parameters
    ----------
    l2_weight : float, default=1e-3
        Factor of the mean squared length of the projections.

    References
    ----------
    Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective",
    NeurIPS 2016.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import NPair
    >>> ContrastiveTransformer(objective=NPair(l2_weight=0.01))
    ContrastiveTransformer(objective=NPair(l2_weight=0.01))
    """

    _parameter_constraints: dict = {
        "l2_weight": [Interval(Real, 0, None, closed="left")]
    }

    def __init__(self, l2_weight=1e-3):
        self.l2_weight = l2_weight

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch."""
        return _NPair(head, self.l2_weight)


class _NPair(nn.Module):
    def __init__(self, head, l2_weight):
        super().__init__()
        self.head = head
        self.l2_weight = l2_weight

    def forward(self, views):
        z = self.head(views.codes)
        a, b = z.chunk(2)
        ids = None if views.pairs_only else views.ids[: len(a)]
        length = self.l2_weight * z.square().sum(1).mean()
        return {"n_pair": n_pair(a, b, ids), "length": length}


class _Target(nn.Module):
    """A copy of encoder and head that follows them as a moving average."""

    def __init__(self, encoder, head):
        super().__init__()
        self.encoder, self.head = copy.deepcopy((encoder, head))
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, rows):
        return self.head(self.encoder(rows))

    @torch.no_grad()
    def follow(self, encoder, head, momentum):
        online = chain(encoder.parameters(), head.parameters())
        for p, q in zip(self.parameters(), online, strict=True):
            p.lerp_(q, 1 - momentum)


class MoCo(_HasTemperature, name="moco"):
    """Momentum contrast: InfoNCE against a queue of the keys of earlier batches.

    A target, the moving average of encoder and head, makes keys of the views. Every
    projected view is told to find the key of its partner among the keys in the queue,
    by cosine similarity; the batch's own keys enter the queue afterwards. Keys of the
    view's own id in the queue are left out. The number of negatives does not depend on
    the batch size.

    Parameters
    ----------
    temperature : float, default=0.1
        Divides the similarities. Low temperatures weigh the nearest negatives most.
    momentum : float, default=0.99
        Share of the target that is kept at each step; the rest is the online network.
    queue_size : int, default=1024
        Number of keys that are remembered. Each row of a batch brings two.
    learn_temperature : bool, default=False
        Whether the temperature is learned, from `temperature` on.
    min_temperature : float, default=0.02
        The least temperature that may be learned.

    References
    ----------
    He, Fan, Wu, Xie and Girshick, "Momentum Contrast for Unsupervised Visual
    Representation Learning", CVPR 2020.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import MoCo
    >>> ContrastiveTransformer(objective=MoCo(queue_size=4096))
    ContrastiveTransformer(objective=MoCo(queue_size=4096))
    """

    _parameter_constraints: dict = {
        **_HasTemperature._parameter_constraints,
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "queue_size": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        temperature=0.1,
        momentum=0.99,
        queue_size=1024,
        learn_temperature=False,
        min_temperature=0.02,
    ):
        self.temperature = temperature
        self.momentum = momentum
        self.queue_size = queue_size
        self.learn_temperature = learn_temperature
        self.min_temperature = min_temperature

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch."""
        target = _Target(encoder, head)
        return _MoCo(head, target, _Temperature(self), self.momentum, self.queue_size)


class _MoCo(nn.Module):
    queue: torch.Tensor
    queue_ids: torch.Tensor
    position: torch.Tensor

    def __init__(self, head, target, temperature, momentum, queue_size):
        super().__init__()
        self.head = head
        self.target = target
        self.temperature = temperature
        self.momentum = momentum
        width = head[-1].out_features
        self.register_buffer("queue", torch.zeros(queue_size, width))
        self.register_buffer("queue_ids", torch.full((queue_size,), _NOBODY))
        self.register_buffer("position", torch.tensor(0))  # of the oldest key

    def forward(self, views):
        queries, keys = self.head(views.codes), self.target(views.rows)
        partners = keys.roll(len(keys) // 2, 0)
        queue, queue_ids = self.queue, self.queue_ids
        if not self.training:
            # Losses of different epochs compare: the queue changes, and holds ids of
            # other rows than those to validate on.
            queue, queue_ids = F.normalize(keys), views.ids
        loss = moco(queries, partners, views.ids, queue, queue_ids, self.temperature())
        if self.training:
            self.enqueue(F.normalize(keys), views.ids)
        return {"moco": loss}

    def enqueue(self, keys, ids):
        """Put keys in the place of the oldest; all but the last that find room go."""
        n = len(self.queue)
        keys, ids = keys[-n:], ids[-n:]
        slots = (self.position + torch.arange(len(ids), device=ids.device)) % n
        # Copies: the derivatives of the loss still need the queue as it was.
        self.queue = self.queue.index_copy(0, slots, keys)
        self.queue_ids = self.queue_ids.index_copy(0, slots, ids)
        self.position = (self.position + len(ids)) % n

    def after_step(self, encoder):
        self.temperature.after_step()
        self.target.follow(encoder, self.head, self.momentum)


def _predictor(width):
    """Build what predicts the partner's projection.

    Batch normalisation keeps the predictions of a batch apart, without which nothing
    would keep all codes from becoming equal.
    """
    return nn.Sequential(
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width),
    )


class BYOL(Objective, name="byol"):
    """Bootstrap your own latent: predict the projections of a slow copy of the network.

    A predictor takes the projection of every view to the projection that the target,
    the moving average of encoder and head, makes of its partner. The loss is 2 - 2 cos
    of the two, a mean over the views; the target gets no gradient. There are no
    negatives, and ids are not used.

    Parameters
    ----------
    momentum : float, default=0.99
        Share of the target that is kept at the first step; it rises to 1 along a cosine
        until the end of training.

    References
    ----------
    Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised
    Learning", NeurIPS 2020.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import BYOL
    >>> ContrastiveTransformer(objective=BYOL(momentum=0.9))
    ContrastiveTransformer(objective=BYOL(momentum=0.9))
    """

    _parameter_constraints: dict = {"momentum": [Interval(Real, 0, 1, closed="left")]}

    def __init__(self, momentum=0.99):
        self.momentum = momentum

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch."""
        return _BYOL(head, _Target(encoder, head), self.momentum)


class _BYOL(nn.Module):
    progress: torch.Tensor

    def __init__(self, head, target, momentum):
        super().__init__()
        self.head = head
        self.target = target
        self.momentum = momentum
        self.predictor = _predictor(head[-1].out_features)
        self.register_buffer("progress", torch.tensor(0.0))

    def forward(self, views):
        predictions = self.predictor(self.head(views.codes))
        if self.training:
            self.progress.copy_(views.progress)
        return {"byol": prediction(predictions, self.target(views.rows))}

    def after_step(self, encoder):
        rest = (1 - self.momentum) * (1 + torch.cos(torch.pi * self.progress)) / 2
        self.target.follow(encoder, self.head, 1 - rest)


class SimSiam(Objective, name="simsiam"):
    """Simple Siamese networks: predict the projection of the partner.

    A predictor takes the projection of every view to that of its partner, which gets no
    gradient. The loss is 2 - 2 cos of the two, a mean over the views: the paper's
    -cos, but 0 where they agree. There are no negatives, and ids are not used.

    References
    ----------
    Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import SimSiam
    >>> ContrastiveTransformer(objective=SimSiam())
    ContrastiveTransformer(objective=SimSiam())
    """

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch."""
        return _SimSiam(head)


class _SimSiam(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head
        self.predictor = _predictor(head[-1].out_features)

    def forward(self, views):
        z = self.head(views.codes)
        return {"simsiam": prediction(self.predictor(z), z)}


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


class _WeightedTerms(nn.Module):
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

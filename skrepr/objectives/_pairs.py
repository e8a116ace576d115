"""Objectives of pairs: positives near to each other, negatives far apart."""

from numbers import Real

import torch
from torch.nn import functional as F

from skrepr._sklearn import Interval
from skrepr._training._stacks import refuse_second_derivatives
from skrepr._training._threads import matmul
from skrepr.objectives._base import (
    Objective,
    ObjectiveModule,
    ProjectionLoss,
    Temperature,
    TemperatureObjective,
)
from skrepr.objectives._blocks import (
    pair_blocks,
    pair_counts,
    pair_distances,
    per_anchor,
    positives_and_negatives,
)

# The temperature from which on all logits may be shifted alike before the exponential:
# they differ by 2 / 0.025 at most, and exp(-80) is a float32.
_MIN_SHARED_SHIFT = 0.025


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
    ids = None if ids is None else ids.repeat(2)
    return _NTXentLoss.apply(F.normalize(torch.cat([a, b]), dim=1), temperature, ids)


def _nt_xent_and_slope(z, temperature, ids):
    """Compute the NT-Xent loss of 2n normalised views and its derivative by them.

    Logits are shifted before the exponential, by 1 / temperature, which none exceeds,
    or at low temperatures by the largest of their row.
    """
    n, n_views = len(z) // 2, len(z)
    scaled, partners = z / temperature, z.roll(n, 0)
    is_shared = bool(temperature >= _MIN_SHARED_SHIFT)
    blocks = pair_blocks(n_views, n_views)

    def exponentials(block):
        logits = matmul(scaled[block], z.T)
        if ids is None:
            logits.diagonal(block.start).fill_(-torch.inf)
        else:
            partner = torch.arange(block.start, block.stop, device=z.device) + n
            left_out = ids[block, None] == ids
            left_out.scatter_(1, partner[:, None] % n_views, False)
            logits.masked_fill_(left_out, -torch.inf)
        shift = 1 / temperature if is_shared else logits.amax(1, keepdim=True)
        return logits.sub_(shift).exp_(), shift

    sums, shifts = z.new_empty(2, n_views, 1)
    slope = torch.zeros_like(z)
    for block in blocks:
        cells, shifts[block] = exponentials(block)
        sums[block] = cells.sum(1, keepdim=True)
    weights = 1 / sums
    for block in blocks:
        if len(blocks) > 1:
            cells, _ = exponentials(block)
        # A logit has its weight in the softmax of its row and in that of its column.
        if is_shared:
            slope[block] = matmul(cells.mul_(weights[block] + weights.T), z)
        else:
            cells.mul_(weights[block])
            slope[block] += matmul(cells, z)
            slope += matmul(cells.T, z[block])
    slope.sub_(partners, alpha=2).div_(n_views * temperature)
    positives = (scaled * partners).sum(1, keepdim=True)
    return (sums.log() + shifts - positives).mean(), slope


class _NTXentLoss(torch.autograd.Function):
    """NT-Xent of normalised views as one node of the autograd graph."""

    @staticmethod
    def forward(ctx, z, temperature, ids):
        loss, ctx.slope = _nt_xent_and_slope(z, temperature, ids)
        ctx.by_temperature = None
        if ctx.needs_input_grad[1]:
            # The loss depends on products of two views, over the temperature.
            ctx.by_temperature = -(z * ctx.slope).sum() / (2 * temperature)
        return loss

    @staticmethod
    def backward(ctx, slope):
        refuse_second_derivatives()
        by_temperature = ctx.by_temperature
        if by_temperature is not None:
            by_temperature = by_temperature * slope
        return ctx.slope * slope, by_temperature, None


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
    z, n, n_positives = F.normalize(z, dim=1), len(z), pair_counts(ids)[0]

    def losses(block, z, temperature):
        positive, negative = positives_and_negatives(ids, block)
        logits = (z[block] / temperature) @ z.T
        mean = torch.where(positive, logits, 0.0).sum(1) / n_positives[block]
        logits = logits.masked_fill(~(positive | negative), -torch.inf)
        return torch.where(n_positives[block] > 0, logits.logsumexp(1) - mean, 0.0)

    n_anchors = (n_positives > 0).sum().clamp(min=1)
    return per_anchor(losses, n, n, z, temperature).sum() / n_anchors


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
    n_positives, n_negatives = (count.sum().clamp(min=1) for count in pair_counts(ids))

    def losses(block, z):
        positive, negative = positives_and_negatives(ids, block)
        d = pair_distances(z, block)
        attraction = torch.where(positive, d.square(), 0.0).sum(1)
        repulsion = torch.where(negative, F.relu(margin - d).square(), 0.0).sum(1)
        return attraction / n_positives + repulsion / n_negatives

    return per_anchor(losses, n, n, z).sum()


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
        left_out, _ = positives_and_negatives(ids, block)
        products = (a[block] @ b.T).masked_fill(left_out, -torch.inf)
        return products.logsumexp(1) - products.diagonal(block.start)

    return per_anchor(losses, n, n, a, b).mean()


class NTXent(TemperatureObjective, name="nt_xent"):
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
        return _NTXent(head, Temperature(self))


class _NTXent(ObjectiveModule):
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


class SupCon(TemperatureObjective, name="sup_con"):
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
        return _SupCon(head, Temperature(self))


class _SupCon(ObjectiveModule):
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


class _Contrastive(ProjectionLoss):
    loss = staticmethod(contrastive)


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


class _NPair(ObjectiveModule):
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

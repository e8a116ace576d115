"""Objectives of contrastive learning: what the views of a batch should agree on."""

from numbers import Real

import torch
from torch import nn
from torch.nn import functional as F

from skrepr._engine import matmul, refuse_second_derivatives
from skrepr._sklearn import Interval
from skrepr.parts import Part

_LEAST_NORM = 1e-12  # of F.normalize
_LEAST_FAST_TEMPERATURE = 0.025  # exp(-2 / 0.025) is still a float32


class Objective(Part):
    """Base class of the objectives.

    An objective of your own implements `build`.
    """

    def build(self, encoder, head, n_components):
        """Build the module that owns encoder and head and computes the loss.

        Parameters
        ----------
        encoder : torch.nn.Module
            Maps (n, n_columns) to (n, n_components).
        head : torch.nn.Module
            The projection head, maps (n, n_components) to (n, any width).
        n_components : int

        Returns
        -------
        torch.nn.Module
            With the attribute ``encoder``, and ``forward(batch, augment, ids)``, which
            returns a dict of named 0-d loss terms that sum to the loss.
            ``augment(batch.x, batch.generator)`` makes a fresh view (n, n_columns) of
            the batch; ``ids`` (n,) are integers, and rows of one id are positives of
            each other. Targets, queues and predictors belong to the module; its
            optional ``after_step()`` is called after every step.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


class NTXent(Objective):
    """Normalised temperature-scaled cross-entropy between two views (InfoNCE).

    Every projected view is told from the 2n - 2 projections of the other rows by its
    cosine similarity to the other view of its own row.

    Parameters
    ----------
    temperature : float, default=0.2
        Divides the similarities. Low temperatures weigh the nearest negatives most.

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

    _parameter_constraints: dict = {
        "temperature": [Interval(Real, 0, None, closed="neither")]
    }

    def __init__(self, temperature=0.2):
        self.temperature = temperature

    def build(self, encoder, head, n_components):
        """Build the module that owns encoder and head and computes the loss."""
        return _NTXent(encoder, head, self.temperature)


def nt_xent(a, b, temperature):
    """Compute the NT-Xent loss of two views, a mean over both.

    Parameters
    ----------
    a, b : torch.Tensor of shape (n, n_components)
        Row i of one is the positive of row i of the other.
    temperature : float

    Returns
    -------
    torch.Tensor
        A 0-d tensor.
    """
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    is_number = not isinstance(temperature, torch.Tensor)  # without derivative
    if is_number and temperature >= _LEAST_FAST_TEMPERATURE:
        return _FastNTXent.apply(a, b, temperature)
    n, z = len(a), torch.cat([a, b])
    logits = z @ z.T / temperature
    logits.fill_diagonal_(-torch.inf)
    positives = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(logits, positives)


def _nt_xent_and_slopes(a, b, temperature):
    """Compute the NT-Xent loss of normalised views and its derivatives by them.

    Similarities are symmetric: those within a, within b and between them are all there
    are. None exceeds 1, so that 1 / temperature may be subtracted from all logits
    before the exponential, instead of the maximum of each row, as long as the least
    logit, -2 / temperature then, does not underflow.
    """
    n, scaled = len(a), a / temperature
    positive = (scaled * b).sum()
    aa, ab = matmul(scaled, a.T), matmul(scaled, b.T)
    bb = matmul(b / temperature, b.T)
    for block in (aa, ab, bb):
        block.sub_(1 / temperature).exp_()
    aa.fill_diagonal_(0)
    bb.fill_diagonal_(0)
    sum_a, sum_b = aa.sum(1) + ab.sum(1), bb.sum(1) + ab.sum(0)
    logs = sum_a.log().sum() + sum_b.log().sum()
    # A logit has its weight in the softmax of its row and in that of its column.
    per_a, per_b = 1 / sum_a, 1 / sum_b
    aa.mul_(per_a[:, None] + per_a)
    ab.mul_(per_a[:, None] + per_b)
    bb.mul_(per_b[:, None] + per_b)
    factor = 1 / (2 * n * temperature)
    slope_a = (matmul(aa, a) + matmul(ab, b)).sub_(b, alpha=2).mul_(factor)
    slope_b = (matmul(ab.T, a) + matmul(bb, b)).sub_(a, alpha=2).mul_(factor)
    return (logs - 2 * positive) / (2 * n) + 1 / temperature, slope_a, slope_b


class _FastNTXent(torch.autograd.Function):
    """NT-Xent of normalised views as one node of the autograd graph."""

    @staticmethod
    def forward(ctx, a, b, temperature):
        loss, *ctx.slopes = _nt_xent_and_slopes(a, b, temperature)
        return loss

    @staticmethod
    def backward(ctx, slope):
        refuse_second_derivatives()
        slope_a, slope_b = ctx.slopes
        return slope_a * slope, slope_b * slope, None


class _NTXent(nn.Module):
    def __init__(self, encoder, head, temperature):
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.temperature = temperature

    def forward(self, batch, augment, ids):
        # The two views of a row are its positives, whatever its id. They go in one
        # pass: half the calls, and one batch for batch norm.
        views = [augment(batch.x, batch.generator) for _ in range(2)]
        a, b = self.head(self.encoder(torch.cat(views))).chunk(2)
        return {"nt_xent": nt_xent(a, b, self.temperature)}

    def by_hand(self, stacks):
        encoder, head = stacks.get(self.encoder), stacks.get(self.head)
        if encoder is None or head is None:
            return None
        if self.temperature < _LEAST_FAST_TEMPERATURE:
            return None

        def loss_and_gradients(batch, augment):
            views = [augment(batch.x, batch.generator) for _ in range(2)]
            codes, encoding = encoder.forward(torch.cat(views))
            projected, projecting = head.forward(codes)
            norms = projected.norm(dim=1, keepdim=True).clamp_(min=_LEAST_NORM)
            unit = projected.div_(norms)
            a, b = unit.chunk(2)
            loss, *slopes = _nt_xent_and_slopes(a, b, self.temperature)
            slope = torch.cat(slopes)
            slope.sub_(unit.mul_((unit * slope).sum(dim=1, keepdim=True))).div_(norms)
            slope = head.backward(projecting, slope)
            encoder.backward(encoding, slope, to_inputs=False)
            return {"nt_xent": loss}

        return loss_and_gradients


Objective.names = {"nt_xent": NTXent}

"""Objectives with targets from a slower or a stopped encoder."""

import copy
from itertools import chain
from numbers import Integral, Real

import torch
from torch import nn
from torch.nn import functional as F

from skrepr._sklearn import Interval
from skrepr.objectives._base import (
    Objective,
    ObjectiveModule,
    Temperature,
    TemperatureObjective,
)
from skrepr.objectives._blocks import per_anchor

NOBODY = torch.iinfo(torch.int64).min  # the id of a slot of the queue that is empty


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
        left_out = (ids[block, None] == queue_ids) | (queue_ids == NOBODY)
        negative = (query @ queue.T).masked_fill(left_out, -torch.inf)
        logits = torch.cat([positive, negative], dim=1)
        return logits.logsumexp(1) - logits[:, 0]

    n, n_queue = len(queries), len(queue)
    return per_anchor(losses, n, 1 + n_queue, queries, temperature).mean()


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


class MoCo(TemperatureObjective, name="moco"):
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
        **TemperatureObjective._parameter_constraints,
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
        return _MoCo(head, target, Temperature(self), self.momentum, self.queue_size)


class _MoCo(ObjectiveModule):
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
        self.register_buffer("queue_ids", torch.full((queue_size,), NOBODY))
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


class _BYOL(ObjectiveModule):
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
        step = (1 - self.momentum) * (1 + torch.cos(torch.pi * self.progress)) / 2
        self.target.follow(encoder, self.head, 1 - step)


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


class _SimSiam(ObjectiveModule):
    def __init__(self, head):
        super().__init__()
        self.head = head
        self.predictor = _predictor(head[-1].out_features)

    def forward(self, views):
        z = self.head(views.codes)
        return {"simsiam": prediction(self.predictor(z), z)}

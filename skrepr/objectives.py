"""Objectives of contrastive learning: what the views of a batch should agree on."""

from numbers import Real

import torch
from torch import nn
from torch.nn import functional as F

from skrepr._sklearn import Interval
from skrepr.parts import Part


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
    n = len(a)
    z = F.normalize(torch.cat([a, b]), dim=1)
    logits = z @ z.T / temperature
    logits.fill_diagonal_(-torch.inf)
    positives = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(logits, positives)


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


Objective.names = {"nt_xent": NTXent}

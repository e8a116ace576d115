"""Auxiliary tasks: what codes of contrastive learning should be good for besides."""

from numbers import Real

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skrepr._sklearn import Interval
from skrepr.parts import Part

_WIDTH = 256  # of the hidden layer of a predictor


class Auxiliary(Part):
    """Base class of the auxiliary tasks.

    An auxiliary task of your own implements `build`.
    """

    def build(self, columns, n_components):
        """Build the module that computes the loss of the task.

        Parameters
        ----------
        columns : Columns
            The layout of the matrix: how many columns, and which of them vary.
        n_components : int

        Returns
        -------
        torch.nn.Module
            Its ``forward(views)`` maps :class:`~skrepr.objectives.Views` to a dict of
            named 0-d loss terms, which are added to those of the objective.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


class SelfPrediction(Auxiliary):
    """Predict from the code of a view what was changed, and what it was before.

    Parameters
    ----------
    reconstruction_weight : float, default=1.0
        Factor of the mean squared error of the row before its change, in variances of
        the columns.
    mask_weight : float, default=0.0
        Factor of the binary cross-entropy of telling the changed cells from the others.

    References
    ----------
    Yoon, Zhang, Jordon and van der Schaar, "VIME: Extending the Success of Self- and
    Semi-supervised Learning to Tabular Domain", NeurIPS 2020.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.auxiliaries import SelfPrediction
    >>> ContrastiveTransformer(auxiliary=SelfPrediction(mask_weight=1.0))
    ContrastiveTransformer(auxiliary=SelfPrediction(mask_weight=1.0))
    """

    _parameter_constraints: dict = {
        "reconstruction_weight": [Interval(Real, 0, None, closed="left")],
        "mask_weight": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, reconstruction_weight=1.0, mask_weight=0.0):
        self.reconstruction_weight = reconstruction_weight
        self.mask_weight = mask_weight

    def build(self, columns, n_components):
        """Build the module that computes the loss of the task."""
        return _SelfPrediction(
            columns, n_components, self.reconstruction_weight, self.mask_weight
        )


class _SelfPrediction(nn.Module):
    scale: torch.Tensor
    varies: torch.Tensor

    def __init__(self, columns, n_components, reconstruction_weight, mask_weight):
        super().__init__()
        self.reconstruction_weight = reconstruction_weight
        self.mask_weight = mask_weight
        scale = np.where(columns.varies, columns.std, 1.0)
        self.register_buffer("scale", torch.as_tensor(scale).float())
        self.register_buffer("varies", torch.as_tensor(columns.varies))
        self.reconstruct, self.find_mask = (
            _predictor(n_components, len(columns)) if weight > 0 else None
            for weight in (reconstruction_weight, mask_weight)
        )

    def forward(self, views):
        terms = {}
        if self.reconstruct is not None:
            errors = (self.reconstruct(views.codes) - views.originals) / self.scale
            terms["reconstruction"] = self.reconstruction_weight * self._mean(
                errors.square()
            )
        if self.find_mask is not None:
            changed = (views.rows != views.originals).to(views.rows.dtype)
            terms["mask"] = self.mask_weight * self._mean(
                F.binary_cross_entropy_with_logits(
                    self.find_mask(views.codes), changed, reduction="none"
                )
            )
        return terms

    def _mean(self, costs):
        """Average over the cells of the columns that vary."""
        n_cells = len(costs) * self.varies.sum().clamp(min=1)
        return torch.where(self.varies, costs, 0.0).sum() / n_cells


def _predictor(n_inputs, n_outputs):
    return nn.Sequential(
        nn.Linear(n_inputs, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, n_outputs)
    )


Auxiliary.names = {"self_prediction": SelfPrediction}

"""Auxiliary tasks: what codes of contrastive learning should be good for besides."""

from numbers import Real

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skrepr._sklearn import Interval
from skrepr.likelihoods._categories import Softmax
from skrepr.parts import Part

__all__ = [
    "Auxiliary",
    "SelfPrediction",
]

_WIDTH = 256  # of the hidden layer of a predictor


class Auxiliary(Part):
    """Base class of the auxiliary tasks.

    An auxiliary task of your own implements `build`.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from torch import nn
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.auxiliaries import Auxiliary
    >>> class RowMean(Auxiliary):
    ...     def build(self, columns, n_components):
    ...         return MeanPrediction(n_components)
    >>> class MeanPrediction(nn.Module):
    ...     def __init__(self, n_components):
    ...         super().__init__()
    ...         self.predict = nn.Linear(n_components, 1)
    ...
    ...     def forward(self, views):
    ...         errors = self.predict(views.codes)[:, 0] - views.originals.mean(1)
    ...         return {"row_mean": errors.square().mean()}
    >>> model = ContrastiveTransformer(auxiliary=RowMean(), max_iter=2, random_state=0)
    >>> sorted(model.fit(load_wine().data).history_)
    ['loss', 'nt_xent', 'row_mean']
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


class SelfPrediction(Auxiliary, name="self_prediction"):
    """Predict from the code of a view what was changed, and what it was before.

    Parameters
    ----------
    reconstruction_weight : float, default=1.0
        Factor of the mean error of the row before its change: of numbers the squared
        error in variances of the column, of categories the cross-entropy over the
        entropy of the column. Cells that were missing do not count.
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
        self.register_buffer("scale", torch.as_tensor(columns.safe_std).float())
        self.register_buffer("varies", torch.as_tensor(columns.varies))
        self.categorical = np.flatnonzero(columns.categorical).tolist()
        self.softmax = Softmax(columns[columns.categorical])
        n_outputs = len(columns) + self.softmax.n_outputs
        self.reconstruct, self.find_mask = (
            _predictor(n_components, n) if weight > 0 else None
            for weight, n in (
                (reconstruction_weight, n_outputs),
                (mask_weight, len(columns)),
            )
        )

    def forward(self, views):
        terms = {}
        missing = views.originals.isnan()
        if self.reconstruct is not None:
            terms["reconstruction"] = self.reconstruction_weight * self._mean(
                self._costs(self.reconstruct(views.codes), views.originals, missing),
                missing,
            )
        if self.find_mask is not None:
            changed = (views.rows != views.originals) & ~(views.rows.isnan() & missing)
            costs = F.binary_cross_entropy_with_logits(
                self.find_mask(views.codes),
                changed.to(views.rows.dtype),
                reduction="none",
            )
            terms["mask"] = self.mask_weight * self._mean(
                costs, torch.zeros_like(missing)
            )
        return terms

    def _costs(self, output, x, missing):
        x = x.masked_fill(missing, 0.0)
        numbers, logits = output[:, : x.shape[1]], output[:, x.shape[1] :]
        costs = ((numbers - x) / self.scale).square()
        if self.categorical:
            costs = costs.clone()
            codes = x[:, self.categorical]
            costs[:, self.categorical] = self.softmax.cost(codes, logits)
        return costs

    def _mean(self, costs, missing):
        """Average over the cells of the columns that vary, without some."""
        counted = self.varies & ~missing
        return torch.where(counted, costs, 0.0).sum() / counted.sum().clamp(min=1)


def _predictor(n_inputs, n_outputs):
    return nn.Sequential(
        nn.Linear(n_inputs, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, n_outputs)
    )

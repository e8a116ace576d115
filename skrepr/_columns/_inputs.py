"""Columns at the ends of a network: what it reads of them, and categories it predicts.

Rows of the matrix hold numbers, codes of categories and NaN, where a cell is missing.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skrepr._training._outputs import build_network

_MAX_ONE_HOT_LEVELS = 16  # of a column whose levels get an input each

# fastai's rule of thumb for the width of the vectors of n levels, 1.6 n^0.56. Its bound
# is that of fastai's earlier rule; it holds from 459 levels on.
_EMBEDDING_FACTOR, _EMBEDDING_EXPONENT, _MAX_EMBEDDING_WIDTH = 1.6, 0.56, 50


class ColumnEncoder(nn.Module):
    """A network behind what turns rows of the matrix into numbers.

    Parameters
    ----------
    columns : Columns
    backbone : Backbone
    n_outputs : int
    constraint : torch.nn.Module, optional
        What the network's output goes through.

    Attributes
    ----------
    inputs : Inputs or None
        None for a table of numbers without holes, which the network reads as they are.
        Where a cell is missing all the same, it reads the mean of the column.
    network : torch.nn.Module
    """

    mean: torch.Tensor

    def __init__(self, columns, backbone, n_outputs, constraint=None):
        super().__init__()
        self.inputs = None if columns.is_plain else Inputs(columns)
        if self.inputs is None:
            self.register_buffer("mean", torch.as_tensor(columns.mean).float())
        n_inputs = len(columns) if self.inputs is None else self.inputs.width
        self.network = build_network(backbone, "encoder", n_inputs, n_outputs)
        self.constraint = constraint

    @property
    def is_plain(self):
        """Whether the network, on the matrix as it is, is everything."""
        return self.inputs is None and self.constraint is None

    def read(self, x):
        """Map rows of the matrix to what the network reads."""
        if self.inputs is None:
            return torch.where(x.isnan(), self.mean, x)
        return self.inputs(x)

    def code(self, inputs):
        """Map what the network reads to codes."""
        code = self.network(inputs)
        return code if self.constraint is None else self.constraint(code)

    def forward(self, x):
        return self.code(self.read(x))


class Inputs(nn.Module):
    """Turn rows of the matrix into numbers for a network.

    A number is passed on, the mean of the column where it is missing. A category
    becomes an input for every level, one of which is 1, or, where there are many
    levels, a vector that is learned; all 0 where it is missing. A column with holes in
    training gets one more input: 1 where it is missing, else 0.

    Parameters
    ----------
    columns : Columns

    Attributes
    ----------
    width : int
        The number of inputs.
    """

    numeric: torch.Tensor
    mean: torch.Tensor
    with_holes: torch.Tensor
    hot_column: torch.Tensor
    hot_level: torch.Tensor

    def __init__(self, columns):
        super().__init__()
        numeric = np.flatnonzero(columns.numeric)
        with_holes = np.flatnonzero(columns.missing)
        one_hot = columns.categorical & (columns.n_levels <= _MAX_ONE_HOT_LEVELS)
        self.register_buffer("numeric", torch.as_tensor(numeric))
        self.register_buffer("mean", torch.as_tensor(columns.mean[numeric]).float())
        self.register_buffer("with_holes", torch.as_tensor(with_holes))
        # Levels that are declared but never occur have nothing to learn from.
        occurs = [shares > 0 for shares in columns.frequencies]
        hot = [
            (j, level)
            for j in np.flatnonzero(one_hot)
            for level in np.flatnonzero(occurs[j])
        ]
        hot_column, hot_level = np.array(hot, int).reshape(-1, 2).T
        self.register_buffer("hot_column", torch.as_tensor(hot_column.copy()))
        self.register_buffer("hot_level", torch.as_tensor(hot_level.copy()).float())
        self.width = len(numeric) + len(with_holes) + len(hot)
        self.embedded = np.flatnonzero(columns.categorical & ~one_hot).tolist()
        for j in self.embedded:
            n_levels = int(columns.n_levels[j])
            width = _embedding_width(n_levels)
            vectors = torch.randn(n_levels, width) / width**0.5
            vectors[torch.as_tensor(~occurs[j])] = 0.0
            self.register_parameter(f"vectors_{j}", nn.Parameter(vectors))
            self.width += width

    def forward(self, x):
        numbers = x.index_select(1, self.numeric)
        inputs = [torch.where(numbers.isnan(), self.mean, numbers)]
        if len(self.hot_column):
            codes = x.index_select(1, self.hot_column)
            inputs.append((codes == self.hot_level).to(x.dtype))
        for j in self.embedded:
            missing = x[:, j].isnan()
            codes = x[:, j].masked_fill(missing, 0).long()
            vectors = F.embedding(codes, getattr(self, f"vectors_{j}"))
            inputs.append(vectors.masked_fill(missing[:, None], 0.0))
        if len(self.with_holes):
            inputs.append(x.index_select(1, self.with_holes).isnan().to(x.dtype))
        return torch.cat(inputs, dim=1)


def _embedding_width(n_levels):
    width = round(_EMBEDDING_FACTOR * n_levels**_EMBEDDING_EXPONENT)
    return min(width, _MAX_EMBEDDING_WIDTH)

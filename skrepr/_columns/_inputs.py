"""Columns at the ends of a network: what it reads of them, and categories it predicts.

Rows of the matrix hold numbers, codes of categories and NaN, where a cell is missing.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skrepr._columns._columns import MAX_FEW_LEVELS
from skrepr._training._outputs import build_network

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
    becomes an input for every class of levels, one of which is 1, or, where there are
    many classes, a vector that is learned; all 0 where it is missing or was in none of
    the training rows. A column with holes in training gets one more input: 1 where it
    is missing, else 0.

    Parameters
    ----------
    columns : Columns

    Attributes
    ----------
    width : int
        The number of inputs.
    vector_columns : list of tuple (str, int, slice)
        Of each categorical column that has vectors: the name of the parameter that
        holds them, the place of the column among the categorical ones, and where its
        vectors stand among the inputs.
    """

    numeric: torch.Tensor
    mean: torch.Tensor
    with_holes: torch.Tensor
    categorical: torch.Tensor
    n_levels: torch.Tensor
    start: torch.Tensor
    class_of: torch.Tensor
    hot: torch.Tensor

    def __init__(self, columns):
        super().__init__()
        numeric = np.flatnonzero(columns.numeric)
        with_holes = np.flatnonzero(columns.missing)
        categorical = np.flatnonzero(columns.categorical)
        n_levels = columns.n_levels[categorical]
        self.register_buffer("numeric", torch.as_tensor(numeric))
        self.register_buffer("mean", torch.as_tensor(columns.mean[numeric]).float())
        self.register_buffer("with_holes", torch.as_tensor(with_holes))
        self.register_buffer("categorical", torch.as_tensor(categorical))
        self.register_buffer("n_levels", torch.as_tensor(n_levels).float())
        self.width = len(numeric)
        # The classes of all levels in turn, those of a column before one that stands
        # for what is missing.
        class_of, hot, n_hot, widths = [], [], 0, {}
        all_classes = columns.classes
        for place, j in enumerate(categorical.tolist()):
            classes, occurs = all_classes[j], columns.counts[j] > 0
            n_classes = int(classes.max()) + 1
            class_of.append(np.append(np.where(occurs, classes, n_classes), n_classes))
            occurring = np.unique(classes[occurs])
            # The input of every class; at -1, which is cut off, for what has none.
            hot_of_class = np.full(n_classes + 1, -1)
            if len(occurring) <= MAX_FEW_LEVELS:
                hot_of_class[occurring] = n_hot + np.arange(len(occurring))
                n_hot += len(occurring)
            else:
                widths[place] = n_classes, vector_width(n_classes)
            hot.append(hot_of_class[class_of[-1]])
        start = np.cumsum([0, *map(len, class_of)])[:-1]
        self.register_buffer("start", torch.as_tensor(start))
        joined = np.concatenate([np.empty(0, int), *class_of])
        self.register_buffer("class_of", torch.as_tensor(joined))
        hot_of = np.concatenate([np.empty(0, int), *hot])
        hot_of[hot_of < 0] = n_hot
        self.register_buffer("hot", torch.as_tensor(hot_of))
        self.n_hot = n_hot
        self.width += n_hot
        self.vector_columns = []
        for place, (n_classes, width) in widths.items():
            name = f"vectors_{categorical[place]}"
            vectors = torch.randn(n_classes, width) / width**0.5
            vectors = torch.cat([vectors, torch.zeros(1, width)])  # of what is missing
            self.register_parameter(name, nn.Parameter(vectors))
            place_of_inputs = slice(self.width, self.width + width)
            self.vector_columns.append((name, place, place_of_inputs))
            self.width += width
        self.width += len(with_holes)

    def forward(self, x):
        places = self._places(x)
        vectors = [
            F.embedding(self.class_of.take(places[:, place]), table, len(table) - 1)
            for table, place, _ in self._vectors()
        ]
        return self._join(x, places, vectors)

    def read_without_vectors(self, x):
        """Return the inputs, 0 in the place of vectors, and the classes of the cells.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)

        Returns
        -------
        inputs : torch.Tensor of shape (n, width)
        classes : torch.Tensor of shape (n, n_categorical)
            To be given to `put_vectors` and `backward`.
        """
        places = self._places(x)
        blanks = [
            x.new_zeros(len(x), inputs.stop - inputs.start)
            for *_, inputs in self.vector_columns
        ]
        return self._join(x, places, blanks), self.class_of.take(places)

    def put_vectors(self, inputs, classes):
        """Write the vectors of the classes into their places among the inputs."""
        for table, place, place_of_inputs in self._vectors():
            inputs[:, place_of_inputs] = table.index_select(0, classes[:, place])

    def _vectors(self):
        """List the vectors, each with the places that `vector_columns` says."""
        return [(getattr(self, name), *places) for name, *places in self.vector_columns]

    def _places(self, x):
        """Return where the cells' levels are among those of all columns."""
        codes = x.index_select(1, self.categorical)
        codes = torch.where(codes.isnan(), self.n_levels, codes).long()
        return codes.add_(self.start)

    def _join(self, x, places, vectors):
        """Return the inputs (n, width) for rows x, given places and vectors."""
        numbers = x.index_select(1, self.numeric)
        inputs = [torch.where(numbers.isnan(), self.mean, numbers)]
        if self.n_hot:
            hot = x.new_zeros(len(x), self.n_hot + 1)
            hot.scatter_(1, self.hot.take(places), 1.0)
            inputs.append(hot[:, :-1])
        inputs += vectors
        if len(self.with_holes):
            inputs.append(x.index_select(1, self.with_holes).isnan().to(x.dtype))
        return torch.cat(inputs, dim=1)

    def backward(self, classes, slope):
        """Compute the gradients of the vectors.

        Parameters
        ----------
        classes : torch.Tensor of shape (n, n_categorical)
            Of the rows.
        slope : torch.Tensor of shape (n, width)
            Derivative of the loss by the inputs.
        """
        for table, place, place_of_inputs in self._vectors():
            gradient = torch.zeros_like(table)
            gradient.index_add_(0, classes[:, place], slope[:, place_of_inputs])
            gradient[-1] = 0.0
            table.grad = gradient


def vector_width(n_classes):
    """Return the length of the vectors of a column with so many classes of levels."""
    width = round(_EMBEDDING_FACTOR * n_classes**_EMBEDDING_EXPONENT)
    return min(width, _MAX_EMBEDDING_WIDTH)

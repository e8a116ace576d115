"""Where the rows of a training lie."""

from dataclasses import dataclass

import torch


@dataclass
class Batch:
    """What a module sees of a step.

    Attributes
    ----------
    x : torch.Tensor of shape (n, n_columns)
    y : torch.Tensor of shape (n,) or None
    index : torch.Tensor of shape (n,)
        Numbers of the rows in the source.
    progress : torch.Tensor
        A 0-d tensor: the fraction of training done, in [0, 1].
    generator : torch.Generator
        For every random number of the step.
    """

    x: torch.Tensor
    y: torch.Tensor | None
    index: torch.Tensor
    progress: torch.Tensor
    generator: torch.Generator


class ResidentSource:
    """Rows that lie on the device as a whole.

    Parameters
    ----------
    x : torch.Tensor of shape (n_samples, n_columns)
    y : torch.Tensor of shape (n_samples,), optional
    """

    def __init__(self, x, y=None):
        self._x = x
        self._y = y

    def __len__(self):
        return len(self._x)

    def rows(self, index):
        """Return x and y of the rows of an index tensor."""
        y = None if self._y is None else self._y.index_select(0, index)
        return self._x.index_select(0, index), y

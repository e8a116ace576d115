"""What augmentations share: the base class, and numbers drawn for every row."""

import math
from numbers import Real

import numpy as np
import torch
from torch import nn

from skrepr._sklearn import InvalidParameterError
from skrepr._training._outputs import check_tensor, rehearsal
from skrepr._training._stacks import is_own
from skrepr.parts import Part, check_module


class Augmentation(Part):
    """Base class of the augmentations.

    A function ``f(x, generator)`` may stand in the place of an augmentation, in
    estimators and in `Compose`. It gets a batch of rows (n, n_columns), a float32
    tensor, and returns a tensor of that shape; its random numbers come from
    ``generator``, a ``torch.Generator`` on the device of ``x``. Cells of categorical
    columns hold the code of their category, 0, 1, ..., and have to hold one afterwards;
    a missing cell is NaN, and any cell may be made one. For parameters that a grid
    search reaches, or to be told which columns are categorical, derive a class and
    implement `build`.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_wine
    >>> from skrepr import AutoencoderTransformer
    >>> def flip_signs(x, generator):
    ...     u = torch.empty_like(x).uniform_(generator=generator)
    ...     return torch.where(u < 0.1, -x, x)
    >>> ae = AutoencoderTransformer(augmentation=flip_signs, max_iter=5, random_state=0)
    >>> ae.fit(load_wine().data).n_iter_
    5
    """

    def build(self, columns):
        """Build the function that changes a batch.

        Parameters
        ----------
        columns : Columns
            The layout of the matrix: how many columns, which of them vary, which are
            categorical, and which had holes in training.

        Returns
        -------
        torch.nn.Module
            Its ``forward(x, generator, ids=None)`` maps a batch (n, n_columns) to a
            new tensor of that shape. Every random number comes from ``generator``.
            ``ids`` (n,) are integers, if it is known which rows belong together: rows
            of one class have the same, and rows without a label one of their own.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


class DrawsApart(nn.Module):
    """Base class of modules that draw for single batches and change many at once."""

    def draws(self, x, generator, first=0):
        """Draw what a batch needs of random numbers.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)
        generator : torch.Generator
        first : int
            Where the batch starts among the rows that are to be changed.

        Returns
        -------
        tuple of torch.Tensor
            Each with a first axis of length n.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement draws.")

    def change(self, x, draws):
        """Change rows of one or more batches, given the draws of all of them."""
        raise NotImplementedError(f"{type(self).__name__} must implement change.")

    def forward(self, x, generator, ids=None):
        return self.change(x, self.draws(x, generator))


class DrawnParameter(Augmentation):
    """Base class of the augmentations with a parameter that every row may draw.

    Attributes
    ----------
    _drawn : str
        The name of the parameter: a number, or a pair (lowest, highest).
    _largest : float
        The largest number that it may be.
    """

    _drawn: str
    _largest: float

    def _validate_params(self):
        super()._validate_params()
        value = getattr(self, self._drawn)
        if isinstance(value, Real) or _is_range(value, self._largest):
            return
        numbers = "a number from 0 on"
        if math.isfinite(self._largest):
            numbers = f"a number in [0, {self._largest}]"
        raise InvalidParameterError(
            f"The {self._drawn!r} parameter of {type(self).__name__} must be "
            f"{numbers}, or a pair (lowest, highest) of such numbers in this order. "
            f"Got {value!r} instead."
        )

    @property
    def _bounds(self):
        """The lowest and the highest value that a row may draw."""
        value = getattr(self, self._drawn)
        return (value, value) if isinstance(value, Real) else tuple(value)


def build_augmentation(part, columns, ids=None):
    """Build the module of an augmentation, and check what a user's makes of rows.

    Parameters
    ----------
    part : Augmentation
    columns : Columns
    ids : torch.Tensor of shape (2,), optional
        Integers for two rows, if there are some in training.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    TypeError
        If it does not return rows of the shape that it was given.
    ValueError
        If it returns something else than codes in categorical columns.
    """
    module = check_module(part.build(columns), nn.Module, part)
    if not is_own(part):
        last_code = np.where(columns.varies, columns.n_levels - 1, 0)
        row = np.where(columns.categorical, last_code, columns.mean)
        x = torch.as_tensor(row).float().repeat(2, 1)
        with rehearsal(module) as (rehearsed, generator):
            arguments = (x, generator) if ids is None else (x, generator, ids)
            changed = check_tensor(rehearsed(*arguments), x.shape, module)
        _check_codes(changed.detach().numpy(), columns, module)
    return module


def _check_codes(rows, columns, module):
    is_code = (rows == np.floor(rows)) & (rows >= 0) & (rows < columns.n_levels)
    wrong = columns.categorical & ~(is_code | np.isnan(rows)).all(axis=0)
    if wrong.any():
        j = int(wrong.argmax())
        raise ValueError(
            f"{type(module).__name__}.forward returned {rows[:, j].tolist()} in the "
            f"categorical column {columns.names[j]!r}. Expected codes of its "
            f"categories, 0 to {columns.n_levels[j] - 1}, or NaN. Change "
            "numeric columns alone (columns.numeric tells which), or exchange cells of "
            "a column."
        )


def _is_range(value, largest):
    return (
        len(value) == 2
        and all(isinstance(bound, Real) for bound in value)
        and 0 <= value[0] <= value[1] <= largest
        and math.isfinite(value[1])
    )


def draw(x, bounds, generator):
    """Draw a number for every row, uniformly; of equal bounds take the one."""
    lowest, highest = bounds
    numbers = x.new_empty(x.shape[0], 1)
    if lowest == highest:
        return numbers.fill_(lowest)
    return numbers.uniform_(lowest, highest, generator=generator)

"""What augmentations share: the base class, and numbers drawn for every row."""

import math
from numbers import Real

from skrepr.parts import Part


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


def _bounds(part, name, most):
    """Return lowest and highest of a parameter that is a number or a pair of them."""
    value = getattr(part, name)
    if isinstance(value, Real):
        return value, value
    if (
        len(value) != 2
        or not all(isinstance(bound, Real) for bound in value)
        or not 0 <= value[0] <= value[1] <= most
        or math.isinf(value[1])
    ):
        numbers = (
            "a number from 0 on" if math.isinf(most) else f"a number in [0, {most}]"
        )
        raise ValueError(
            f"The {name!r} parameter of {type(part).__name__} must be {numbers}, or a "
            "pair (lowest, highest) of such numbers in this order. Got "
            f"{value!r} instead."
        )
    return tuple(value)


def _draw(x, bounds, generator):
    """Draw a number for every row, uniformly; of equal bounds return the one."""
    lowest, highest = bounds
    if lowest == highest:
        return lowest
    return x.new_empty(x.shape[0], 1).uniform_(lowest, highest, generator=generator)

"""What the parts know of the columns of the matrix."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

MAX_FEW_LEVELS = 16  # in a column whose levels get an input each, and an output
_MIN_ROWS = 3  # of the training rows in which a level is a class of its own
_MAX_LEVELS = 1000  # of a column that are: the weights and the time of as many columns


@dataclass(frozen=True)
class Columns:
    """What the parts know of the matrix: one entry for every column.

    Parts get it as the argument of ``build``. ``len(columns)`` is their number.

    A cell of a numeric column holds a number, a cell of a categorical column the code
    of its level: 0, 1, ... NaN stands for a missing cell in both.

    Kinds of columns are masks, which combine: ``columns.categorical & columns.varies``.
    They index arrays and Columns alike, and ``np.flatnonzero`` makes positions of them.

    Attributes
    ----------
    center, scale : ndarray of shape (n_columns,), float64
        A value of the matrix times `scale` plus `center` is in the user's units. 0 and
        1 for categorical columns.
    mean, std : ndarray of shape (n_columns,), float64
        Of the training rows, in units of the matrix: 0 and 1 where it is standardised,
        and for categorical columns.
    varies : ndarray of shape (n_columns,), bool
        False where the training rows held a single value. The matrix is 0 there.
    names : list
        The names to use in messages.
    n_levels : ndarray of shape (n_columns,), int
        The number of levels of a categorical column, 0 for a numeric one.
    missing : ndarray of shape (n_columns,), bool
        Whether cells were missing in the training rows.
    counts : list of ndarray of shape (n_levels,), int
        Of the training rows that have each level of a categorical column; empty for a
        numeric one.

    Examples
    --------
    An augmentation that exchanges signs, of numbers only:

    >>> import torch
    >>> from sklearn.datasets import load_wine
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.augmentations import Augmentation
    >>> class FlippedSigns(Augmentation):
    ...     def build(self, columns):
    ...         return Flip(torch.as_tensor(columns.numeric))
    >>> class Flip(torch.nn.Module):
    ...     def __init__(self, numeric):
    ...         super().__init__()
    ...         self.register_buffer("numeric", numeric)
    ...
    ...     def forward(self, x, generator, ids=None):
    ...         u = torch.empty_like(x).uniform_(generator=generator)
    ...         return torch.where(self.numeric & (u < 0.1), -x, x)
    >>> ae = AutoencoderTransformer(augmentation=FlippedSigns(), max_iter=2)
    >>> ae.fit(load_wine().data).n_iter_
    2
    """

    center: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    varies: np.ndarray
    names: list
    n_levels: np.ndarray
    missing: np.ndarray
    counts: list

    def __len__(self):
        return len(self.scale)

    def __getitem__(self, index):
        """Return the layout of some of the columns, from a mask or an index array."""
        chosen = np.arange(len(self))[index]
        lists: dict[str, Any] = {
            name: [getattr(self, name)[j] for j in chosen]
            for name in ("names", "counts")
        }
        arrays: dict[str, Any] = {
            field.name: getattr(self, field.name)[chosen]
            for field in fields(self)
            if field.name not in lists
        }
        return Columns(**arrays, **lists)

    @property
    def numeric(self):
        """Which columns hold numbers, a mask."""
        return self.n_levels == 0

    @property
    def categorical(self):
        """Which columns hold codes of categories, a mask."""
        return self.n_levels > 0

    @property
    def frequencies(self):
        """The shares of the levels, a list of ndarray of shape (n_levels,), float64.

        They are among the training rows in which the cell is not missing.
        """
        return [counts / counts.sum() for counts in self.counts]

    @property
    def classes(self):
        """The classes of the levels, a list of ndarray of shape (n_levels,), int.

        A network tells classes apart, 0, 1, ...: of a column of more than 16 levels,
        those in fewer than three training rows, and what is no more frequent than the
        thousand and first, are one class, the last. What a network could learn of a
        rare level holds in its rows alone, and names or numbers of tickets would take
        most of the weights and the time. If no more than 16 levels occur, and the
        others are only declared, the class is that of the others.
        """
        return [_merge_rare(counts) for counts in self.counts]

    @property
    def merged(self):
        """The layout of the matrix with the classes of levels in the levels' place."""
        pairs = zip(self.counts, self.classes, strict=True)
        counts = [np.bincount(classes, counts).astype(int) for counts, classes in pairs]
        n_levels = np.array([len(each) for each in counts])
        varies = self.varies & (self.numeric | (n_levels > 1))
        return replace(self, counts=counts, n_levels=n_levels, varies=varies)

    @property
    def safe_std(self):
        """The standard deviations to divide by: 1 where a column does not vary."""
        return np.where(self.varies, self.std, 1.0)

    @property
    def units(self):
        """The number of the unit of every cell of a row, int.

        Cells of a unit share their scale, quantiles, noise and likelihood. In a table
        every column is a unit of its own.
        """
        return np.arange(len(self))

    @property
    def is_plain(self):
        """Whether the matrix is all numbers: no categories, no holes in training."""
        return not (self.categorical.any() or self.missing.any())


def _merge_rare(counts):
    """Return the classes of levels with these counts, each of shape (n_levels,)."""
    if len(counts) <= MAX_FEW_LEVELS:
        return np.arange(len(counts))
    few_occur = np.count_nonzero(counts) <= MAX_FEW_LEVELS
    min_rows = 1 if few_occur else _MIN_ROWS
    if len(counts) > _MAX_LEVELS:
        next_frequent = np.sort(counts)[-_MAX_LEVELS - 1]
        min_rows = max(min_rows, next_frequent + 1)
    rare = counts < min_rows
    classes = np.cumsum(~rare) - 1
    classes[rare] = (~rare).sum()
    return classes

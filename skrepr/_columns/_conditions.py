"""Conditions on generated rows."""

from numbers import Real

import numpy as np

from skrepr._columns._messages import shortened
from skrepr._columns._missing import is_missing

_NEIGHBOURS = 0.01  # share of the training rows that stand for a given value
_FLOAT32_ERROR = 1e-6  # relative, of a value that was rounded to float32
_MAX_DRAWN = 1_000_000  # rows, to find some that satisfy conditions
_MIN_BATCH, _MAX_BATCH = 1000, 100_000  # rows drawn at a time


class Condition:
    """What generated rows are to satisfy in a column.

    Parameters
    ----------
    table : Table
    quantiles : list of Quantiles or None
        Distributions of the numeric columns.
    column : object
        Its name, or its index.
    wanted : object
        A value, or a pair (lowest, highest), either of which may be None.

    Raises
    ------
    ValueError
        If there is no such column, or no training row satisfies the condition.
    """

    def __init__(self, table, quantiles, column, wanted):
        names = table.schema.shown_names
        if column not in names:
            raise ValueError(
                f"given names the column {column!r}, which the training rows do not "
                f"have. Expected one of {shortened(names)}."
            )
        self.column = names.index(column)
        self.name, self.wanted = column, wanted
        self.value = None  # what the rows that are near it get
        if table.schema.numeric[self.column]:
            self._of_numbers(quantiles[self.column])
        else:
            self._of_levels(table)

    def _of_levels(self, table):
        levels = table.schema.columns[self.column].levels
        counts = table.counts[self.column]
        seen = [level for level, count in zip(levels, counts, strict=True) if count > 0]
        if is_missing(self.wanted) or self.wanted not in seen:
            raise self._unseen_error(f"Expected a single one of {shortened(seen)}.")
        self.low = self.high = levels.index(self.wanted)

    def _of_numbers(self, quantiles):
        values = quantiles.values
        smallest, largest = values[0], values[-1]
        if isinstance(self.wanted, tuple | list):
            bounds = [*self.wanted]
            if len(bounds) != 2 or not all(b is None or _is_number(b) for b in bounds):
                raise self._kind_error()
            self.low = -np.inf if bounds[0] is None else bounds[0]
            self.high = np.inf if bounds[1] is None else bounds[1]
            if self.low > self.high:
                raise ValueError(
                    f"given wants {self.wanted!r} in the column {self.name!r}, whose "
                    "lowest value is above the highest. Expected a pair (lowest, "
                    "highest)."
                )
        elif _is_number(self.wanted):
            self.low = self.high = self.wanted
        else:
            raise self._kind_error()
        if quantiles.is_discrete:  # values of float32 may be given in float64
            self.low -= _FLOAT32_ERROR * abs(self.low)
            self.high += _FLOAT32_ERROR * abs(self.high)
            occurs = ((values >= self.low) & (values <= self.high)).any()
        else:
            occurs = self.low <= min(self.high, largest) and self.high >= smallest
            if quantiles.is_whole and np.isfinite([self.low, self.high]).all():
                occurs = occurs and np.floor(self.high) >= np.ceil(self.low)
        if not occurs:
            kind = ""
            if quantiles.is_discrete:
                kind = f" only, {len(values)} of them"
            elif quantiles.is_whole:
                kind = ", whole numbers"
            raise self._unseen_error(
                f"They have values from {smallest:.8g} to {largest:.8g}{kind}."
            )
        if self.low == self.high and not quantiles.is_discrete:
            self.value = self.low
            rank, half = quantiles.rank(self.value), _NEIGHBOURS / 2
            ranks = np.clip([rank - half, rank + half], 0, 1)
            self.low, self.high = quantiles.at(ranks)

    def _kind_error(self):
        return ValueError(
            f"given wants {self.wanted!r} in the column {self.name!r}, which holds "
            "numbers. Expected a number or a pair (lowest, highest)."
        )

    def _unseen_error(self, expected):
        return ValueError(
            f"given wants {self.wanted!r} in the column {self.name!r}, but no training "
            f"row has that. {expected}"
        )

    def holds(self, X):
        """Tell which rows (n, n_columns) in the user's units satisfy the condition."""
        column = X[:, self.column]
        return (column >= self.low) & (column <= self.high)


def draw_until(draw, n_samples, conditions):
    """Draw rows until so many of them satisfy all conditions.

    Parameters
    ----------
    draw : callable
        From a number to so many rows, an ndarray in the user's units.
    n_samples : int
    conditions : list of Condition

    Returns
    -------
    ndarray of shape (n_samples, n_columns)

    Raises
    ------
    ValueError
        If they are too rare.
    """
    if not conditions:
        return draw(n_samples)
    kept, n_kept, n_drawn = [], 0, 0
    size = max(_MIN_BATCH, n_samples)
    while n_kept < n_samples:
        X = draw(size)
        X = X[np.all([condition.holds(X) for condition in conditions], axis=0)]
        kept.append(X)
        n_kept, n_drawn = n_kept + len(X), n_drawn + size
        if n_kept < n_samples and n_drawn >= _MAX_DRAWN:
            wanted = {condition.name: condition.wanted for condition in conditions}
            raise ValueError(
                f"Of {n_drawn} rows drawn, {n_kept} satisfy the conditions {wanted!r}, "
                f"not the {n_samples} that were asked for. Ask for fewer rows, or for "
                "wider conditions: together they are rare."
            )
        needed = (n_samples - n_kept) * n_drawn / max(n_kept, 1)
        size = int(np.clip(1.1 * needed, _MIN_BATCH, _MAX_BATCH))
    X = np.concatenate(kept)[:n_samples]
    for condition in conditions:
        if condition.value is not None:
            X[:, condition.column] = condition.value
    return X


def _is_number(value):
    return isinstance(value, Real) and value == value

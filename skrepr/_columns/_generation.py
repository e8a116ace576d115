"""Conditions on generated rows."""

from numbers import Real

import numpy as np

from skrepr._columns._messages import shortened
from skrepr._columns._missing import is_missing

_NEAR = 0.01  # share of the training rows whose values count as the given one


_ROUNDING = 1e-6  # relative


_MOST_DRAWN = 1_000_000  # rows, to find some that satisfy conditions


class Condition:
    """What generated rows are to satisfy in a column.

    Parameters
    ----------
    table : Table
    column : object
        Its name, or its index.
    wanted : object
        A value, or a pair (lowest, highest), either of which may be None.

    Raises
    ------
    ValueError
        If there is no such column, or no training row satisfies the condition.
    """

    def __init__(self, table, column, wanted):
        names = table.schema.names or list(range(len(table.scale)))
        if column not in names:
            raise ValueError(
                f"given names the column {column!r}, which the training rows do not "
                f"have. Expected one of {shortened(names)}."
            )
        self.column = names.index(column)
        self.name, self.wanted = column, wanted
        self.value = None  # to put in
        if table.schema.numeric[self.column]:
            self._of_numbers(table)
        else:
            self._of_levels(table)

    def _of_levels(self, table):
        levels = table.schema.columns[self.column].levels
        shares = table.frequencies[self.column]
        seen = [level for level, share in zip(levels, shares, strict=True) if share > 0]
        if is_missing(self.wanted) or self.wanted not in seen:
            raise self._unseen(f"Expected one of {shortened(seen)}.")
        self.low = self.high = levels.index(self.wanted)

    def _of_numbers(self, table):
        known = table.quantiles[self.column]
        least, most = known.values[0], known.values[-1]
        if isinstance(self.wanted, tuple | list):
            bounds = [*self.wanted]
            if len(bounds) != 2 or not all(b is None or _is_number(b) for b in bounds):
                raise self._wrong()
            self.low = -np.inf if bounds[0] is None else bounds[0]
            self.high = np.inf if bounds[1] is None else bounds[1]
        elif _is_number(self.wanted):
            self.low = self.high = self.wanted
        else:
            raise self._wrong()
        held = known.values
        if known.is_discrete:  # values of float32 may be given in float64
            self.low -= _ROUNDING * abs(self.low)
            self.high += _ROUNDING * abs(self.high)
            within = ((held >= self.low) & (held <= self.high)).any()
        else:
            within = self.low <= self.high and self.low <= most and self.high >= least
            if known.is_whole and np.isfinite([self.low, self.high]).all():
                within = within and np.floor(self.high) >= np.ceil(self.low)
        if not within:
            kind = ""
            if known.is_discrete:
                kind = f" only, {len(held)} of them"
            elif known.is_whole:
                kind = ", whole numbers"
            raise self._unseen(
                f"They have values from {least:.8g} to {most:.8g}{kind}."
            )
        if self.low == self.high and not known.is_discrete:
            self.value = self.low
            rank = known.rank(self.value)
            self.low, self.high = known.at(
                np.clip([rank - _NEAR / 2, rank + _NEAR / 2], 0, 1)
            )

    def _wrong(self):
        return ValueError(
            f"given wants {self.wanted!r} in the column {self.name!r}, which holds "
            "numbers. Expected a number or a pair (lowest, highest)."
        )

    def _unseen(self, expected):
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
    size = max(1000, n_samples)
    while n_kept < n_samples:
        X = draw(size)
        X = X[np.all([condition.holds(X) for condition in conditions], axis=0)]
        kept.append(X)
        n_kept, n_drawn = n_kept + len(X), n_drawn + size
        if n_kept < n_samples and n_drawn >= _MOST_DRAWN:
            wanted = {condition.name: condition.wanted for condition in conditions}
            raise ValueError(
                f"Of {n_drawn} rows drawn, {n_kept} satisfy the conditions {wanted!r}, "
                f"not the {n_samples} that were asked for. Ask for fewer rows, or for "
                "wider conditions: together they are rare."
            )
        needed = (n_samples - n_kept) * n_drawn / max(n_kept, 1)
        size = int(min(max(1000, 1.1 * needed), 100_000, _MOST_DRAWN))
    X = np.concatenate(kept)[:n_samples]
    for condition in conditions:
        if condition.value is not None:
            X[:, condition.column] = condition.value
    return X


def _is_number(value):
    return isinstance(value, Real) and value == value

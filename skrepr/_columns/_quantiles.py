"""The distribution of a column: from values to ranks and back."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

_MAX_QUANTILES = 1000  # of a continuous column: ranks to a thousandth
_MAX_DISCRETE_VALUES = 10_000  # distinct ones of a discrete column, which all are kept
_MAX_SORTED_CELLS = 100_000  # of a column; ranks in a sample of them err by 0.002


@dataclass(frozen=True)
class Quantiles:
    """The values of a column in ascending order, and the share of the rows below.

    All distinct values of a discrete column are kept: one in which half of the cells,
    or more, hold a value that others hold, too. Of any other column a thousand
    quantiles are, among them every value that a thousandth of the cells share.

    Attributes
    ----------
    values : ndarray of shape (n_knots,), float64
        Distinct and ascending.
    below, upto : ndarray of shape (n_knots,), float64
        The shares of the cells with a smaller value, and with no larger one.
    is_discrete : bool
    is_whole : bool
        Whether all values are whole numbers.
    n_cells : int
        From so many cells it was learned.
    """

    values: np.ndarray
    below: np.ndarray
    upto: np.ndarray
    is_discrete: bool
    is_whole: bool
    n_cells: int

    @classmethod
    def fit(cls, column):
        """Learn the distribution of the cells that are not missing.

        Parameters
        ----------
        column : ndarray of shape (n_samples,)

        Returns
        -------
        Quantiles
        """
        observed = column[~np.isnan(column)].astype(np.float64)
        if len(observed) > _MAX_SORTED_CELLS:
            rng = np.random.default_rng(0)
            sample = rng.choice(observed, _MAX_SORTED_CELLS, replace=False)
            # The range is that of all cells, and a column that varies varies here, too.
            observed = np.append(sample, [observed.min(), observed.max()])
        observed.sort()
        last = np.flatnonzero(np.append(observed[1:] != observed[:-1], True))
        values, upto = observed[last], (last + 1) / len(observed)
        below = np.concatenate([[0.0], upto[:-1]])
        is_discrete = len(values) <= _MAX_DISCRETE_VALUES and (
            2 * len(values) <= len(observed) or len(values) == 1
        )
        is_whole = bool((values == np.floor(values)).all())
        if not is_discrete and len(values) > _MAX_QUANTILES:
            shares = np.linspace(0, 1, _MAX_QUANTILES)[:-1]
            knots = _distinct(np.searchsorted(upto, shares), len(values) - 1)
            values, below, upto = values[knots], below[knots], upto[knots]
        return cls(values, below, upto, is_discrete, is_whole, len(observed))

    def at(self, rank):
        """Return the values at ranks: of a discrete column, those it had.

        Parameters
        ----------
        rank : ndarray of shape (n,)
            In [0, 1].

        Returns
        -------
        ndarray of shape (n,), float64
        """
        if self.is_discrete:
            last = len(self.values) - 1
            return self.values[np.searchsorted(self.upto, rank).clip(max=last)]
        values = np.interp(rank, self._steps(), self.values.repeat(2))
        return np.rint(values) if self.is_whole else values

    def rank(self, value):
        """Return the rank, in [0, 1], of a value in the range of the column."""
        return np.interp(value, self.values.repeat(2), self._steps())

    def _steps(self):
        """Return the ranks at which every value begins and ends."""
        return np.column_stack([self.below, self.upto]).ravel()

    def normal_map(self, max_score):
        """Return the map that makes a column of several values normal.

        Its knots are at equal steps of the scores, 10 to 100 of them. Its slope is a
        density, for which there should be many values between two knots: their number
        grows with the cube root of the number of cells.

        Parameters
        ----------
        max_score : float
            As of `NormalMap`.

        Returns
        -------
        NormalMap
        """
        n_knots = int(np.clip(2 * np.cbrt(self.n_cells), 10, 100))
        middle = (self.below + self.upto) / 2
        scores = ndtri(middle)
        shares = self.upto - self.below
        shares = shares / shares.sum()
        scores -= scores @ shares
        scores /= np.sqrt(np.square(scores) @ shares)
        knots = np.arange(len(middle))
        if len(knots) > n_knots:
            steps = np.linspace(scores[0], scores[-1], n_knots)[:-1]
            knots = _distinct(np.searchsorted(scores, steps), len(scores) - 1)
        return NormalMap(self.values[knots], scores[knots], max_score)

    def get_state(self):
        """Return the fields as values JSON can hold."""
        return {
            "values": self.values.tolist(),
            "below": self.below.tolist(),
            "upto": self.upto.tolist(),
            "is_discrete": self.is_discrete,
            "is_whole": self.is_whole,
            "n_cells": self.n_cells,
        }

    @classmethod
    def from_state(cls, state):
        """Rebuild what `get_state` was asked of."""
        arrays = {k: np.asarray(state[k], float) for k in ("values", "below", "upto")}
        return cls(**state | arrays)


class NormalMap:
    """A map between the values of a column and normal scores, linear between knots.

    Beyond the outermost values it goes on with the mean slope, so that a value far away
    stays far away, as far as the largest score.

    Parameters
    ----------
    values, scores : ndarray of shape (n_knots,), float64
        At least two of them, ascending: values, and what they are mapped to.
    max_score : float
        Larger ones, and smaller ones than minus this, are brought to it.
    """

    def __init__(self, values, scores, max_score):
        mean = (scores[-1] - scores[0]) / (values[-1] - values[0])
        slopes = np.concatenate([[mean], np.diff(scores) / np.diff(values), [mean]])
        ends = np.array([-max_score, max_score])
        far = values[[0, -1]] + (ends - scores[[0, -1]]) / mean
        self._log_slopes = np.log(slopes)
        self._values = np.concatenate([far[:1], values, far[1:]])
        self._scores = np.concatenate([ends[:1], scores, ends[1:]])

    def forward(self, x):
        """Map values (n,) to scores (n,)."""
        return np.interp(x, self._values, self._scores)

    def inverse(self, z):
        """Map scores (n,) to values (n,)."""
        return np.interp(z, self._scores, self._values)

    def log_slope(self, x):
        """Return the logarithm of the derivative at values (n,), on a knot the mean."""
        knots = self._values[1:-1]
        before = np.searchsorted(knots, x, side="left")
        after = np.searchsorted(knots, x, side="right")
        return (self._log_slopes[before] + self._log_slopes[after]) / 2


def _distinct(ascending, last):
    """Return ascending integers and a last one, each once."""
    ascending = np.append(ascending, last)
    return ascending[np.append(True, ascending[1:] > ascending[:-1])]


def ranks(values, knots, rng):
    """Compute the ranks of values in a distribution.

    Parameters
    ----------
    values : ndarray of shape (n,)
    knots : ndarray of shape (n_knots,)
        Quantiles of the distribution at equal steps, ascending.
    rng : numpy.random.Generator
        Draws the ranks of values that several quantiles are equal to, and of those
        beyond the outermost.

    Returns
    -------
    ndarray of shape (n,)
        In [0, 1].
    """
    first = np.searchsorted(knots, values, side="left")
    last = np.searchsorted(knots, values, side="right")
    interpolated = np.interp(values, knots, np.arange(len(knots)) + 0.5)
    drawn = first + (last - first) * rng.random(len(values))
    outside = (last == 0) | (first == len(knots))
    half_step = 0.5 * rng.random(len(values))  # a knot stands in the middle of its step
    drawn[outside] = np.where(last == 0, half_step, len(knots) - half_step)[outside]
    return np.where(outside | (last - first > 1), drawn, interpolated) / len(knots)

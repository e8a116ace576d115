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

    def normal_knots(self):
        """Return values and the normal scores to map them to, for `NormalMaps`.

        The scores are at equal steps, 10 to 100 of them. The slope between two is a
        density, for which there should be many values between them: their number grows
        with the cube root of the number of cells.

        Returns
        -------
        values, scores : ndarray of shape (n_knots,), float64
            At least two of them if the column holds several values, ascending.
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
        return self.values[knots], scores[knots]

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


class NormalMaps:
    """Maps between values of columns and normal scores, linear between knots.

    Beyond the outermost values of a column its map goes on with the mean slope, so that
    a value far away stays far away, as far as the largest score.

    Parameters
    ----------
    knots : list of tuple (values, scores)
        Of every column, ndarrays of shape (n_knots,), float64, at least two of them,
        ascending: values, and what they are mapped to.
    max_score : float
        Larger ones, and smaller ones than minus this, are brought to it.
    """

    def __init__(self, knots, max_score):
        ends = np.array([-max_score, max_score])
        columns = []
        for values, scores in knots:
            mean = (scores[-1] - scores[0]) / (values[-1] - values[0])
            far = values[[0, -1]] + (ends - scores[[0, -1]]) / mean
            values = np.concatenate([far[:1], values, far[1:]])
            scores = np.concatenate([ends[:1], scores, ends[1:]])
            with np.errstate(over="ignore"):  # where two values are as good as equal
                slopes = np.diff(scores) / np.diff(values)
            slopes = np.minimum(slopes, np.finfo(np.float64).max)
            columns.append((values, scores, np.append(slopes, slopes[-1])))
        # The knots of one column after those of another, each with the slope after it.
        self._values, self._scores, self._slopes = map(
            np.concatenate, zip(*columns, strict=True)
        )
        sizes = np.array([len(values) for values, _, _ in columns])
        self._last = sizes.cumsum() - 1
        self._first = self._last - sizes + 1
        self._steps = _halvings(sizes - 1)

    def forward(self, x):
        """Map values (n, n_columns) to scores (n, n_columns)."""
        values = self._values
        knot = self._knot_before(x, values)
        scores = x.clip(values[self._first], values[self._last])
        scores -= values.take(knot)
        scores *= self._slopes.take(knot)
        scores += self._scores.take(knot)
        return scores

    def inverse(self, z):
        """Map scores (n, n_columns) to values (n, n_columns)."""
        scores = self._scores
        knot = self._knot_before(z, scores)
        values = z.clip(scores[self._first], scores[self._last])
        values -= scores.take(knot)
        # A last knot, with a slope that leads to the next column, is as far as z goes.
        slopes = np.diff(self._values, append=0.0) / np.diff(scores, append=0.0)
        values *= slopes.take(knot)
        values += self._values.take(knot)
        return values

    def log_slope(self, x):
        """Return the logarithm of the derivative at values, on a knot the mean."""
        after = self._knot_before(x, self._values)
        before = np.maximum(after - (self._values.take(after) == x), self._first)
        log_slopes = np.log(self._slopes.take(after))
        log_slopes += np.log(self._slopes.take(before))
        log_slopes /= 2
        return log_slopes

    def _knot_before(self, x, knots):
        """Return the places of the last knots that are no larger, at least the first.

        It halves the knots of all cells at once: a search in every column by itself
        takes longer, of few rows for the calls, of many for branches foreseen wrong.
        """
        at = np.zeros(x.shape, np.intp) + self._first
        for step in self._steps:
            at += (knots.take(at + step) <= x) * step
        return at


def _halvings(sizes):
    """Return the steps of a search in ascending arrays of several sizes.

    After a step of half the elements, rounded up, half of them are left, rounded down.
    """
    steps = []
    while sizes.any():
        steps.append((sizes + 1) // 2)
        sizes = sizes // 2
    return steps


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

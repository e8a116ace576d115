"""The distribution of a column: from values to ranks and back."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

_MOST_KNOTS = 1000  # of a continuous column
_MOST_LEVELS = 10_000  # distinct values a discrete column may have
_MOST_ROWS = 100_000  # to sort


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
    """

    values: np.ndarray
    below: np.ndarray
    upto: np.ndarray
    is_discrete: bool
    is_whole: bool

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
        if len(column) > _MOST_ROWS:
            chosen = np.random.default_rng(0).choice(
                len(column), _MOST_ROWS, replace=False
            )
            column = column[chosen]
        observed = column[~np.isnan(column)].astype(np.float64)
        values, counts = np.unique(observed, return_counts=True)
        upto = counts.cumsum() / len(observed)
        below = np.concatenate([[0.0], upto[:-1]])
        is_discrete = len(values) <= _MOST_LEVELS and (
            2 * len(values) <= len(observed) or len(values) == 1
        )
        is_whole = bool((values == np.floor(values)).all())
        if not is_discrete and len(values) > _MOST_KNOTS:
            at = np.searchsorted(upto, np.linspace(0, 1, _MOST_KNOTS)[:-1])
            kept = np.unique([*at, len(values) - 1])
            values, below, upto = values[kept], below[kept], upto[kept]
        return cls(values, below, upto, is_discrete, is_whole)

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
        ranks = np.column_stack([self.below, self.upto]).ravel()
        values = np.interp(rank, ranks, self.values.repeat(2))
        return np.rint(values) if self.is_whole else values

    def normal_scores(self, n_knots):
        """Return points of the map that makes the column normal.

        Parameters
        ----------
        n_knots : int
            How many points at most.

        Returns
        -------
        values : ndarray of shape (n_points,)
            Ascending.
        scores : ndarray of shape (n_points,)
            Standard normal quantiles of their mid-ranks.
        """
        middle = (self.below + self.upto) / 2
        at = np.arange(len(middle))
        if len(at) > n_knots:
            at = np.searchsorted(middle, np.linspace(middle[0], middle[-1], n_knots))
            at = np.unique(at)
        return self.values[at], ndtri(middle[at])

    def scaled(self, center, scale):
        """Return the distribution of the values minus `center`, over `scale`."""
        values = (self.values - center) / scale
        return replace(self, values=values, is_whole=False)

    def get_state(self):
        """Return the fields as values JSON can hold."""
        return {
            "values": self.values.tolist(),
            "below": self.below.tolist(),
            "upto": self.upto.tolist(),
            "is_discrete": self.is_discrete,
            "is_whole": self.is_whole,
        }

    @classmethod
    def from_state(cls, state):
        """Rebuild what `get_state` was asked of."""
        arrays = {k: np.asarray(state[k], float) for k in ("values", "below", "upto")}
        return cls(**state | arrays)


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
    at = np.arange(len(knots)) + 0.5
    between = np.interp(values, knots, at)
    drawn = first + (last - first) * rng.random(len(values))
    outside = (last == 0) | (first == len(knots))
    half = 0.5 * rng.random(len(values))
    drawn[outside] = np.where(last == 0, half, len(knots) - half)[outside]
    return np.where(outside | (last - first > 1), drawn, between) / len(knots)

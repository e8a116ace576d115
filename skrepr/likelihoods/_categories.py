"""Categories: the probabilities of their levels."""

import numpy as np
import torch

from skrepr.likelihoods._base import LikelihoodModule
from skrepr.likelihoods._logits import Logits

_MIN_TOTAL = 1e-30  # of the odds of a column's levels, in float32


class Softmax(LikelihoodModule):
    """The probabilities of the levels of categorical columns, from logits.

    Columns with a single level in training have no logits: they are certain.

    Parameters
    ----------
    columns : Columns
        All of them categorical.
    shares : list of ndarray of shape (n_levels,), optional
        Of every column, factors of the probabilities by which the most probable level
        is found; by default 1 for all that occurred in training.

    Attributes
    ----------
    n_outputs : int
        Of the decoder for a row, see `Logits`.
    """

    inverse_entropy: torch.Tensor
    diversity: torch.Tensor
    varying: torch.Tensor
    start: torch.Tensor
    column: torch.Tensor
    share: torch.Tensor
    places: torch.Tensor
    has_slopes = True

    def __init__(self, columns, shares=None):
        super().__init__(columns)
        varies = np.flatnonzero(columns.varies)
        # Columns with as many levels stand side by side, and are one operation.
        self.groups = [
            (n, varies[columns.n_levels[varies] == n].tolist())
            for n in np.unique(columns.n_levels[varies]).tolist()
        ]
        grouped = [j for _, positions in self.groups for j in positions]
        self.logits = Logits([columns.counts[j] for j in grouped])
        self.n_outputs = self.logits.n_outputs
        entropy = np.ones(len(columns))
        diversity = np.ones(len(columns))
        frequencies = columns.frequencies
        for j in varies:
            occurring = frequencies[j][frequencies[j] > 0]
            entropy[j] = -(occurring * np.log(occurring)).sum()
            diversity[j] = 1 - np.square(occurring).sum()
        self.register_buffer("inverse_entropy", torch.as_tensor(1 / entropy).float())
        self.register_buffer("diversity", torch.as_tensor(diversity).float())
        certain = np.flatnonzero(~columns.varies).tolist()
        self.n_certain = len(certain)
        self.register_buffer("varying", torch.as_tensor(np.array(grouped, int)))
        # Of their logits: where those of a column start, and the column of each.
        n_logits = columns.n_levels[grouped]
        self.register_buffer("start", torch.as_tensor(np.cumsum(n_logits) - n_logits))
        column = np.repeat(np.arange(len(grouped)), n_logits)
        self.register_buffer("column", torch.as_tensor(column))
        places = np.argsort([*grouped, *certain]).astype(np.int64)
        self.register_buffer("places", torch.as_tensor(places))
        if shares is None:
            shares = [counts > 0 for counts in columns.counts]
        share = np.concatenate([shares[j] for j in grouped] or [np.empty(0)])
        self.register_buffer("share", torch.as_tensor(share).float())

    def log_prob(self, x, output):
        """Return the log-probability of every cell, 0 in columns that do not vary.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)
            Codes, none missing.
        output : torch.Tensor of shape (..., n, n_outputs)

        Returns
        -------
        torch.Tensor of shape (..., n, n_columns)
        """
        return self._cells(
            output,
            lambda logits, positions, _: _at(logits.log_softmax(-1), x[:, positions]),
        )

    def cost(self, x, output):
        """Return the cross-entropy over the entropy of the levels in training.

        1 is the mean cost of predicting how frequent the levels are.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)
            Codes, none missing.
        output : torch.Tensor of shape (..., n, n_outputs)

        Returns
        -------
        torch.Tensor of shape (..., n, n_columns)
        """
        return -self.log_prob(x, output) * self.inverse_entropy

    def residual(self, x, output):
        """Return how far the probabilities are from the level, relative to no model.

        It is the length of the vector of the differences, over the levels, between the
        one that is there and the probabilities. The mean square of predicting how
        frequent the levels are is 1.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)
            Codes, none missing.
        output : torch.Tensor of shape (..., n, n_outputs)

        Returns
        -------
        torch.Tensor of shape (..., n, n_columns)
        """

        def squared(logits, positions, _):
            probabilities = logits.softmax(-1)
            of_levels = _at(probabilities, x[:, positions])
            return 1 - 2 * of_levels + probabilities.square().sum(-1)

        squares = self._cells(output, squared).clamp(min=0)
        return (squares / self.diversity).sqrt()

    def mean(self, output):
        """Return the most probable codes, of levels seen in training.

        Parameters
        ----------
        output : torch.Tensor of shape (..., n, n_outputs)

        Returns
        -------
        torch.Tensor of shape (..., n, n_columns)
        """
        return self._cells(
            output,
            lambda logits, _, share: (logits + share.log()).argmax(-1).to(output.dtype),
        )

    def average(self, output, weights):
        """Return the codes that are most probable on average over weighted draws.

        Parameters
        ----------
        output : torch.Tensor of shape (n_draws, n, n_outputs)
        weights : torch.Tensor of shape (n_draws, n)

        Returns
        -------
        torch.Tensor of shape (n, n_columns)
        """

        def most_probable(logits, _, share):
            probabilities = _possible(logits, share).softmax(-1)
            average = (weights[..., None, None] * probabilities).sum(0)
            return (average * share).argmax(-1).to(output.dtype)

        return self._cells(output, most_probable, weights.shape[1:])

    def sample(self, output, generator):
        """Draw codes of levels seen in training.

        Parameters
        ----------
        output : torch.Tensor of shape (..., n, n_outputs)
        generator : torch.Generator

        Returns
        -------
        torch.Tensor of shape (..., n, n_columns)
        """

        def draw(logits, _, share):
            probabilities = _possible(logits, share).softmax(-1)
            codes = probabilities.flatten(0, -2).multinomial(1, generator=generator)
            return codes.view(probabilities.shape[:-1]).to(output.dtype)

        return self._cells(output, draw)

    def targets(self, x):
        """Return the places of the levels among the logits, of columns that vary."""
        return x.index_select(1, self.varying).long().add_(self.start)

    def cost_and_slope(self, places, output, factor):
        return self.log_prob_and_slope(places, output, self.inverse_entropy * -factor)

    def log_prob_and_slope(self, places, output, factor):
        if not self.n_outputs:
            return torch.zeros(()), output
        # All columns at once: sums over the logits of every column are of segments.
        logits, segments = self.logits(output), self.start.numpy()
        factor = torch.as_tensor(factor)
        if factor.ndim:
            factor = factor.index_select(-1, self.varying)
        odds = logits.exp()
        with np.errstate(over="ignore"):
            total = np.add.reduceat(odds.numpy(), segments, axis=1)
        if not _MIN_TOTAL < total.min() <= total.max() < 1 / _MIN_TOTAL:
            # Few logits are that far from 0; to look for the largest takes time.
            largest = np.maximum.reduceat(logits.numpy(), segments, axis=1)
            logits = logits - torch.from_numpy(largest).index_select(1, self.column)
            odds = logits.exp()
            total = np.add.reduceat(odds.numpy(), segments, axis=1)
        totals = torch.from_numpy(total)
        of_levels = logits.gather(1, places)
        log_prob = of_levels.sub_(totals.log()).mul_(factor).sum()
        slope = odds.mul_((-factor / totals).index_select(1, self.column))
        slope.scatter_add_(1, places, factor.expand(places.shape))
        return log_prob, self.logits.backward(output, slope)

    def _cells(self, output, function, shape=None):
        """Put the values of a function of the logits of columns into their places."""
        shape = output.shape[:-1] if shape is None else shape
        cells, start, logits = [], 0, self.logits(output)
        for n, positions in self.groups:
            stop = start + n * len(positions)
            of_group = logits[..., start:stop].unflatten(-1, (len(positions), n))
            share = self.share[start:stop].view(len(positions), n)
            cells.append(function(of_group, positions, share))
            start = stop
        if self.n_certain:
            cells.append(output.new_zeros(*shape, self.n_certain))
        return torch.cat(cells, dim=-1).index_select(-1, self.places)


class MergedSoftmax(LikelihoodModule):
    """A `Softmax` of classes that levels share: logits and errors are of the classes.

    Within its class a level is as probable as it is frequent there among the training
    rows, whatever the rest of a row holds.

    Parameters
    ----------
    columns : Columns
        All of them categorical.
    """

    class_of: torch.Tensor
    log_share: torch.Tensor
    first_level: torch.Tensor
    best_level: torch.Tensor
    first_class: torch.Tensor
    has_slopes = True

    def __init__(self, columns):
        super().__init__(columns)
        log_shares, best_levels, best_shares = [], [], []
        self.rare_classes: dict[int, int] = {}  # of columns that have one
        all_classes = columns.classes
        for j, classes in enumerate(all_classes):
            counts, last = columns.counts[j], int(classes.max())
            # What is only declared is as rare, in its class, as what occurred once, but
            # not more probable in all (Good and Turing; with one row at least).
            n_once, n_unseen = (counts == 1).sum(), (counts == 0).sum()
            weight = min(1, max(1, n_once) / max(1, n_unseen))
            weights = np.where(counts > 0, counts, weight)
            shares = weights / np.bincount(classes, weights)[classes]
            by_frequency = np.argsort(-counts, kind="stable")
            _, first = np.unique(classes[by_frequency], return_index=True)
            best = by_frequency[first]
            # The matrix is 0 where nothing varies, whichever level that is the code of.
            log_shares.append(np.log(shares) * columns.varies[j])
            best_levels.append(best)
            best_shares.append(shares[best] * (counts[best] > 0))
            rare = np.where(classes == last, counts, 0)
            if last + 1 < len(counts) and rare.any():
                self.rare_classes[j] = last
                self.register_buffer(f"n_rows_{j}", torch.as_tensor(rare).float())
        self.softmax = Softmax(columns.merged, best_shares)
        self.n_outputs = self.softmax.n_outputs
        self.register_buffer("class_of", _joined(all_classes))
        self.register_buffer("log_share", _joined(log_shares).float())
        self.register_buffer("first_level", _starts(all_classes))
        self.register_buffer("best_level", _joined(best_levels))
        self.register_buffer("first_class", _starts(best_levels))

    def log_prob(self, x, output):
        classes, log_share = self._classes(x)
        return self.softmax.log_prob(classes, output) + log_share

    def cost(self, x, output):
        return self.softmax.cost(self._classes(x)[0], output)

    def residual(self, x, output):
        return self.softmax.residual(self._classes(x)[0], output)

    def mean(self, output):
        return self._levels(self.softmax.mean(output))

    def average(self, output, weights):
        return self._levels(self.softmax.average(output, weights))

    def sample(self, output, generator):
        classes = self.softmax.sample(output, generator)
        levels = self._levels(classes)
        for j, rare_class in self.rare_classes.items():
            cells, n_rows = classes[..., j], getattr(self, f"n_rows_{j}")
            drawn = n_rows.multinomial(
                cells.numel(), replacement=True, generator=generator
            )
            rare = drawn.view(cells.shape).to(levels.dtype)
            levels[..., j] = torch.where(cells == rare_class, rare, levels[..., j])
        return levels

    def targets(self, x):
        classes, log_share = self._classes(x)
        return self.softmax.targets(classes), log_share

    def cost_and_slope(self, targets, output, factor):
        places, _ = targets
        return self.softmax.cost_and_slope(places, output, factor)

    def log_prob_and_slope(self, targets, output, factor):
        places, log_share = targets
        log_prob, slope = self.softmax.log_prob_and_slope(places, output, factor)
        return log_prob + (log_share * factor).sum(), slope

    def _classes(self, x):
        """Return the classes of levels, and the logarithm of each level's share."""
        index = x.long() + self.first_level
        return self.class_of[index].to(x.dtype), self.log_share[index]

    def _levels(self, classes):
        """Return the most frequent levels of classes."""
        index = classes.long() + self.first_class
        return self.best_level[index].to(classes.dtype)


def softmax_of(columns):
    """Build the likelihood of categorical columns.

    Parameters
    ----------
    columns : Columns

    Returns
    -------
    Softmax or MergedSoftmax
    """
    merges = any((np.bincount(classes) > 1).any() for classes in columns.classes)
    return MergedSoftmax(columns) if merges else Softmax(columns)


def _joined(arrays):
    return torch.as_tensor(np.concatenate(arrays))


def _starts(arrays):
    """Return where each of several arrays starts when they are joined."""
    return torch.as_tensor(np.cumsum([0, *map(len, arrays)])[:-1])


def _at(values, codes):
    """Take the values (..., n, k, n_levels) at the codes (n, k)."""
    index = codes.long().expand(values.shape[:-1])[..., None]
    return values.gather(-1, index)[..., 0]


def _possible(logits, share):
    """Leave out the levels that have no share."""
    return logits.masked_fill(share == 0, -torch.inf)

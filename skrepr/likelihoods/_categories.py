"""Categories: the probabilities of their levels."""

import numpy as np
import torch

from skrepr.likelihoods._base import LikelihoodModule


class Softmax(LikelihoodModule):
    """The probabilities of the levels of categorical columns, from logits.

    Columns with a single level in training have no logits: they are certain.

    Parameters
    ----------
    columns : Columns
        All of them categorical.

    Attributes
    ----------
    n_outputs : int
        Of logits for a row.
    """

    entropy: torch.Tensor
    diversity: torch.Tensor
    seen: torch.Tensor
    places: torch.Tensor

    def __init__(self, columns):
        super().__init__(columns)
        varies = np.flatnonzero(columns.varies)
        # Columns with as many levels stand side by side, and are one operation.
        self.groups = [
            (n, varies[columns.n_levels[varies] == n].tolist())
            for n in np.unique(columns.n_levels[varies]).tolist()
        ]
        self.n_outputs = sum(n * len(positions) for n, positions in self.groups)
        grouped = [j for _, positions in self.groups for j in positions]
        entropy = np.ones(len(columns))
        diversity = np.ones(len(columns))
        for j in varies:
            frequencies = columns.frequencies[j]
            occurring = frequencies[frequencies > 0]
            entropy[j] = -(occurring * np.log(occurring)).sum()
            diversity[j] = 1 - np.square(frequencies).sum()
        self.register_buffer("entropy", torch.as_tensor(entropy).float())
        self.register_buffer("diversity", torch.as_tensor(diversity).float())
        certain = np.flatnonzero(~columns.varies).tolist()
        self.n_certain = len(certain)
        places = np.argsort([*grouped, *certain]).astype(np.int64)
        self.register_buffer("places", torch.as_tensor(places))
        shares = [columns.frequencies[j] for j in grouped]
        seen = np.concatenate([*shares, np.empty(0)]) > 0
        self.register_buffer("seen", torch.as_tensor(seen))

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
            lambda logits, positions: _at(logits.log_softmax(-1), x[:, positions]),
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
        return -self.log_prob(x, output) / self.entropy

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

        def squared(logits, positions):
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
            self._possible(output),
            lambda logits, positions: logits.argmax(-1).to(output.dtype),
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

        def most_probable(logits, positions):
            probabilities = (weights[..., None, None] * logits.softmax(-1)).sum(0)
            return probabilities.argmax(-1).to(output.dtype)

        shape = weights.shape[1:]
        return self._cells(self._possible(output), most_probable, shape)

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

        def draw(logits, positions):
            probabilities = logits.softmax(-1)
            codes = probabilities.flatten(0, -2).multinomial(1, generator=generator)
            return codes.view(probabilities.shape[:-1]).to(output.dtype)

        return self._cells(self._possible(output), draw)

    def _possible(self, output):
        return output.masked_fill(~self.seen, -torch.inf)

    def _cells(self, output, function, shape=None):
        """Put the values of a function of the logits of columns into their places."""
        shape = output.shape[:-1] if shape is None else shape
        cells, start = [], 0
        for n, positions in self.groups:
            stop = start + n * len(positions)
            logits = output[..., start:stop].unflatten(-1, (len(positions), n))
            cells.append(function(logits, positions))
            start = stop
        if self.n_certain:
            cells.append(output.new_zeros(*shape, self.n_certain))
        return torch.cat(cells, dim=-1).index_select(-1, self.places)


def _at(values, codes):
    """Take the values (..., n, k, n_levels) at the codes (n, k)."""
    index = codes.long().expand(values.shape[:-1])[..., None]
    return values.gather(-1, index)[..., 0]

"""Likelihoods of several kinds of columns side by side."""

from typing import Any

import numpy as np
import torch
from torch import nn

from skrepr._columns._messages import shortened
from skrepr._sklearn import InvalidParameterError
from skrepr.likelihoods._base import Likelihood
from skrepr.likelihoods._categories import Softmax


class PerColumn(Likelihood, wraps="a dict of them by column"):
    """Likelihoods of single columns, "gaussian" for the other numeric ones.

    A dict in the place of a likelihood is short for it.

    Parameters
    ----------
    likelihoods : dict
        From names of columns, or positions where they have no names, to likelihoods or
        names of them. Columns that are given the same one share its parameters, such
        as a scale that is learned.

    Examples
    --------
    >>> import numpy as np
    >>> from skrepr import VAETransformer
    >>> rng = np.random.default_rng(0)
    >>> X = np.column_stack([rng.poisson(3.0, 100), rng.normal(size=100)])
    >>> vae = VAETransformer(likelihood={0: "poisson"}, max_iter=2, random_state=0)
    >>> (vae.fit(X).sample(5)[:, 0] % 1).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """

    _parameter_constraints: dict = {"likelihoods": [dict]}

    def __init__(self, likelihoods):
        self.likelihoods = likelihoods

    @classmethod
    def _can_wrap(cls, value):
        return isinstance(value, dict)

    def _validate_params(self):
        super()._validate_params()
        for column, value in self.likelihoods.items():
            try:
                part = Likelihood.from_value(value)
            except ValueError as error:
                raise InvalidParameterError(
                    f"The likelihood of column {column!r} {error}"
                ) from None
            if isinstance(part, PerColumn):
                raise InvalidParameterError(
                    f"The likelihood of column {column!r} must be a single one. Got "
                    f"{value!r} instead. Name the columns in one dict."
                )
            part._validate_params()

    def groups(self, columns):
        """List the likelihoods of the numeric columns."""
        for column in self.likelihoods:
            if column not in columns.names:
                raise ValueError(
                    f"The 'likelihood' parameter names the column {column!r}, which X "
                    f"does not have. Expected some of {shortened(columns.names)}."
                )
            if columns.categorical[columns.names.index(column)]:
                raise ValueError(
                    f"The 'likelihood' parameter names the column {column!r}, which is "
                    "categorical: its distribution is always that of its categories. "
                    "Leave it out, or see categorical_features."
                )
        found: dict[Any, list[int]] = {}
        for j in np.flatnonzero(columns.numeric).tolist():
            value = self.likelihoods.get(columns.names[j], "gaussian")
            found.setdefault(value, []).append(j)
        return [
            (Likelihood.from_value(value), np.array(positions))
            for value, positions in found.items()
        ]


class _Joint(nn.Module):
    """The modules of several likelihoods side by side, of numbers and of categories.

    Cells that are missing (NaN) have the log-density, the cost and the slope 0.

    Parameters
    ----------
    columns : Columns
    modules : list of tuple (module, ndarray of int)
        Modules of likelihoods, and the positions of their columns: the numeric ones.
    """

    fill: torch.Tensor
    places: torch.Tensor

    def __init__(self, columns, modules):
        super().__init__()
        self.register_buffer("fill", torch.as_tensor(columns.mean).float())
        self.log_jacobian = np.zeros(len(columns))
        self.where = [which.tolist() for _, which in modules]
        for i, (module, which) in enumerate(modules):
            self.add_module(f"part_{i}", module)
            self.log_jacobian[which] = module.log_jacobian
        self.categorical = np.flatnonzero(columns.categorical).tolist()
        self.softmax = Softmax(columns[columns.categorical])
        order = np.concatenate([*self.where, self.categorical]).astype(np.int64)
        self.register_buffer("places", torch.as_tensor(order.argsort()))
        self.sizes = [module.n_outputs for module, _ in modules]
        self.sizes.append(self.softmax.n_outputs)
        # A decoder has to have an output, though nothing may vary.
        self.n_outputs = max(1, sum(self.sizes))

    def check(self, X):
        for module, which in self._modules_of_numbers():
            module.check(X[:, which])

    def restore(self, X):
        X = X.copy()
        for module, which in self._modules_of_numbers():
            X[:, which] = module.restore(X[:, which])
        return X

    def log_prob(self, x, output):
        return self._observed("log_prob", x, output)

    def cost(self, x, output):
        return self._observed("cost", x, output)

    def residual(self, x, output):
        """Return how far every cell is from what is expected, NaN where it is missing.

        Of numbers it is the difference; of categories see `Softmax.residual`.
        """
        observed = ~x.isnan()
        x = torch.where(observed, x, self.fill)
        residuals = self._each(
            output,
            lambda module, which, part: x[:, which] - module.mean(part),
            lambda softmax, which, part: softmax.residual(x[:, which], part),
        )
        return torch.where(observed, residuals, torch.nan)

    def mean(self, output):
        return self._each(
            output,
            lambda module, which, part: module.mean(part),
            lambda softmax, which, part: softmax.mode(part),
        )

    def average(self, output, weights):
        """Return the mean rows, or most probable categories, of weighted draws.

        Parameters
        ----------
        output : torch.Tensor of shape (n_draws, n, n_outputs)
        weights : torch.Tensor of shape (n_draws, n)

        Returns
        -------
        torch.Tensor of shape (n, n_columns)
        """
        return self._each(
            output,
            lambda module, which, part: _weighted_mean(module, part, weights),
            lambda softmax, which, part: softmax.mode(part, weights),
        )

    def sample(self, output, generator):
        return self._each(
            output,
            lambda module, which, part: module.sample(part, generator),
            lambda softmax, which, part: softmax.sample(part, generator),
        )

    def _modules_of_numbers(self):
        for i, which in enumerate(self.where):
            yield getattr(self, f"part_{i}"), which

    def _observed(self, method, x, output):
        # The fill comes first: the slope of a NaN is NaN even where it is not chosen.
        observed = ~x.isnan()
        x = torch.where(observed, x, self.fill)

        def cells(module, which, part):
            return getattr(module, method)(x[:, which], part)

        return torch.where(observed, self._each(output, cells, cells), 0.0)

    def _each(self, output, of_numbers, of_categories):
        """Call functions of every module, its columns and its part of the output."""
        *parts, last = output[..., : sum(self.sizes)].split(self.sizes, dim=-1)
        cells = [
            of_numbers(module, which, part)
            for (module, which), part in zip(
                self._modules_of_numbers(), parts, strict=True
            )
        ]
        if self.categorical:
            cells.append(of_categories(self.softmax, self.categorical, last))
        return torch.cat(cells, dim=-1).index_select(-1, self.places)


def _weighted_mean(module, output, weights):
    return (weights[..., None] * module.mean(output)).sum(0)


def build_likelihood(part, columns, *, noise=True):
    """Build the module of a likelihood, or of several, for all columns of a table.

    Parameters
    ----------
    part : Likelihood
    columns : Columns
    noise : bool
        As of `Likelihood.build`.

    Returns
    -------
    torch.nn.Module
        The part's own for a table of numbers without holes, else a `_Joint`.
    """
    groups = part.groups(columns)
    if columns.is_plain and len(groups) == 1:
        return groups[0][0].build(columns, noise=noise)
    return _Joint(
        columns,
        [(each.build(columns[which], noise=noise), which) for each, which in groups],
    )


def residual(module, x, output):
    """Return how far every cell is from what the module of a likelihood expects.

    Parameters
    ----------
    module : torch.nn.Module
        As `build_likelihood` returns it.
    x : torch.Tensor of shape (n, n_columns)
    output : torch.Tensor of shape (n, n_outputs)

    Returns
    -------
    torch.Tensor of shape (n, n_columns)
        NaN where x is missing.
    """
    if isinstance(module, _Joint):
        return module.residual(x, output)
    return x - module.mean(output)


def average(module, output, weights):
    """Return the mean rows of weighted draws, see `_Joint.average`.

    Parameters
    ----------
    module : torch.nn.Module
        As `build_likelihood` returns it.
    output : torch.Tensor of shape (n_draws, n, n_outputs)
    weights : torch.Tensor of shape (n_draws, n)

    Returns
    -------
    torch.Tensor of shape (n, n_columns)
    """
    if isinstance(module, _Joint):
        return module.average(output, weights)
    return _weighted_mean(module, output, weights)

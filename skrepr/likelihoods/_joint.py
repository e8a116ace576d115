"""Likelihoods of several kinds of columns side by side."""

from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch

from skrepr._columns._messages import shortened
from skrepr._sklearn import InvalidParameterError
from skrepr._training._outputs import check_tensor, rehearsal
from skrepr._training._stacks import is_own
from skrepr.likelihoods._base import Likelihood, LikelihoodModule
from skrepr.likelihoods._categories import softmax_of
from skrepr.parts import check_module


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
            is_name = isinstance(value, str) and value in Likelihood.names
            is_part = isinstance(value, Likelihood) and type(value) is not PerColumn
            if not (is_name or is_part):
                raise InvalidParameterError(
                    f"The likelihood of column {column!r} must be one of the names "
                    f"{Likelihood.listed_names()} or a likelihood of single columns. "
                    f"Got {value!r} instead."
                )
            Likelihood.from_value(value)._validate_params()

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
        positions_of: dict[Any, list[int]] = {}
        for j in np.flatnonzero(columns.numeric).tolist():
            value = self.likelihoods.get(columns.names[j], "gaussian")
            positions_of.setdefault(value, []).append(j)
        return [
            (Likelihood.from_value(value), np.array(positions))
            for value, positions in positions_of.items()
        ]


class JointLikelihood(LikelihoodModule):
    """Likelihoods of some of the columns side by side, of numbers and of categories.

    Cells that are missing (NaN) have the log-density, the cost and the slope 0.

    Parameters
    ----------
    columns : Columns
    modules : list of tuple (LikelihoodModule, ndarray of int)
        The likelihoods of the numeric columns, and the positions of these.
    """

    fill: torch.Tensor
    order: torch.Tensor
    places: torch.Tensor

    def __init__(self, columns, modules):
        super().__init__(columns)
        self.register_buffer("fill", torch.as_tensor(columns.mean).float())
        categorical = np.flatnonzero(columns.categorical)
        if len(categorical):
            modules = [*modules, (softmax_of(columns[categorical]), categorical)]
        for i, (module, positions) in enumerate(modules):
            self.add_module(f"part_{i}", module)
            self.log_jacobian[positions] = module.log_jacobian
        self.positions = [positions.tolist() for _, positions in modules]
        self.sizes = [module.n_outputs for module, _ in modules]
        # A decoder has to have an output, though nothing may vary.
        self.n_outputs = max(1, sum(self.sizes))
        self.has_slopes = all(
            module.has_slopes and is_own(module) for module, _ in modules
        )
        self.has_holes = bool(columns.missing.any())
        order = np.concatenate(self.positions).astype(np.int64)
        self.register_buffer("order", torch.as_tensor(order))
        self.register_buffer("places", torch.as_tensor(order.argsort()))

    def check(self, X):
        for module, positions in self._parts():
            module.check(X[:, positions])

    def restore(self, X):
        X = X.copy()
        for module, positions in self._parts():
            X[:, positions] = module.restore(X[:, positions])
        return X

    def log_prob(self, x, output):
        return self._observed(x, output, lambda module, *args: module.log_prob(*args))

    def cost(self, x, output):
        return self._observed(x, output, lambda module, *args: module.cost(*args))

    def residual(self, x, output):
        """Return how far cells are from what is expected, NaN where missing."""
        residuals = self._observed(
            x, output, lambda module, *args: module.residual(*args)
        )
        return residuals.masked_fill(x.isnan(), torch.nan)

    def mean(self, output):
        return self._each(output, lambda module, part: module.mean(part))

    def average(self, output, weights):
        return self._each(output, lambda module, part: module.average(part, weights))

    def sample(self, output, generator):
        return self._each(output, lambda module, part: module.sample(part, generator))

    def targets(self, x):
        """Return the targets of all modules and, if any, which cells are observed."""
        observed = ~x.isnan()
        parts = self._columns_of_parts(torch.where(observed, x, self.fill))
        modules: Any = self.children()
        targets = tuple(
            module.targets(part) for module, part in zip(modules, parts, strict=True)
        )
        if not self.has_holes:
            return (targets,)
        return targets, tuple(self._columns_of_parts(observed.to(x.dtype)))

    def cost_and_slope(self, targets, output, factor):
        return self._sum("cost_and_slope", output, factor, *targets)

    def log_prob_and_slope(self, targets, output, factor):
        return self._sum("log_prob_and_slope", output, factor, *targets)

    def _sum(self, method, output, factor, targets, observed=None):
        """Add up what a method of every module returns first, and join the slopes."""
        factors = [factor] * len(targets)
        if observed is not None:
            factors = [part * factor for part in observed]
        outputs = self._outputs_of_parts(output)
        calls = zip(self.children(), targets, outputs, factors, strict=True)
        sums, slopes = zip(
            *(getattr(module, method)(*arguments) for module, *arguments in calls),
            strict=True,
        )
        if not sum(self.sizes):  # nothing varies, but the output has a value
            slopes = (torch.zeros_like(output),)
        return reduce(add, sums), torch.cat(slopes, dim=1)

    def _columns_of_parts(self, cells):
        """Split cells (n, n_columns) by the modules."""
        if len(self.positions) == 1:
            return [cells]
        lengths = list(map(len, self.positions))
        return cells.index_select(1, self.order).split(lengths, dim=1)

    def _outputs_of_parts(self, output):
        """Split a decoder's output (..., n_outputs) by the modules."""
        if output.shape[-1] > sum(self.sizes):  # nothing varies
            output = output[..., :0]
        return output.split(self.sizes, dim=-1)

    def _parts(self):
        return zip(self.children(), self.positions, strict=True)

    def _observed(self, x, output, function):
        """Call a function of every module, its cells and its part of the output."""
        # The fill comes first: the slope of a NaN is NaN even where it is not chosen.
        observed = ~x.isnan()
        x = torch.where(observed, x, self.fill)
        columns = iter(self._columns_of_parts(x))
        cells = self._each(
            output, lambda module, part: function(module, next(columns), part)
        )
        return torch.where(observed, cells, 0.0)

    def _each(self, output, function):
        """Call a function of every module and its part of the output."""
        outputs = self._outputs_of_parts(output)
        cells = list(map(function, self.children(), outputs))
        if len(cells) == 1:
            return cells[0]
        return torch.cat(cells, dim=-1).index_select(-1, self.places)


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
    LikelihoodModule
        The part's own for a table of numbers without holes, else a `JointLikelihood`.
    """
    groups = part.groups(columns)
    if columns.is_plain and len(groups) == 1:
        return _build(groups[0][0], columns, noise)
    return JointLikelihood(
        columns,
        [
            (_build(likelihood, columns[positions], noise), positions)
            for likelihood, positions in groups
        ],
    )


def _build(part, columns, noise):
    """Build the module of a likelihood, and check that a user's is of all cells."""
    module = check_module(part.build(columns, noise=noise), LikelihoodModule, part)
    if is_own(part):
        return module
    x = torch.as_tensor(columns.mean).float().repeat(2, 1)
    output = torch.zeros(3, 2, module.n_outputs)
    with rehearsal(module) as (rehearsed, generator):
        for method, arguments in {
            "log_prob" if noise else "cost": (x, output),
            "mean": (output,),
            "sample": (output, generator),
        }.items():
            cells = getattr(rehearsed, method)(*arguments)
            check_tensor(cells, (3, *x.shape), module, method)
    return module

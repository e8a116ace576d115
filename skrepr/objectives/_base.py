"""What objectives share: the views of a batch, projections, temperatures."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
from torch import nn

from skrepr._sklearn import Interval
from skrepr.parts import Part


@dataclass
class Views:
    """Two views of every row of a batch, and what the encoder makes of them.

    Attributes
    ----------
    rows : torch.Tensor of shape (2n, n_columns)
        The views. View n + i is the partner of view i.
    originals : torch.Tensor of shape (2n, n_columns)
        The rows before they were changed.
    codes : torch.Tensor of shape (2n, n_components)
        The encoder's output for `rows`, part of the autograd graph.
    ids : torch.Tensor of shape (2n,), int64
        Views of one id are positives of each other. Partners always share theirs.
    pairs_only : bool
        Whether nothing but partners shares an id.
    progress : torch.Tensor
        A 0-d tensor: the fraction of training done, in [0, 1].
    """

    rows: torch.Tensor
    originals: torch.Tensor
    codes: torch.Tensor
    ids: torch.Tensor
    pairs_only: bool
    progress: torch.Tensor


class Objective(Part):
    """Base class of the objectives.

    An objective of your own implements `build`.
    """

    def build(self, encoder, head, n_components):
        """Build the module that computes the loss of two views of a batch.

        Parameters
        ----------
        encoder : torch.nn.Module
            Maps (n, n_columns) to (n, n_components). The module may copy it, for a
            target that follows it, but must not own it: its codes come with the views.
        head : torch.nn.Sequential
            The projection head, for the module to own. It maps (n, n_components) to
            (n, width); its last layer is linear.
        n_components : int

        Returns
        -------
        ObjectiveModule
            Targets, queues and predictors belong to it; they change in training mode
            only.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


class ObjectiveModule(nn.Module):
    """Base class of the modules of objectives.

    A subclass implements `forward`.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.objectives import Objective, ObjectiveModule
    >>> class Distance(Objective):
    ...     def build(self, encoder, head, n_components):
    ...         return DistanceModule(head)
    >>> class DistanceModule(ObjectiveModule):
    ...     def __init__(self, head):
    ...         super().__init__()
    ...         self.head = head
    ...
    ...     def forward(self, views):
    ...         a, b = self.head(views.codes).chunk(2)
    ...         return {"distance": (a - b).square().mean(), "size": -a.var(0).mean()}
    >>> ContrastiveTransformer(objective=Distance())
    ContrastiveTransformer(objective=Distance())
    """

    def forward(self, views):
        """Compute the loss.

        Parameters
        ----------
        views : Views

        Returns
        -------
        dict of str to torch.Tensor
            Named 0-d terms that sum to the loss.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward.")

    def after_step(self, encoder):
        """Do what is due after a step of the optimiser; by default nothing.

        Parameters
        ----------
        encoder : torch.nn.Module
            As `Objective.build` got it, a step further.
        """


class ProjectionLoss(ObjectiveModule):
    """A loss of the projections of all views and their ids.

    The loss is an attribute of the class. As one of the instance it would be taken for
    a method that a user has put there, and the module left to autograd.

    Parameters
    ----------
    head : torch.nn.Module
        Maps codes to projections.
    **options : dict
        Of the loss.
    """

    loss: Callable

    def __init__(self, head, **options):
        super().__init__()
        self.head = head
        self.options = options

    def forward(self, views):
        z = self.head(views.codes)
        return {self.loss.__name__: self.loss(z, views.ids, **self.options)}


class Temperature(nn.Module):
    """The number that divides similarities, fixed or learned.

    What is learned is its logarithm. It is brought back to the smallest temperature
    after a step that went below, and never has a slope of 0: it can always rise again.

    Parameters
    ----------
    part : TemperatureObjective
        With the temperature, whether it is learned, and the smallest that may be.
    """

    def __init__(self, part):
        super().__init__()
        self.fixed = part.temperature
        self.is_learned = part.learn_temperature
        if self.is_learned:
            self.logarithm = nn.Parameter(torch.tensor(float(part.temperature)).log())
            self.min_logarithm = math.log(part.min_temperature)

    def forward(self):
        return self.logarithm.exp() if self.is_learned else self.fixed

    @torch.no_grad()
    def after_step(self):
        if self.is_learned:
            self.logarithm.clamp_(min=self.min_logarithm)


class TemperatureObjective(Objective):
    _parameter_constraints: dict = {
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "learn_temperature": ["boolean"],
        "min_temperature": [Interval(Real, 0, None, closed="neither")],
    }

    def _validate_params(self):
        super()._validate_params()
        if self.learn_temperature and self.temperature < self.min_temperature:
            raise ValueError(
                f"The temperature={self.temperature!r} of {type(self).__name__}, at "
                "which learning starts, must not be below "
                f"min_temperature={self.min_temperature!r}. Raise the one or lower the "
                "other."
            )

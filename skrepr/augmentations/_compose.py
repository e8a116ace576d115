"""Augmentations made of others, or of a user's function."""

import copy
import inspect

import torch
from torch import nn

from skrepr._sklearn import InvalidParameterError
from skrepr.augmentations._base import Augmentation, build_augmentation


class Compose(Augmentation):
    """Apply one augmentation after another.

    Parameters
    ----------
    first, second : str, Augmentation or callable
        Names or parts, themselves perhaps compositions, or functions, see
        `Augmentation`. A grid search reaches the parameters of parts as
        ``augmentation__first__rate``.

    Examples
    --------
    >>> from skrepr.augmentations import Compose, GaussianNoise
    >>> Compose("feature_corruption", GaussianNoise(scale=0.2))
    Compose(first='feature_corruption', second=GaussianNoise(scale=0.2))
    """

    _part_kinds: dict = {"first": Augmentation, "second": Augmentation}

    def __init__(self, first, second):
        self.first = first
        self.second = second

    def build(self, columns):
        """Build the function that changes a batch."""
        return _Compose(
            build_augmentation(self._part("first"), columns),
            build_augmentation(self._part("second"), columns),
        )


class _Function(Augmentation, wraps="a function"):
    """What a user's function is in the place of an augmentation."""

    def __init__(self, function):
        self.function = function

    @classmethod
    def _can_wrap(cls, value):
        return callable(value) and not isinstance(value, type)

    def _validate_params(self):
        super()._validate_params()
        try:
            inspect.signature(self.function).bind("x", "generator")
        except TypeError as error:
            raise InvalidParameterError(
                f"The augmentation {self.function!r} cannot be called with a batch and "
                f"a generator ({error}). Expected a function f(x, generator)."
            ) from error
        except ValueError:  # a function without a signature
            pass

    def build(self, columns):
        # A function is a value, as parts are: a module would be trained in place.
        is_module = isinstance(self.function, nn.Module)
        return _Call(copy.deepcopy(self.function) if is_module else self.function)


class _Compose(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x, generator, ids=None):
        return self.second(self.first(x, generator, ids), generator, ids)


class _Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, generator, ids=None):
        changed = self.function(x.clone(), generator)  # which it may write to
        is_tensor = isinstance(changed, torch.Tensor)
        if not is_tensor or changed.shape != x.shape:
            got = f"the shape {tuple(changed.shape)}" if is_tensor else type(changed)
            raise ValueError(
                f"The augmentation {self.function!r} must return a tensor of the shape "
                f"{tuple(x.shape)} of the batch it is given. Got {got} instead."
            )
        return changed.to(x)

"""Augmentations: random changes of rows, for denoising and for contrastive views.

All work on the matrix the modules see, where numeric columns are standardised.
"""

import math
from numbers import Real

import torch
from torch import nn

from skrepr._sklearn import Interval
from skrepr.parts import Part, part_constraint


class Augmentation(Part):
    """Base class of the augmentations.

    An augmentation of your own implements `build`.
    """

    def build(self, columns):
        """Build the function that changes a batch.

        Parameters
        ----------
        columns : Columns
            The layout of the matrix: how many columns, and which of them vary.

        Returns
        -------
        torch.nn.Module
            Its ``forward(x, generator)`` maps a batch (n, n_columns) to a new tensor
            of that shape. Every random number comes from ``generator``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


class GaussianNoise(Augmentation):
    """Add Gaussian noise to every value.

    Parameters
    ----------
    scale : float or pair of floats, default=(0.0, 1.0)
        Standard deviation of the noise, in standard deviations of the column. From a
        pair (lowest, highest) every row draws its own, uniformly.

    Examples
    --------
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.augmentations import GaussianNoise
    >>> AutoencoderTransformer(augmentation=GaussianNoise(scale=0.1))
    AutoencoderTransformer(augmentation=GaussianNoise(scale=0.1))
    """

    _parameter_constraints: dict = {
        "scale": [Interval(Real, 0, None, closed="left"), tuple, list]
    }

    def __init__(self, scale=(0.0, 1.0)):
        self.scale = scale

    def build(self, columns):
        """Build the function that changes a batch."""
        scale = self.scale
        if isinstance(scale, Real):
            return _GaussianNoise(scale, scale, columns)
        if (
            len(scale) != 2
            or not all(isinstance(bound, Real) for bound in scale)
            or not 0 <= scale[0] <= scale[1] < math.inf
        ):
            raise ValueError(
                "The 'scale' parameter of GaussianNoise must be a number from 0 on, or "
                "a pair (lowest, highest) of such numbers in this order. Got "
                f"{scale!r} instead."
            )
        lowest, highest = scale
        return _GaussianNoise(lowest, highest, columns)


class FeatureMasking(Augmentation):
    """Replace random cells by the mean of their column (feature dropout).

    Parameters
    ----------
    rate : float, default=0.3
        Probability that a cell is masked, in [0, 1].

    Examples
    --------
    >>> from skrepr import AutoencoderTransformer
    >>> AutoencoderTransformer(augmentation="feature_masking")
    AutoencoderTransformer(augmentation='feature_masking')
    """

    _parameter_constraints: dict = {"rate": [Interval(Real, 0, 1, closed="both")]}

    def __init__(self, rate=0.3):
        self.rate = rate

    def build(self, columns):
        """Build the function that changes a batch."""
        return _FeatureMasking(self.rate, columns)


class FeatureCorruption(Augmentation):
    """Replace random cells by random values of their column.

    The replacements are drawn from all the rows of the batch, itself a random sample of
    the training rows: draws from the column's own empirical marginal distribution.

    Parameters
    ----------
    rate : float, default=0.3
        Probability that a cell is replaced, in [0, 1].

    References
    ----------
    Bahri, Jiang, Tay and Metzler, "SCARF: Self-Supervised Contrastive Learning using
    Random Feature Corruption", ICLR 2022.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.augmentations import FeatureCorruption
    >>> ContrastiveTransformer(augmentation=FeatureCorruption(rate=0.6))
    ContrastiveTransformer(augmentation=FeatureCorruption(rate=0.6))
    """

    _parameter_constraints: dict = {"rate": [Interval(Real, 0, 1, closed="both")]}

    def __init__(self, rate=0.3):
        self.rate = rate

    def build(self, columns):
        """Build the function that changes a batch."""
        return _FeatureCorruption(self.rate)


class Compose(Augmentation):
    """Apply one augmentation after another.

    Parameters
    ----------
    first, second : str or Augmentation
        Names or parts, themselves perhaps compositions. A grid search reaches their
        parameters as ``augmentation__first__rate``.

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
            self._part("first").build(columns), self._part("second").build(columns)
        )


class _GaussianNoise(nn.Module):
    std: torch.Tensor

    def __init__(self, lowest, highest, columns):
        super().__init__()
        self.lowest = lowest
        self.highest = highest
        self.register_buffer("std", torch.as_tensor(columns.std).float())

    def forward(self, x, generator):
        noise = torch.empty_like(x).normal_(generator=generator)
        if self.lowest == self.highest:
            return torch.addcmul(x, noise, self.lowest * self.std)
        scale = x.new_empty(x.shape[0], 1)
        scale.uniform_(self.lowest, self.highest, generator=generator)
        return torch.addcmul(x, noise.mul_(self.std), scale)


class _FeatureMasking(nn.Module):
    mean: torch.Tensor

    def __init__(self, rate, columns):
        super().__init__()
        self.rate = rate
        self.register_buffer("mean", torch.as_tensor(columns.mean).float())

    def forward(self, x, generator):
        mask = torch.empty_like(x).uniform_(generator=generator) < self.rate
        return torch.where(mask, self.mean, x)


class _FeatureCorruption(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x, generator):
        n, d = x.shape
        corrupt = torch.empty_like(x).uniform_(generator=generator) < self.rate
        donors = torch.randint(n, (n, d), generator=generator, device=x.device)
        return torch.where(corrupt, x.gather(0, donors), x)


class _Compose(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x, generator):
        return self.second(self.first(x, generator), generator)


Augmentation.names = {
    "gaussian_noise": GaussianNoise,
    "feature_masking": FeatureMasking,
    "feature_corruption": FeatureCorruption,
}
Compose._parameter_constraints = {
    "first": part_constraint(Augmentation),
    "second": part_constraint(Augmentation),
}

"""Augmentations of the cells of a table."""

import math
from numbers import Real

import numpy as np
import torch
from torch import nn

from skrepr._sklearn import Interval, StrOptions
from skrepr.augmentations._base import Augmentation, DrawnParameter, DrawsApart, draw


class GaussianNoise(DrawnParameter, name="gaussian_noise"):
    """Add Gaussian noise to every value.

    The category of a cell is replaced by that of a random row of the batch, with the
    probability s² / (1 + s²): at the standard deviation s, that is the share of noise
    in the variance of a number. A missing cell stays missing.

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

    _drawn, _largest = "scale", math.inf

    _parameter_constraints: dict = {
        "scale": [Interval(Real, 0, None, closed="left"), tuple, list]
    }

    def __init__(self, scale=(0.0, 1.0)):
        self.scale = scale

    def build(self, columns):
        """Build the function that changes a batch."""
        return _GaussianNoise(self._bounds, columns)


class FeatureMasking(DrawnParameter, name="feature_masking"):
    """Replace random cells by the mean of their column (feature dropout).

    Where a cell may be missing, it is left out instead: in categorical columns and in
    those that had holes in training. The encoder sees that it is missing.

    Parameters
    ----------
    rate : float or pair of floats, default=0.3
        Probability that a cell is masked, in [0, 1]. From a pair (lowest, highest)
        every row draws its own, uniformly.

    Examples
    --------
    >>> from skrepr import AutoencoderTransformer
    >>> AutoencoderTransformer(augmentation="feature_masking")
    AutoencoderTransformer(augmentation='feature_masking')
    """

    _drawn, _largest = "rate", 1

    _parameter_constraints: dict = {
        "rate": [Interval(Real, 0, 1, closed="both"), tuple, list]
    }

    def __init__(self, rate=0.3):
        self.rate = rate

    def build(self, columns):
        """Build the function that changes a batch."""
        return _FeatureMasking(self._bounds, columns)


class FeatureCorruption(DrawnParameter, name="feature_corruption"):
    """Replace random cells by random values of their column.

    The replacements are drawn from the rows of the batch, itself a random sample of the
    training rows (with labels, one in which classes are as frequent): draws from the
    column's own empirical distribution, in which a cell may also be missing.

    Parameters
    ----------
    rate : float or pair of floats, default=0.3
        Probability that a cell is replaced, in [0, 1]. From a pair (lowest, highest)
        every row draws its own, uniformly.
    donors : {"all", "class"}, default="all"
        The rows of the batch that a replacement may come from: all, or those of the
        row's own class, so that the changed row remains typical of it. Classes are
        known where labels decide which rows belong together; a row that is the only one
        of its class, has no label, or is not known by its class draws from all rows.

    References
    ----------
    Bahri, Jiang, Tay and Metzler, "SCARF: Self-Supervised Contrastive Learning using
    Random Feature Corruption", ICLR 2022.

    Cui, Hosseinzadeh, Ma, Wu, Sui and Golestan, "Tabular Data Contrastive Learning via
    Class-Conditioned and Feature-Correlation Based Augmentation", arXiv:2404.17489,
    2024.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.augmentations import FeatureCorruption
    >>> ContrastiveTransformer(augmentation=FeatureCorruption(rate=0.6))
    ContrastiveTransformer(augmentation=FeatureCorruption(rate=0.6))
    """

    _drawn, _largest = "rate", 1

    _parameter_constraints: dict = {
        "rate": [Interval(Real, 0, 1, closed="both"), tuple, list],
        "donors": [StrOptions({"all", "class"})],
    }

    def __init__(self, rate=0.3, donors="all"):
        self.rate = rate
        self.donors = donors

    def build(self, columns):
        """Build the function that changes a batch."""
        return _FeatureCorruption(self._bounds, self.donors == "class")


class Mixup(Augmentation, name="mixup"):
    """Mix every row with another one.

    ``λ x + (1 - λ) x_other``, where the other is a random row of the batch, and every
    row draws its own share λ uniformly between `min_share` and 1. Categories are each
    taken from the one row or the other, with the probabilities λ and 1 - λ. A number
    that is missing in one of the two rows stays what it is in the row itself.

    Parameters
    ----------
    min_share : float, default=0.5
        The least share of the row itself, in [0, 1]. Below 0.5 a row may become more
        like the other one than like itself.

    References
    ----------
    Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization",
    ICLR 2018.

    Verma, Luong, Kawaguchi, Pham and Le, "Towards Domain-Agnostic Contrastive
    Learning", ICML 2021.

    Examples
    --------
    >>> from skrepr import ContrastiveTransformer
    >>> from skrepr.augmentations import Mixup
    >>> ContrastiveTransformer(augmentation=Mixup(min_share=0.8))
    ContrastiveTransformer(augmentation=Mixup(min_share=0.8))
    """

    _parameter_constraints: dict = {"min_share": [Interval(Real, 0, 1, closed="both")]}

    def __init__(self, min_share=0.5):
        self.min_share = min_share

    def build(self, columns):
        """Build the function that changes a batch."""
        return _Mixup(self.min_share, columns)


def _draw_donors(x, ids, generator):
    """Draw for every cell a row of the same id; of all, for an id that is alone."""
    _, group, sizes = ids.unique(return_inverse=True, return_counts=True)
    by_group = group.argsort(stable=True)
    first = sizes.cumsum(0) - sizes
    alone = sizes == 1
    first, sizes = first.masked_fill(alone, 0), sizes.masked_fill(alone, len(ids))
    u = torch.empty_like(x).uniform_(generator=generator)
    return by_group[first[group, None] + (u * sizes[group, None]).long()]


class _GaussianNoise(DrawsApart):
    categorical: torch.Tensor
    std: torch.Tensor

    def __init__(self, bounds, columns):
        super().__init__()
        self.bounds = bounds
        categorical = np.flatnonzero(columns.categorical)
        self.register_buffer("categorical", torch.as_tensor(categorical))
        std = np.where(columns.categorical, 0.0, columns.std)
        self.register_buffer("std", torch.as_tensor(std).float())

    def draws(self, x, generator, first=0):
        noise = torch.empty_like(x).normal_(generator=generator)
        scale = draw(x, self.bounds, generator)
        if not len(self.categorical):
            return noise, scale
        shape = x.shape[0], len(self.categorical)
        donors = torch.randint(
            first, first + shape[0], shape, generator=generator, device=x.device
        )
        return noise, scale, donors, x.new_empty(shape).uniform_(generator=generator)

    def change(self, x, draws):
        noise, scale, *of_categories = draws
        changed = torch.addcmul(x, noise, scale * self.std)
        if of_categories:
            donors, u = of_categories
            cells = x.index_select(1, self.categorical)
            others = cells.gather(0, donors)
            variance = scale * scale
            replaced = u < variance / (1 + variance)
            replaced.masked_fill_((cells + others).isnan(), False)
            changed.index_copy_(
                1, self.categorical, torch.where(replaced, others, cells)
            )
        return changed


class _FeatureMasking(DrawsApart):
    instead: torch.Tensor

    def __init__(self, bounds, columns):
        super().__init__()
        self.bounds = bounds
        may_be_missing = columns.missing | columns.categorical
        instead = np.where(may_be_missing, np.nan, columns.mean)
        values = torch.as_tensor(instead).float()
        # Apart from the state of the module, in which NaN means that training failed.
        self.register_buffer("instead", values, persistent=False)

    def draws(self, x, generator, first=0):
        rate = draw(x, self.bounds, generator)
        return rate, torch.empty_like(x).uniform_(generator=generator)

    def change(self, x, draws):
        rate, u = draws
        return torch.where(u < rate, self.instead, x)


class _FeatureCorruption(nn.Module):
    def __init__(self, bounds, within_class):
        super().__init__()
        self.bounds = bounds
        self.within_class = within_class

    def forward(self, x, generator, ids=None):
        rate = draw(x, self.bounds, generator)
        corrupt = torch.empty_like(x).uniform_(generator=generator) < rate
        if self.within_class and ids is not None:
            donors = _draw_donors(x, ids, generator)
        else:
            donors = torch.randint(
                x.shape[0], x.shape, generator=generator, device=x.device
            )
        return torch.where(corrupt, x.gather(0, donors), x)


class _Mixup(nn.Module):
    def __init__(self, min_share, columns):
        super().__init__()
        self.min_share = min_share
        self.categorical = np.flatnonzero(columns.categorical).tolist()

    def forward(self, x, generator, ids=None):
        n, device = x.shape[0], x.device
        # A step of 1 to n - 1 rows leads to any row but the own; a row alone stays.
        step = torch.randint(1, max(n, 2), (n,), generator=generator, device=device)
        others = x[(torch.arange(n, device=device) + step) % n]
        share = x.new_empty(n, 1).uniform_(self.min_share, 1, generator=generator)
        mixed = torch.lerp(others, x, share)
        mixed = torch.where(mixed.isnan(), x, mixed)
        if self.categorical:
            cells, others = x[:, self.categorical], others[:, self.categorical]
            u = torch.empty_like(cells).uniform_(generator=generator)
            mixed[:, self.categorical] = torch.where(u < share, cells, others)
        return mixed

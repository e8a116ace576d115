"""Augmentations: random changes of rows, for denoising and for contrastive views.

All work on the matrix the modules see, where numeric columns are standardised,
categorical ones hold codes, and NaN is a cell that is missing.
"""

from skrepr import _public
from skrepr.augmentations._base import Augmentation
from skrepr.augmentations._compose import Compose
from skrepr.augmentations._tables import (
    FeatureCorruption,
    FeatureMasking,
    GaussianNoise,
    Mixup,
)

__all__ = [
    "Augmentation",
    "Compose",
    "FeatureCorruption",
    "FeatureMasking",
    "GaussianNoise",
    "Mixup",
]

_public.hand_on(__name__, globals())

"""Backbones: the networks between the columns and the code."""

from skrepr._public import hand_on
from skrepr.backbones._base import Backbone
from skrepr.backbones._mlp import MLP

__all__ = [
    "MLP",
    "Backbone",
]

hand_on(__name__, globals())

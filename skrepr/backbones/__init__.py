"""Backbones: the networks between the columns and the code."""

from skrepr import _public
from skrepr.backbones._base import Backbone
from skrepr.backbones._mlp import MLP

__all__ = [
    "MLP",
    "Backbone",
]

_public.hand_on(__name__, globals())

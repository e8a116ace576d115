"""Objectives of contrastive learning: what the views of a batch should agree on."""

from skrepr import _public
from skrepr.objectives._base import Objective, ObjectiveModule, Views
from skrepr.objectives._pairs import (
    Contrastive,
    NPair,
    NTXent,
    SupCon,
    contrastive,
    n_pair,
    nt_xent,
    sup_con,
)
from skrepr.objectives._redundancy import BarlowTwins, VICReg, barlow_twins, vicreg
from skrepr.objectives._targets import BYOL, MoCo, SimSiam, moco, prediction
from skrepr.objectives._triplets import (
    LiftedStructured,
    Triplet,
    lifted_structured,
    triplet,
)

__all__ = [
    "BYOL",
    "BarlowTwins",
    "Contrastive",
    "LiftedStructured",
    "MoCo",
    "NPair",
    "NTXent",
    "Objective",
    "ObjectiveModule",
    "SimSiam",
    "SupCon",
    "Triplet",
    "VICReg",
    "Views",
    "barlow_twins",
    "contrastive",
    "lifted_structured",
    "moco",
    "n_pair",
    "nt_xent",
    "prediction",
    "sup_con",
    "triplet",
    "vicreg",
]

_public.hand_on(__name__, globals())

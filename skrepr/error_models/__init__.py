"""Error models: how far a row's errors are from those of the training rows.

An autoencoder moves a row towards the training rows. An error model learns what its
moves of training rows look like, and makes of a row's moves one number a column: the
column's contribution to the anomaly score.
"""

from skrepr import _public
from skrepr.error_models._base import ErrorModel, ErrorModelModule
from skrepr.error_models._covariance import Covariance
from skrepr.error_models._independent import Diagonal, MeanSquared

__all__ = [
    "Covariance",
    "Diagonal",
    "ErrorModel",
    "ErrorModelModule",
    "MeanSquared",
]

_public.hand_on(__name__, globals())

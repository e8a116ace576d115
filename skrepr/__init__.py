"""Representation learning for tables, in scikit-learn's way.

Autoencoders, variational autoencoders and contrastive learning as transformers that
slot into pipelines and grid searches; classifiers and regressors that fine-tune them
where labels are few; and outlier detection from their scores.
"""

from skrepr import _public
from skrepr._estimators._autoencoder import AutoencoderTransformer
from skrepr._estimators._contrastive import ContrastiveTransformer
from skrepr._estimators._fine_tuned_classifier import FineTunedClassifier
from skrepr._estimators._fine_tuned_regressor import FineTunedRegressor
from skrepr._estimators._outlier_detector import OutlierDetector
from skrepr._estimators._vae import VAETransformer

__version__ = "0.1.0"

__all__ = [
    "AutoencoderTransformer",
    "ContrastiveTransformer",
    "FineTunedClassifier",
    "FineTunedRegressor",
    "OutlierDetector",
    "VAETransformer",
    "__version__",
]

_public.hand_on(__name__, globals())

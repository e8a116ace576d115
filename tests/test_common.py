"""scikit-learn's own checks, none of them excused, skipped or tried twice."""

from unittest import SkipTest

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils import check_array, estimator_checks, get_tags
from sklearn.utils.validation import check_is_fitted

from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    FineTunedClassifier,
    FineTunedRegressor,
    OutlierDetector,
    VAETransformer,
)
from skrepr.augmentations import (
    Compose,
    FeatureCorruption,
    FeatureMasking,
    GaussianNoise,
)
from skrepr.backbones import MLP
from skrepr.likelihoods import Gaussian
from skrepr.objectives import MoCo, NTXent, VICReg
from skrepr.penalties import L1


class FittedPCA(BaseEstimator):
    """A PCA fitted to normal rows, as wide and named as the first rows it meets.

    The checks come in many widths, a frozen estimator has one. `FrozenEstimator.fit`
    asks whether its estimator is fitted: there a check begins, and the width is open.
    """

    def fit(self, X, y=None):
        raise AssertionError("A frozen estimator was fitted.")

    def __sklearn_is_fitted__(self):
        vars(self).clear()
        return True

    def __getstate__(self):
        return {}

    def score_samples(self, X):
        if not vars(self):
            rows = np.random.default_rng(0).normal(size=(50, check_array(X).shape[1]))
            if hasattr(X, "columns"):
                rows = pd.DataFrame(rows, columns=X.columns)
            self.pca = PCA().fit(rows)
            vars(self).update(
                {k: v for k, v in vars(self.pca).items() if k.endswith("_in_")}
            )
        return self.pca.score_samples(X)


class InPipeline(TransformerMixin, BaseEstimator):
    """A Pipeline that scales to [0, 1] before the estimator.

    scikit-learn's Pipeline fits the very steps it was given, which two of the checks
    forbid. This one, like any meta-estimator, fits copies.
    """

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y=None):
        pipeline = make_pipeline(MinMaxScaler(clip=True), clone(self.estimator))
        self.pipeline_ = pipeline.fit(X, y)
        return self

    def __getattr__(self, name):
        if name in ("n_features_in_", "feature_names_in_") and "pipeline_" in vars(
            self
        ):
            return getattr(self.pipeline_, name)
        raise AttributeError(name)

    def transform(self, X):
        check_is_fitted(self)
        return self.pipeline_.transform(X)

    def score_samples(self, X):
        check_is_fitted(self)
        return self.pipeline_.score_samples(X)

    def score(self, X, y=None):
        check_is_fitted(self)
        return self.pipeline_.score(X)

    def get_feature_names_out(self, input_features=None):
        check_is_fitted(self)
        return self.pipeline_.get_feature_names_out(input_features)

    def __sklearn_tags__(self):
        return get_tags(self.estimator)


quick = {"max_iter": 2, "random_state": 0}
tuning = {"max_iter": 60, "learning_rate": 1e-2, "random_state": 0}

TRANSFORMERS = [
    AutoencoderTransformer(**quick),
    VAETransformer(**quick),
    ContrastiveTransformer(**quick),
]
DETECTORS = [
    OutlierDetector(AutoencoderTransformer(**quick), contamination=0.1),
    OutlierDetector(KernelDensity()),
    OutlierDetector(FrozenEstimator(FittedPCA())),
    OutlierDetector(
        make_pipeline(
            MinMaxScaler(clip=True),
            VAETransformer(backbone=MLP((8,)), likelihood="bernoulli", **quick),
        ),
        contamination=0.1,
    ),
]
FINE_TUNED = [
    FineTunedClassifier(AutoencoderTransformer(**quick), **tuning),
    FineTunedRegressor(VAETransformer(backbone=MLP((8,)), **quick), **tuning),
]
# Whatever takes another way through the code than the defaults; an estimator takes
# several of these ways at once.
VARIANTS = [
    AutoencoderTransformer(
        backbone=MLP((32,), norm="batch"),
        augmentation="feature_masking",
        batch_size=2,
        **quick,
    ),
    AutoencoderTransformer(
        backbone=MLP((32,), norm="layer", dropout=0.5),
        augmentation=FeatureCorruption(rate=0.5),
        early_stopping=True,
        **quick,
    ),
    AutoencoderTransformer(
        n_components=1,
        backbone=MLP((512,)),
        augmentation=None,
        penalty=L1(weight=0.1),
        standardize=False,
        **quick,
    ),
    VAETransformer(
        backbone=MLP((32,), norm="batch", dropout=0.2),
        early_stopping=True,
        n_iter_no_change=1,
        tol=0,
        beta=4.0,
        kl_warmup=0.0,
        n_importance_samples=1,
        **quick,
    ),
    VAETransformer(
        backbone=MLP((512,)),
        likelihood=Gaussian(scale=0.5),
        batch_size=2,
        weight_decay=0.1,
        standardize=False,
        **quick,
    ),
    ContrastiveTransformer(
        backbone=MLP(norm="batch"),
        objective=MoCo(learn_temperature=True),
        augmentation=GaussianNoise(scale=0.5),
        **quick,
    ),
    ContrastiveTransformer(
        backbone=MLP((8,), "gelu", "layer", 0.5),
        objective="sup_con",
        positives="labels",
        augmentation=FeatureMasking(rate=0.5),
        early_stopping=True,
        validation_fraction=0.3,
        **quick,
    ),
    ContrastiveTransformer(
        backbone=MLP((512, 512)),
        objective=NTXent(temperature=0.05),
        augmentation=Compose("feature_corruption", GaussianNoise()),
        standardize=False,
        **quick,
    ),
    ContrastiveTransformer(objective="byol", auxiliary="self_prediction", **quick),
    ContrastiveTransformer(objective="triplet", positives="labels", **quick),
    ContrastiveTransformer(objective="barlow_twins", **quick),
    ContrastiveTransformer(
        objective=VICReg(covariance=2.0), augmentation="mixup", **quick
    ),
    FineTunedClassifier(
        VAETransformer(backbone=MLP((32,), dropout=0.2), **quick),
        augmentation="feature_corruption",
        early_stopping=True,
        batch_size=64,
        **tuning,
    ),
    FineTunedClassifier(ContrastiveTransformer(max_iter=2), **tuning),
    FineTunedRegressor(
        ContrastiveTransformer(backbone=MLP((32,), norm="layer"), **quick),
        early_stopping=True,
        **tuning,
    ),
    FineTunedRegressor(
        AutoencoderTransformer(backbone=MLP((32,), norm="batch"), trim=0.2, **quick),
        augmentation=GaussianNoise(scale=0.1),
        **tuning,
    ),
]
BERNOULLI = [
    InPipeline(
        AutoencoderTransformer(backbone=MLP((8,)), likelihood="bernoulli", **quick)
    ),
    InPipeline(
        VAETransformer(
            backbone=MLP((), activation="tanh"), likelihood="bernoulli", **quick
        )
    ),
]
EVERYTHING = TRANSFORMERS + DETECTORS + FINE_TUNED + VARIANTS + BERNOULLI


def type_name(estimator):
    return type(estimator).__name__


def passes(check, *args):
    try:
        check(*args)
    except SkipTest as reason:
        raise AssertionError(f"The check was skipped: {reason}") from reason


# Columns around 100, which some checks have, need standardize=True.
@pytest.mark.filterwarnings("ignore:The embedding has collapsed")
@estimator_checks.parametrize_with_checks(EVERYTHING)
def test_scikit_learn_check(estimator, check):
    passes(check, estimator)


@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")
@pytest.mark.parametrize(
    "name",
    [
        "check_get_feature_names_out_error",
        "check_global_output_transform_pandas",
        "check_global_set_output_transform_polars",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
    ],
)
@pytest.mark.parametrize("estimator", TRANSFORMERS, ids=type_name)
def test_check_of_scikit_learns_own_transformers(estimator, name):
    passes(getattr(estimator_checks, name), type_name(estimator), estimator)


@pytest.mark.parametrize(
    "name",
    [
        "check_dataframe_column_names_consistency",
        "check_inplace_ensure_writeable",
        "check_param_validation",
    ],
)
@pytest.mark.parametrize(
    "estimator", TRANSFORMERS + DETECTORS + FINE_TUNED, ids=type_name
)
def test_check_of_scikit_learns_own_estimators(estimator, name):
    passes(getattr(estimator_checks, name), type_name(estimator), estimator)


@pytest.mark.parametrize("container", ["NotAnArray", "PandasDataframe"])
@pytest.mark.parametrize("detector", DETECTORS, ids=type_name)
def test_detector_takes_whatever_converts_to_an_array(detector, container):
    X, y = make_blobs(n_samples=30, random_state=0)
    check = estimator_checks.check_estimators_data_not_an_array
    passes(check, type_name(detector), detector, X, y, container)


@pytest.mark.parametrize("estimator", TRANSFORMERS + FINE_TUNED, ids=type_name)
def test_missing_values_are_allowed(estimator):
    assert get_tags(estimator).input_tags.allow_nan
    assert get_tags(OutlierDetector(estimator)).input_tags.allow_nan
    pipeline = make_pipeline(StandardScaler(), estimator)
    assert get_tags(OutlierDetector(pipeline)).input_tags.allow_nan
    pipeline = make_pipeline("passthrough", PCA())
    assert not get_tags(OutlierDetector(pipeline)).input_tags.allow_nan


@pytest.mark.parametrize("estimator", EVERYTHING, ids=type_name)
def test_no_tag_excuses_from_a_check(estimator):
    tags = get_tags(estimator)
    assert not tags.non_deterministic
    assert not tags.no_validation
    assert not tags._skip_test
    assert tags.requires_fit
    assert tags.input_tags.two_d_array
    assert not tags.input_tags.categorical
    assert not tags.input_tags.string
    assert not tags.input_tags.positive_only

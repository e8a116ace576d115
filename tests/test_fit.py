"""The one fit: what it refuses before it trains, and whose line a warning names."""

import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skrepr
from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    FineTunedClassifier,
    FineTunedRegressor,
    VAETransformer,
)
from skrepr.augmentations import (
    Compose,
    FeatureCorruption,
    FeatureMasking,
    GaussianNoise,
)
from skrepr.backbones import MLP
from skrepr.error_models import ErrorModel
from skrepr.parts import TakesParts

NO_ROWS = object()  # in the place of X: an error of it would name no parameter
PUBLIC = [value for value in vars(skrepr).values() if isinstance(value, type)]
TRAINED = [
    AutoencoderTransformer(),
    VAETransformer(),
    ContrastiveTransformer(),
    FineTunedClassifier(AutoencoderTransformer()),
    FineTunedRegressor(AutoencoderTransformer()),
]
PART_PARAMETERS = [
    (estimator, name) for estimator in TRAINED for name in estimator._part_kinds
]
COLLAPSED = "The embedding has collapsed: the codes"  # the beginning of a warning
quick = {"n_components": 2, "max_iter": 1, "random_state": 0}


def ids(value):
    return value if isinstance(value, str) else type(value).__name__


@pytest.fixture
def no_training(monkeypatch):
    """Fail where a training begins."""

    def train(*args, **options):
        pytest.fail("The training has begun.")

    monkeypatch.setattr("skrepr._estimators._base.train", train)


# What is refused.


def test_every_estimator_that_takes_parts_is_among_those_tested_here():
    taking = {kind for kind in PUBLIC if issubclass(kind, TakesParts)}
    assert {type(estimator) for estimator in TRAINED} == taking


@pytest.mark.parametrize(("estimator", "name"), PART_PARAMETERS, ids=ids)
def test_what_is_no_part_is_refused_before_rows_are_read(estimator, name):
    for value in ("nonsense", 7, estimator._part_kinds[name]):
        wrong = clone(estimator).set_params(**{name: value})
        with pytest.raises(ValueError, match=f"The '{name}' parameter of"):
            wrong.fit(NO_ROWS, NO_ROWS)


@pytest.mark.parametrize(("estimator", "name"), PART_PARAMETERS, ids=ids)
def test_parameters_of_parts_are_refused_before_rows_are_read(estimator, name):
    for part in estimator._part_kinds[name].names.values():
        for parameter in part().get_params():
            wrong = part().set_params(**{parameter: NO_ROWS})
            with pytest.raises(ValueError, match=f"'{parameter}' parameter of"):
                clone(estimator).set_params(**{name: wrong}).fit(NO_ROWS, NO_ROWS)


@pytest.mark.parametrize(
    "augmentation",
    [
        GaussianNoise(scale=(1.0, 0.5)),
        FeatureMasking(rate=(0.5, 1.5)),
        Compose("mixup", FeatureCorruption(rate=(0.1, 0.2, 0.3))),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "estimator", [e for e in TRAINED if "augmentation" in e._part_kinds], ids=ids
)
def test_pairs_that_are_no_range_are_refused_before_rows_are_read(
    estimator, augmentation
):
    wrong = clone(estimator).set_params(augmentation=augmentation)
    with pytest.raises(ValueError, match=r"pair \(lowest, highest\)"):
        wrong.fit(NO_ROWS, NO_ROWS)


@pytest.mark.parametrize("kind", [FineTunedClassifier, FineTunedRegressor])
def test_parameters_of_a_transformer_are_refused_before_rows_are_read(kind):
    wrong = AutoencoderTransformer(latent_density="nonsense")
    with pytest.raises(ValueError, match="'latent_density' parameter of Autoencoder"):
        kind(wrong).fit(NO_ROWS, NO_ROWS)
    wrong = AutoencoderTransformer(backbone=MLP(dropout=1.5))
    with pytest.raises(ValueError, match="'dropout' parameter of MLP"):
        kind(wrong).fit(NO_ROWS, NO_ROWS)
    with pytest.raises(ValueError, match="not fitted"):
        kind(FrozenEstimator(AutoencoderTransformer())).fit(NO_ROWS, NO_ROWS)


class Unseeded(BaseEstimator):
    """A density that draws from a global generator."""

    def fit(self, X):
        return self

    def sample(self, n_samples):
        return np.zeros((n_samples, 2))


class NoFit(BaseEstimator):
    """A density that cannot be fitted."""

    def sample(self, n_samples, random_state):
        return np.zeros((n_samples, 2))


@pytest.mark.parametrize(
    ("density", "message"),
    [
        (NoFit(), r"estimator with fit and sample .* Got NoFit\(\)"),
        (Unseeded(), r"Unseeded\(\) in the place of a latent density cannot be seeded"),
        (KernelDensity(bandwidth=-1.0), "'bandwidth' parameter of KernelDensity"),
    ],
)
@pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])
def test_densities_that_cannot_work_are_refused_before_rows_are_read(
    kind, density, message
):
    with pytest.raises(ValueError, match=message):
        kind(latent_density=density).fit(NO_ROWS)


class NoModel(ErrorModel):
    """An error model that does not do for some columns."""

    def build(self, columns):
        raise ValueError("No model of these columns.")


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            AutoencoderTransformer(likelihood={"age": "poisson"}),
            "names the column 'age",
        ),
        (VAETransformer(likelihood={9: "poisson"}), "names the column 9"),
        (VAETransformer(likelihood="bernoulli"), "Bernoulli"),
        (AutoencoderTransformer(error_model=NoModel()), "No model of these columns"),
        (AutoencoderTransformer(categorical_features=[9]), "categorical_features"),
    ],
)
def test_what_columns_do_not_allow_is_refused_before_the_training(
    no_training, X, estimator, message
):
    with pytest.raises(ValueError, match=message):
        estimator.fit(X)


# The rows to train on.


class Labelled(AutoencoderTransformer):
    """An autoencoder that is told the position of every row."""

    def _ids(self, rows, y):
        return np.asarray(y)

    def _after_training(self, rows, seed):
        pass

    def _train(self, module, matrix, ids, *args):
        self.matrix, self.ids = matrix, ids


def test_rows_are_trimmed_with_their_ids(X):
    X[[3, 40]] *= 100
    fitted = Labelled(trim=0.1, standardize=False).fit(X, np.arange(60))
    assert len(fitted.ids) == 54
    assert not {3, 40} & set(fitted.ids)
    np.testing.assert_allclose(fitted.matrix, X[fitted.ids], rtol=1e-6)


# Warnings.


def places(estimator, verb, X, y):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(estimator, verb)(X, y)
    return {(str(w.message).partition(" of ")[0], w.filename) for w in caught}


@pytest.mark.parametrize("verb", ["fit", "fit_transform"])
@pytest.mark.parametrize(
    "wrapped",
    [
        clone,
        lambda estimator: make_pipeline(StandardScaler(), estimator),
        lambda estimator: make_pipeline(StandardScaler(), make_pipeline(estimator)),
    ],
    ids=["alone", "in a pipeline", "in two"],
)
def test_warnings_before_and_after_the_training_name_the_line_of_the_user(
    X, verb, wrapped
):
    estimator = ContrastiveTransformer(positives="labels", **quick)
    X = np.outer(np.linspace(-1, 1, 60), np.ones(5))
    estimator.set_params(n_components=64, backbone=MLP(()))
    found = places(wrapped(estimator), verb, X, np.arange(60))
    assert found == {("No two", __file__), (COLLAPSED, __file__)}


# The classes.


def depth(kind):
    """Count the steps from a class up to the last of our own, along the longest way."""
    bases = (b for b in kind.__bases__ if b.__module__.partition(".")[0] == "skrepr")
    return 1 + max((depth(base) for base in bases), default=-1)


@pytest.mark.parametrize("kind", PUBLIC)
def test_an_estimator_inherits_in_three_steps_at_most(kind):
    assert depth(kind) <= 3

"""Fine-tuning: what is learned from labels, from rows without, and from both."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, softmax
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_diabetes
from sklearn.decomposition import PCA
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils import check_random_state
from torch import nn

from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    FineTunedClassifier,
    FineTunedRegressor,
    VAETransformer,
)
from skrepr._columns._labels import stratified
from skrepr._estimators._fine_tuned import FineTunedModule
from skrepr._training._random import generators
from skrepr.augmentations import FeatureCorruption, FeatureMasking
from skrepr.backbones import MLP, Backbone

both = pytest.mark.parametrize("kind", [FineTunedClassifier, FineTunedRegressor])
both_and_norm = pytest.mark.parametrize(
    ("kind", "norm"), [(FineTunedClassifier, "batch"), (FineTunedRegressor, None)]
)
quick = {"max_iter": 5, "learning_rate": 1e-2, "random_state": 0}
still = {"max_iter": 2, "learning_rate": 1e-12, "random_state": 0}  # learns nothing


@pytest.fixture
def y(X):
    """Two classes, as floats: also something to regress on."""
    return (X[:, 0] > X[:, 0].mean()).astype(float)


@pytest.fixture
def few(y):
    """The labels of every third row; the others are missing."""
    return np.where(np.arange(len(y)) % 3 == 0, y, np.nan)


def small_autoencoder(**params):
    params = {"backbone": MLP((8,)), "max_iter": 2, "random_state": 0} | params
    return AutoencoderTransformer(3, **params)


def outputs(estimator, X):
    names = ("predict", "predict_proba", "predict_log_proba", "decision_function")
    return [getattr(estimator, name)(X) for name in names if hasattr(estimator, name)]


def assert_same(these, those):
    for this, that in zip(these, those, strict=True):
        assert_array_equal(this, that)


def weights(module):
    return [tensor.clone() for tensor in module.parameters()]


# What is pre-trained


@both_and_norm
def test_fine_tuning_leaves_a_frozen_transformer_as_it_is(
    transformer, X, few, kind, norm
):
    backbone = MLP((8,), norm=norm, dropout=0.2)
    transformer.set_params(backbone=backbone).fit(X)
    before = pickle.dumps(transformer)
    fine_tuned = kind(FrozenEstimator(transformer), **quick).fit(X, few)
    assert fine_tuned.transformer_.module_ is transformer.module_
    outputs(fine_tuned, X)
    assert pickle.dumps(transformer) == before


@both
def test_an_unfitted_transformer_is_fitted_on_all_rows(transformer, X, few, kind):
    fine_tuned = kind(transformer, **quick).fit(X, few)
    assert not hasattr(transformer, "module_")
    expected = clone(transformer).fit(X).transform(X)
    assert_array_equal(fine_tuned.transformer_.transform(X), expected)
    labelled = clone(transformer).fit(X[::3]).transform(X)
    assert not np.allclose(labelled, expected)


@both
def test_a_transformer_is_refitted_unless_it_is_frozen(transformer, X, few, kind):
    transformer.fit(X[:30] * 2)
    before = transformer.transform(X)
    fine_tuned = kind(transformer, **quick).fit(X, few)
    assert not np.allclose(fine_tuned.transformer_.transform(X), before)
    assert_array_equal(transformer.transform(X), before)


@both
def test_fine_tuning_starts_from_the_pre_trained_weights(transformer, X, few, kind):
    fine_tuned = kind(transformer, **still).fit(X, few)
    matrix = fine_tuned.transformer_.table_.to_matrix(X, np.float32)
    codes = fine_tuned.module_.encoder(torch.from_numpy(matrix))[:, :3]
    assert_allclose(codes, fine_tuned.transformer_.transform(X), atol=1e-5)


@both
def test_fine_tuning_moves_every_weight_of_the_encoder(transformer, X, few, kind):
    fine_tuned = kind(transformer, **quick).fit(X, few)
    before = weights(fine_tuned.transformer_.module_.encoder)
    after = weights(fine_tuned.module_.encoder)
    assert not any(map(torch.equal, before, after))


@both
def test_of_a_vae_the_means_alone_are_fine_tuned(X, few, kind):
    vae = VAETransformer(3, **quick).fit(X)
    fine_tuned = kind(FrozenEstimator(vae), **quick)
    expected = outputs(fine_tuned.fit(X, few), X)
    vae.module_.encoder.network[-1].weight[3:] += 1  # of the log-variances
    assert_same(outputs(fine_tuned.fit(X, few), X), expected)
    vae.module_.encoder.network[-1].weight[:3] += 1
    assert not np.allclose(outputs(fine_tuned.fit(X, few), X)[-1], expected[-1])


@both
def test_rows_with_a_missing_y_only_matter_to_the_pre_training(fitted, X, few, kind):
    frozen = FrozenEstimator(fitted)
    with_all = kind(frozen, **quick).fit(X, few)
    labelled = ~np.isnan(few)
    with_labelled = kind(frozen, **quick).fit(X[labelled], few[labelled])
    assert_same(outputs(with_all, X), outputs(with_labelled, X))


class Recording(AutoencoderTransformer):
    """Remembers what it was fitted on."""

    def fit(self, X, y=None):
        super().fit(X)
        self.seen_ = X, y
        return self


@both
def test_the_transformer_gets_rows_and_labels_as_they_are(X, few, kind):
    frame, labels = pd.DataFrame(X, columns=list("abcde")), pd.Series(few)
    recording = Recording(2, max_iter=1)
    fine_tuned = kind(recording, **quick).fit(frame, labels)
    assert fine_tuned.transformer_.seen_[0] is frame
    assert fine_tuned.transformer_.seen_[1] is labels
    assert_array_equal(fine_tuned.feature_names_in_, list("abcde"))


@pytest.mark.filterwarnings("ignore:The embedding has collapsed")
def test_pre_training_may_use_the_labels_itself(X, few):
    contrastive = ContrastiveTransformer(3, positives="labels", **quick)
    classifier = FineTunedClassifier(contrastive, **quick).fit(X, few)
    expected = clone(contrastive).fit(X, few).transform(X)
    assert_array_equal(classifier.transformer_.transform(X), expected)


def factor_model(seed, n=600, n_columns=100, n_factors=2):
    """Many noisy columns of which two factors are behind; the target is the first."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, n_factors))
    loadings = 0.3 * rng.normal(size=(n_factors, n_columns))
    return factors @ loadings + rng.normal(size=(n, n_columns)), factors[:, 0]


@pytest.mark.parametrize(
    ("kind", "gain"), [(FineTunedClassifier, 0.05), (FineTunedRegressor, 0.1)]
)
def test_rows_without_labels_help_where_labels_are_few(kind, gain):
    gains = []
    for seed in range(3):
        X, target = factor_model(seed)
        target = (target > 0).astype(float) if kind is FineTunedClassifier else target
        ten = np.where(np.arange(len(target)) < 10, target, np.nan)
        scores = [
            kind(small_autoencoder(**params), max_iter=100, random_state=0)
            .fit(X, ten)
            .score(X[10:], target[10:])
            for params in (
                {"max_iter": 60, "learning_rate": 3e-3},
                {"max_iter": 1, "learning_rate": 1e-12},
            )
        ]
        gains.append(scores[0] - scores[1])
    assert np.mean(gains) > gain


# What is fine-tuned


@pytest.mark.parametrize("classes", ["ab", "abc"])
def test_a_classifier_starts_from_logistic_regression_on_the_codes(
    transformer, X, classes
):
    y = np.resize(list(classes), 60)
    classifier = FineTunedClassifier(transformer, **still).fit(X, y)
    codes = classifier.transformer_.transform(X)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    expected = probe.fit(codes, y).predict_proba(codes)
    proba = classifier.predict_proba(X)
    assert_allclose(proba, expected, rtol=1e-3)
    assert classifier.history_["loss"][0] == pytest.approx(log_loss(y, proba), 1e-4)


def test_a_regressor_starts_from_ridge_regression_on_the_codes(transformer, X):
    y = X[:, 3]
    regressor = FineTunedRegressor(transformer, **still).fit(X, y)
    codes = regressor.transformer_.transform(X)
    probe = make_pipeline(StandardScaler(), Ridge())
    expected = probe.fit(codes, y).predict(codes)
    assert_allclose(regressor.predict(X), expected, atol=1e-4 * y.std())


def test_the_head_starts_without_the_rows_to_validate_on(X, y):
    """And without the classes that are only there."""
    y = np.where(np.arange(60) == 7, 2.0, y)
    params = {"early_stopping": True, "validation_fraction": 0.5, **still}
    classifier = FineTunedClassifier(small_autoencoder(), **params).fit(X, y)
    spoiled = y.copy()
    random = check_random_state(still["random_state"])
    _, _, split = generators(random.randint(2**31 - 1), torch.device("cpu"))
    _, validation = classifier._split(60, y.astype(int), split)
    spoiled[validation] = y[validation[::-1]]
    again = FineTunedClassifier(small_autoencoder(), **params)
    again._shuffled = lambda n_samples, y, rng: np.concatenate(
        [validation, np.setdiff1d(np.arange(60), validation)]
    )
    again.fit(X, spoiled)
    assert_allclose(again.predict_proba(X), classifier.predict_proba(X), rtol=1e-3)


@both
def test_the_validation_loss_is_that_of_the_predictions(X, y, kind):
    """Of the best epoch, for all rows but the two that are trained on."""
    estimator = kind(
        small_autoencoder(), early_stopping=True, validation_fraction=0.96, **quick
    ).fit(X, y)
    if kind is FineTunedClassifier:
        losses = -estimator.predict_log_proba(X)[range(60), y.astype(int)]
    else:
        losses = (estimator.predict(X) - y) ** 2 / y.var()
    best = min(estimator.history_["validation_loss"])
    but_two = (losses.sum() - losses[:, None] - losses) / 58
    assert np.abs(but_two - best).min() < 1e-5


def test_both_learn_what_is_to_be_learned(transformer, X):
    params = {"max_iter": 300, "learning_rate": 1e-2, "random_state": 0}
    y = X[:, 0] + X[:, 1] / 10 > X[:, 0].mean() + X[:, 1].mean() / 10
    assert FineTunedClassifier(transformer, **params).fit(X, y).score(X, y) > 0.97
    y = 7 - 5 * X[:, 1] + X[:, 3] / 10
    assert FineTunedRegressor(transformer, **params).fit(X, y).score(X, y) > 0.97


def test_the_regressor_recovers_a_linear_function_on_new_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4)) * [1, 10, 100, 1]
    y = X @ [3, -0.2, 0.01, 0] + 50
    linear = AutoencoderTransformer(4, backbone=MLP(()), max_iter=20, random_state=0)
    regressor = FineTunedRegressor(linear, learning_rate=0.02, random_state=0)
    predicted = regressor.fit(X[:300], y[:300]).predict(X[300:])
    assert mean_squared_error(y[300:], predicted) < 1e-4 * y.var()


@pytest.mark.parametrize(
    ("unit", "origin"), [(1e-9, 0), (1e6, 1e12), (1e100, 0), (-5, 3), (1, 1.7e9)]
)
def test_predictions_are_in_the_units_of_y(X, unit, origin):
    y = X[:, 0] + X[:, 1]
    regressor = FineTunedRegressor(small_autoencoder(), **quick)
    expected = regressor.fit(X, y).predict(X)
    predicted = clone(regressor).fit(X, unit * y + origin).predict(X)
    # A few steps of Adam make much of little: the first goes as far whatever the slope.
    assert_allclose((predicted - origin) / unit, expected, atol=0.01 * y.std())


@pytest.mark.parametrize("value", [0, 7, 0.1, -1e9, 1e-300, True])
def test_a_constant_y_is_predicted_to_the_last_bit(X, value):
    regressor = FineTunedRegressor(small_autoencoder(), **quick)
    predicted = regressor.fit(X, np.full(60, value)).predict(X * 3)
    assert_array_equal(predicted, np.full(60, float(value)))


def test_decisions_are_log_odds_and_logits(X, y):
    classifier = FineTunedClassifier(small_autoencoder(), **quick).fit(X, y)
    decision, proba = classifier.decision_function(X), classifier.predict_proba(X)
    assert decision.shape == (60,)
    assert_allclose(expit(decision), proba[:, 1])
    assert_array_equal(decision > 0, classifier.predict(X))
    assert_allclose(np.exp(classifier.predict_log_proba(X)), proba)
    classifier.fit(X, np.arange(60) % 4)
    decision, proba = classifier.decision_function(X), classifier.predict_proba(X)
    assert decision.shape == (60, 4)
    assert_allclose(softmax(decision, axis=1), proba)
    assert_array_equal(decision.argmax(axis=1), classifier.predict(X))


def test_a_row_far_off_has_finite_predictions(X, y):
    far = X * 1e100
    classifier = FineTunedClassifier(small_autoencoder(), **quick).fit(X, y)
    regressor = FineTunedRegressor(small_autoencoder(), **quick).fit(X, y)
    for output in outputs(classifier, far) + outputs(regressor, far):
        assert np.isfinite(output).all()
    assert_allclose(classifier.predict_proba(far).sum(axis=1), 1)


@both
def test_augmentation_changes_what_the_encoder_sees_in_training_alone(X, y, kind):
    """Rows that are masked all over are all the same: there is nothing to learn."""
    blind = kind(small_autoencoder(), augmentation=FeatureMasking(1.0), **quick)
    blind.set_params(max_iter=50).fit(X, y)
    variance, entropy = 1.0, log_loss(y, np.full(60, y.mean()))
    least = entropy if kind is FineTunedClassifier else variance
    assert min(blind.history_["loss"]) > 0.999 * least
    assert all(len(np.unique(output)) > 2 for output in outputs(blind, X)[1:])
    seeing = clone(blind).set_params(augmentation__rate=0.1).fit(X, y)
    assert min(seeing.history_["loss"]) < 0.8 * least
    assert_same(outputs(seeing, X), outputs(seeing, X))


@pytest.mark.parametrize("donors", ["class", "all"])
def test_augmentation_of_a_classifier_knows_the_classes(X, y, donors):
    """Values that are all replaced tell the class if they come from its rows."""
    corruption = FeatureCorruption(1.0, donors)
    classifier = FineTunedClassifier(
        small_autoencoder(), augmentation=corruption, **quick
    )
    classifier.set_params(max_iter=100).fit(X, y)
    assert (min(classifier.history_["loss"]) < 0.3) == (donors == "class")


# Labels


CLASSES = {
    "integers": [3, -1],
    "strings": ["no", "yes"],
    "booleans": [True, False],
    "floats": [2.0, 1.0],
    "large integers": [2**60 + 1, 2**60],
}


@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES)
def test_predictions_are_labels_of_the_users_kind(X, y, classes):
    labels = np.array(classes)[y.astype(int)]
    classifier = FineTunedClassifier(small_autoencoder(), **quick)
    expected = clone(classifier).fit(X, labels)
    for container in np.array, list, pd.Series, pl.Series:
        classifier.fit(X, container(labels.tolist()))
        assert_array_equal(classifier.classes_, np.unique(labels))
        assert classifier.classes_.dtype == labels.dtype
        assert classifier.predict(X).dtype == labels.dtype
        assert set(classifier.predict(X)) <= set(classes)
        assert_array_equal(classifier.predict_proba(X), expected.predict_proba(X))


def with_missing(labels, missing, like):
    return [
        like if lacks else label for label, lacks in zip(labels, missing, strict=True)
    ]


MISSING = {
    "strings and None": (["a", "b"], lambda y, m: with_missing(y, m, None)),
    "strings and NaN": (["a", "b"], lambda y, m: with_missing(y, m, np.nan)),
    "integers and None": ([0, 1], lambda y, m: with_missing(y, m, None)),
    "booleans and None": ([False, True], lambda y, m: with_missing(y, m, None)),
    "pandas strings": (["a", "b"], lambda y, m: pd.Series(y, dtype="string").mask(m)),
    "pandas integers": ([0, 1], lambda y, m: pd.Series(y, dtype="Int64").mask(m)),
    "pandas booleans": ([0, 1], lambda y, m: pd.Series(y, dtype="boolean").mask(m)),
    "pandas categories": (
        ["a", "b"],
        lambda y, m: pd.Series(y, dtype="category").mask(m),
    ),
    "polars": ([0, 1], lambda y, m: pl.Series(with_missing(y, m, None))),
}


@pytest.mark.parametrize(("classes", "convert"), MISSING.values(), ids=MISSING)
def test_labels_may_be_missing_in_many_ways(X, few, classes, convert):
    missing = np.isnan(few)
    labels = np.array(classes)[np.where(missing, 0, few).astype(int)].tolist()
    classifier = FineTunedClassifier(small_autoencoder(), **quick)
    expected = clone(classifier).fit(X, few).predict_proba(X)
    classifier.fit(X, convert(labels, missing))
    assert_array_equal(classifier.predict_proba(X), expected)
    assert_array_equal(classifier.classes_, classes)
    if not isinstance(classes[0], str):
        regressor = FineTunedRegressor(small_autoencoder(), **quick)
        expected = clone(regressor).fit(X, few).predict(X)
        predicted = regressor.fit(X, convert(labels, missing)).predict(X)
        assert_array_equal(predicted, expected)


@both
@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("n_labelled", [1, 2, 3])
def test_a_single_label_is_enough(X, kind, n_labelled, norm):
    y = np.full(60, np.nan)
    y[10 : 10 + n_labelled] = 5
    transformer = small_autoencoder(backbone=MLP((8,), norm=norm))
    estimator = kind(transformer, **quick).fit(X, y)
    assert_array_equal(estimator.predict(X), np.full(60, 5.0))
    if kind is FineTunedClassifier:
        assert_array_equal(estimator.classes_, [5.0])
        assert_array_equal(estimator.predict_proba(X), np.ones((60, 1)))


@both
def test_a_column_of_labels_is_taken_with_a_warning(X, y, kind):
    estimator = kind(small_autoencoder(), **quick)
    expected = clone(estimator).fit(X, y).predict(X)
    with pytest.warns(DataConversionWarning, match="column-vector"):
        estimator.fit(X, y[:, None])
    assert_array_equal(estimator.predict(X), expected)


# What is refused


def refuses(estimator, X, y, match, error=ValueError):
    before = vars(estimator).copy()
    content = pickle.dumps(estimator)
    with pytest.raises(error, match=match):
        estimator.fit(X, y)
    assert vars(estimator) == before
    assert pickle.dumps(estimator) == content


def with_first(y, value):
    return np.r_[value, y[1:]]


BAD_TARGETS = {
    "none": (lambda y: None, "requires y to be passed, but the target y is None"),
    "all missing": (lambda y: np.full(60, np.nan), "All of the 60 labels .* missing"),
    "too few": (lambda y: y[:-1], "inconsistent numbers of samples"),
    "two columns": (lambda y: np.c_[y, y], "y should be a 1d array"),
    "infinity": (lambda y: with_first(y, np.inf), "y contains infinity"),
}


@both
def test_a_bad_y_is_refused_and_changes_nothing(X, y, kind):
    unfitted = kind(small_autoencoder(), **quick)
    for estimator in unfitted, clone(unfitted).fit(X, y):
        for bad, match in BAD_TARGETS.values():
            refuses(estimator, X, bad(y), match)


def test_the_classifier_refuses_numbers_to_regress_on(X):
    refuses(FineTunedClassifier(small_autoencoder()), X, X[:, 0], "continuous")


def test_the_regressor_refuses_what_is_no_number(X, y):
    regressor = FineTunedRegressor(small_autoencoder())
    refuses(regressor, X, np.where(y, "yes", "no"), "y has dtype <U3")
    refuses(regressor, X, y + 1j, "Complex data not supported")
    refuses(regressor, X, with_first(y, 1e200), r"1\.0e\+200, too large.*1e\+150")


@both
@pytest.mark.parametrize(
    "transformer",
    [
        None,
        "autoencoder",
        PCA(),
        AutoencoderTransformer,
        FrozenEstimator(PCA()),
        FrozenEstimator(FrozenEstimator(AutoencoderTransformer())),
        make_pipeline(StandardScaler(), AutoencoderTransformer()),
    ],
    ids=repr,
)
def test_the_transformer_must_be_one_of_the_package(X, y, kind, transformer):
    estimator = kind(transformer)
    match = f"'transformer' parameter of {kind.__name__} must be .* fitted one. Got "
    refuses(estimator, X, y, match)


@both
def test_a_frozen_transformer_must_be_fitted_and_know_the_columns(
    transformer, X, y, kind
):
    estimator = kind(FrozenEstimator(transformer))
    refuses(estimator, X, y, "not fitted yet", NotFittedError)
    transformer.fit(X)
    refuses(estimator, X[:, :4], y, "4 features, but .* expecting 5")
    transformer.fit(pd.DataFrame(X, columns=list("abcde")))
    refuses(estimator, pd.DataFrame(X, columns=list("edcba")), y, "same order")


@both
@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("augmentation", "blur", "'augmentation' parameter of FineTuned"),
        ("augmentation", FeatureMasking(2.0), "'rate' parameter of FeatureMasking"),
        ("batch_size", 1, "'batch_size' parameter of FineTuned"),
        ("learning_rate", 0.0, "'learning_rate' parameter of FineTuned"),
        ("device", "nonsense", "'nonsense' is not the name of a device"),
        ("transformer__max_iter", 0, "'max_iter' parameter of AutoencoderTrans"),
        ("transformer__backbone", MLP((0,)), "'hidden_layer_sizes' .* MLP"),
    ],
)
def test_parameters_are_validated_in_fit(X, y, kind, name, value, match):
    estimator = kind(small_autoencoder()).set_params(**{name: value})
    refuses(estimator, X, y, match)


@both
def test_rows_the_transformer_cannot_take_are_refused(X, y, kind):
    rows = MinMaxScaler().fit_transform(X)
    estimator = kind(small_autoencoder(likelihood="bernoulli"), **quick)
    refuses(estimator, 2 * rows, y, r"\[0, 1\]")
    estimator.fit(rows, y)
    for verb in ("predict", "predict_proba", "decision_function"):
        if hasattr(estimator, verb):
            with pytest.raises(ValueError, match=r"\[0, 1\]"):
                getattr(estimator, verb)(2 * rows)


class Trip(nn.Module):
    """Raises at a step of the fine-tuning, once the encoder has been copied."""

    event: type[BaseException] | None = None

    def forward(self, x):
        if self.event is not None and self.training:
            raise self.event
        return x


class Tripping(Backbone):
    def encoder(self, n_inputs, n_outputs):
        return nn.Sequential(nn.Linear(n_inputs, n_outputs), Trip())

    def decoder(self, n_inputs, n_outputs):
        return nn.Linear(n_inputs, n_outputs)


@both
@pytest.mark.parametrize("event", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("fitted", [False, True])
def test_a_fit_that_breaks_off_changes_nothing(X, y, kind, event, fitted):
    transformer = small_autoencoder(backbone=Tripping()).fit(X)
    estimator = kind(FrozenEstimator(transformer), **quick)
    if fitted:
        estimator.fit(X, y)
    transformer.module_.encoder.network[1].event = event
    refuses(estimator, X, y, None, event)
    transformer.module_.encoder.network[1].event = None
    estimator.set_params(learning_rate=1e30)
    refuses(estimator, X, y, "no longer finite.*Lower learning_rate")
    estimator.set_params(transformer=small_autoencoder(learning_rate=1e30))
    refuses(estimator, X, y, "no longer finite.*Lower learning_rate")


# Early stopping


@pytest.mark.parametrize("n_classes", [1, 2, 5, 30])
@pytest.mark.parametrize("n_samples", [30, 101])
def test_stratified_beginnings_hold_the_classes_in_proportion(n_classes, n_samples):
    rng = np.random.default_rng(0)
    classes = rng.choice(n_classes, n_samples, p=rng.dirichlet(np.ones(n_classes)))
    order = rng.permutation(n_samples)
    result = stratified(order, classes)
    assert_array_equal(np.sort(result), np.arange(n_samples))
    sizes = np.bincount(classes, minlength=n_classes)
    for n in range(n_samples + 1):
        inside = np.bincount(classes[result[:n]], minlength=n_classes)
        n_present = (sizes > 0).sum()
        assert (np.abs(inside - n * sizes / n_samples) < max(n_present, 1)).all()
        if n <= n_samples - n_present:
            assert (inside < sizes)[sizes > 0].all()
    for number in range(n_classes):
        members = classes[order] == number
        assert_array_equal(result[classes[result] == number], order[members])


def test_early_stopping_keeps_every_class_in_the_training(X):
    y = np.r_[np.zeros(56), np.arange(1, 5)]
    classifier = FineTunedClassifier(
        small_autoencoder(), early_stopping=True, validation_fraction=0.5, **quick
    ).fit(X, y)
    assert_array_equal(classifier.classes_, range(5))
    # The only rows of four classes are trained on. The rows to validate on are of the
    # frequent class, and their loss is small from the beginning.
    assert classifier.history_["validation_loss"][0] < classifier.history_["loss"][0]


@both
def test_early_stopping_stops_early_with_the_best_weights(X, few, kind):
    y = np.random.default_rng(0).permutation(few)  # nothing to learn
    params = {**quick, "max_iter": 400, "early_stopping": True, "n_iter_no_change": 5}
    estimator = kind(small_autoencoder(), **params).fit(X, y)
    history = estimator.history_
    assert estimator.n_iter_ == len(history["loss"]) < 400
    term = "cross_entropy" if kind is FineTunedClassifier else "squared_error"
    assert set(history) == {
        f"{prefix}{name}" for prefix in ("", "validation_") for name in ("loss", term)
    }
    assert history["loss"] == history[term]


@both
def test_early_stopping_counts_the_rows_with_a_label(X, y, kind):
    three = np.where(np.arange(60) < 3, y, np.nan)
    estimator = kind(small_autoencoder(), early_stopping=True, **quick)
    match = r"n_samples=3 \(without those with a missing y\)"
    refuses(estimator, X, three, match)
    estimator.fit(X, np.where(np.arange(60) < 4, y, np.nan))


@pytest.mark.parametrize(
    ("kind", "steps"), [(FineTunedClassifier, 1000), (FineTunedRegressor, 300)]
)
def test_auto_takes_the_documented_number_of_steps(X, few, kind, steps, asked_epochs):
    kind(small_autoencoder(), batch_size=7).fit(X, few)
    assert asked_epochs == [2, np.ceil(steps / 3)]  # of 20 rows with a label


def test_the_weights_of_a_regression_decay_more_on_fewer_rows(X, y):
    params = {"max_iter": 2, "random_state": 0}
    for n, counted in ((20, 50), (60, 60)):
        auto, by_hand = (
            FineTunedRegressor(small_autoencoder(), weight_decay=decay, **params)
            for decay in ("auto", 0.45 / (3e-4 * counted))
        )
        assert_same(
            outputs(auto.fit(X[:n], y[:n]), X), outputs(by_hand.fit(X[:n], y[:n]), X)
        )


def test_a_regression_on_few_rows_is_no_worse_than_the_mean():
    X, y = load_diabetes(return_X_y=True)
    scores = []
    for seed in range(3):
        few = np.random.default_rng(seed).permutation(len(y))[:40]
        transformer = AutoencoderTransformer(max_iter=200)
        regressor = FineTunedRegressor(transformer, random_state=seed)
        scores.append(regressor.fit(X[few], y[few]).score(X, y))
    assert np.mean(scores) > 0


@pytest.mark.parametrize(
    "y", [["a", "b"], np.array(["2020", "2021"], "datetime64[Y]")], ids=repr
)
def test_a_regression_needs_numbers(X, y):
    with pytest.raises(ValueError, match=r"y has dtype .*Expected numbers.*Classifier"):
        FineTunedRegressor(small_autoencoder()).fit(X, np.resize(y, 60))


# Random numbers


@both
def test_random_state_fixes_pre_training_and_fine_tuning(X, few, kind):
    estimator = kind(
        small_autoencoder(random_state=None),
        augmentation="feature_corruption",
        early_stopping=True,
        **quick,
    )
    results = [outputs(clone(estimator).fit(X, few), X) for _ in range(2)]
    assert_same(*results)
    assert estimator.transformer.random_state is None
    other = clone(estimator).set_params(random_state=1).fit(X, few)
    codes = [e.transformer_.transform(X) for e in (other, estimator.fit(X, few))]
    assert not np.allclose(*codes)


@both
def test_a_random_state_of_the_transformer_is_left_to_it(X, few, kind):
    estimator = kind(small_autoencoder(random_state=3), **quick)
    first = estimator.fit(X, few).transformer_.transform(X)
    second = estimator.set_params(random_state=1).fit(X, few).transformer_.transform(X)
    assert_array_equal(first, second)
    assert_array_equal(first, small_autoencoder(random_state=3).fit(X).transform(X))


@both
def test_no_global_generator_is_changed(X, few, kind):
    transformer = small_autoencoder(backbone=MLP((8,), dropout=0.5), random_state=None)
    estimator = kind(transformer, early_stopping=True, **quick)
    before = torch.get_rng_state(), check_random_state(None).get_state()[1].tolist()
    outputs(estimator.fit(X, few), X)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert check_random_state(None).get_state()[1].tolist() == before[1]


@both
def test_fits_side_by_side_equal_fits_one_by_one(X, few, kind):
    def fit(seed):
        transformer = small_autoencoder(backbone=MLP((8,), dropout=0.5))
        estimator = kind(transformer, **{**quick, "random_state": seed})
        return outputs(estimator.fit(X, few), X)

    with ThreadPoolExecutor(4) as pool:
        side_by_side = list(pool.map(fit, range(4)))
    for seed, result in enumerate(side_by_side):
        assert_same(result, fit(seed))


# Predictions


@both_and_norm
def test_the_prediction_for_a_row_does_not_depend_on_the_rows_beside_it(
    transformer, X, y, kind, norm
):
    transformer.set_params(backbone=MLP((32,), norm=norm, dropout=0.1))
    estimator = kind(transformer, **quick).fit(X, y)
    many = np.random.default_rng(1).choice(X, 5000) * 1.01
    among_many = outputs(estimator, many)
    for i in (0, 1234, 4999):
        for alone, among in zip(outputs(estimator, many[[i]]), among_many, strict=True):
            assert_allclose(alone[0], among[i], rtol=1e-7, atol=1e-9)


@both
def test_float32_rows_are_computed_in_float32_and_predicted_in_float64(
    X, y, kind, monkeypatch
):
    # Where a gradient is 0 but for rounding, a step of Adam follows the rounding.
    params = quick | {"learning_rate": 1e-5}
    estimator = kind(small_autoencoder(), **params).fit(X, y)
    in_float64 = outputs(estimator, X)
    seen, output = set(), FineTunedModule.output
    monkeypatch.setattr(
        FineTunedModule,
        "output",
        lambda module, x: (seen.add(x.dtype), output(module, x))[1],
    )
    in_float32 = outputs(estimator.fit(X.astype(np.float32), y), X.astype(np.float32))
    assert seen == {torch.float32}
    for this, that in zip(in_float32, in_float64, strict=True):
        assert this.dtype == np.float64
        assert_allclose(this, that, rtol=1e-2, atol=1e-3)
    if kind is FineTunedClassifier:
        assert_allclose(in_float32[1].sum(axis=1), 1, rtol=1e-15)


@both
def test_the_fitted_module_rests(transformer, X, few, kind):
    transformer.set_params(backbone=MLP((8,), norm="batch"))
    estimator = kind(transformer, augmentation="gaussian_noise", **quick).fit(X, few)
    module = estimator.module_
    assert not any(part.training for part in module.modules())
    for tensor in module.state_dict().values():
        assert tensor.device.type == "cpu"
        assert tensor.dtype in (torch.float32, torch.int64)
    assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
    before = pickle.dumps(estimator)
    expected = outputs(estimator, X)
    assert pickle.dumps(estimator) == before
    assert_same(outputs(pickle.loads(before), X), expected)


# Inside scikit-learn


def test_scikit_learn_knows_what_they_are():
    assert is_classifier(FineTunedClassifier(AutoencoderTransformer()))
    assert is_regressor(FineTunedRegressor(AutoencoderTransformer()))


@both
def test_grid_search_reaches_transformer_and_fine_tuning(X, y, kind):
    estimator = kind(small_autoencoder(), augmentation="feature_masking", **quick)
    grid = {
        "transformer__n_components": [1, 4],
        "transformer__backbone__hidden_layer_sizes": [(8,)],
        "learning_rate": [1e-1],
        "augmentation__rate": [0.1],
    }
    searches = {}
    for n_jobs in (1, 2):
        search = GridSearchCV(estimator, grid, cv=2, error_score="raise")
        with joblib.parallel_backend("threading", n_jobs=n_jobs):
            searches[n_jobs] = search.set_params(n_jobs=n_jobs).fit(X, y)
    best = searches[1].best_estimator_
    assert (
        best.transformer_.n_components
        == searches[1].best_params_["transformer__n_components"]
    )
    for split in ("split0_test_score", "split1_test_score"):
        assert_array_equal(
            searches[2].cv_results_[split], searches[1].cv_results_[split]
        )
    assert_same(outputs(searches[2], X), outputs(searches[1], X))


@both
def test_cross_validation_keeps_a_frozen_transformer(fitted, X, y, kind):
    frozen = FrozenEstimator(fitted)
    expected = fitted.transform(X)
    pipeline = make_pipeline(StandardScaler(with_mean=False, with_std=False))
    pipeline.steps.append(("fine_tuned", kind(frozen, **quick)))
    assert np.isfinite(cross_val_score(pipeline, X, y, error_score="raise")).all()
    assert clone(pipeline)[-1].transformer.estimator is fitted
    assert_array_equal(fitted.transform(X), expected)


@both
@pytest.mark.parametrize(
    "convert",
    [lambda X: pd.DataFrame(X, columns=list("abcde")), lambda X: pl.DataFrame(X)],
    ids=["pandas", "polars"],
)
def test_the_container_makes_no_difference(X, y, kind, convert):
    estimator = kind(small_autoencoder(), **quick)
    expected = outputs(clone(estimator).fit(X, y), X)
    frame = convert(X)
    for output, like in zip(
        outputs(estimator.fit(frame, y), frame), expected, strict=True
    ):
        assert_allclose(output, like, rtol=1e-5, atol=1e-7)
    assert_array_equal(estimator.feature_names_in_, frame.columns)
    assert not hasattr(estimator.fit(X, y), "feature_names_in_")


def test_a_frozen_transformer_that_is_fitted_again_does_not_matter(X, y):
    transformer = small_autoencoder().fit(X)
    classifier = FineTunedClassifier(FrozenEstimator(transformer), **quick).fit(X, y)
    before = outputs(classifier, X)
    transformer.fit(3 * X + 5)
    assert_same(outputs(classifier, X), before)


def test_a_label_may_stand_for_a_missing_one(X, y):
    marked = np.where(np.arange(60) % 3 == 0, y, -1).astype(int)
    contrastive = ContrastiveTransformer(
        3, positives="labels", max_iter=2, random_state=0
    )
    params = {"transformer": contrastive, **quick}
    classifier = FineTunedClassifier(unlabelled=-1, **params).fit(X, marked)
    assert classifier.classes_.tolist() == [0, 1]
    missing = np.where(marked == -1, np.nan, marked)
    expected = FineTunedClassifier(**params).fit(X, missing)
    assert_same(outputs(classifier, X), outputs(expected, X))
    as_class = FineTunedClassifier(**params).fit(X, marked)
    assert as_class.classes_.tolist() == [-1, 0, 1]


def test_fits_in_threads_leave_the_filters_of_warnings_alone(X, y):
    filters = warnings.filters.copy()
    classifier = FineTunedClassifier(small_autoencoder(), **quick)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: clone(classifier).fit(X, y), range(12)))
    assert warnings.filters == filters


def test_the_order_of_the_rows_does_not_decide_what_the_head_starts_from(monkeypatch):
    monkeypatch.setattr("skrepr._estimators._fine_tuned._MAX_PROBED", 40)
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    X = rng.normal(size=(3, 5))[y] * 3 + rng.normal(size=(120, 5))
    classifier = FineTunedClassifier(small_autoencoder(), **still).fit(X, y)
    assert classifier.score(X, y) > 0.6


# Columns as they come


@pytest.mark.parametrize(
    ("kind", "frozen"), [(FineTunedClassifier, False), (FineTunedRegressor, True)]
)
@pytest.mark.parametrize(
    "transformer", [AutoencoderTransformer, VAETransformer, ContrastiveTransformer]
)
def test_holes_and_categories_are_no_matter(mixed, kind, frozen, transformer):
    y = mixed["count"].to_numpy() > 50.0
    y = np.where(np.arange(90) % 3, y, np.nan)
    pretrained = transformer(3, backbone=MLP((8,)), max_iter=5, random_state=0)
    if frozen:
        pretrained = FrozenEstimator(pretrained.fit(mixed))
    estimator = kind(pretrained, **quick).fit(mixed, y)
    found = outputs(estimator, mixed)
    assert all(np.isfinite(output).all() for output in found)
    assert estimator.n_features_in_ == 6
    unknown, missing = mixed.assign(kind="colossal"), mixed.assign(kind=pd.NA)
    assert_same(outputs(estimator, unknown), outputs(estimator, missing))
    assert_same(outputs(pickle.loads(pickle.dumps(estimator)), mixed), found)


@both
def test_columns_are_read_as_the_transformer_says(mixed, few, kind):
    mixed, y = mixed.iloc[:60][["kind", "count"]], few
    estimator = kind(small_autoencoder(categorical_features=None), **quick)
    refuses(estimator, mixed, y, f"'kind' has dtype .*, but {kind.__name__} needs num")
    estimator.set_params(transformer=small_autoencoder(categorical_features=[0, 1]))
    estimator.fit(mixed, y)
    assert estimator.transformer_.table_.columns.categorical.all()
    mixed = mixed.assign(count="many")
    with pytest.raises(ValueError, match="'count' holds values such as 'many', but"):
        estimator.predict(mixed)

import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skrepr import AutoencoderTransformer, OutlierDetector, VAETransformer
from skrepr._outlier import adjusted_lower_fence, medcouple


class Norm(BaseEstimator):
    """Scores a row by minus its norm; takes rows of one type and counts its fits."""

    n_fits = 0

    def __init__(self, rows=np.ndarray, fails_in=None):
        self.rows = rows
        self.fails_in = fails_in

    def fit(self, X, y=None):
        assert type(X) is self.rows
        if self.fails_in == "fit":
            raise KeyboardInterrupt
        Norm.n_fits += 1
        self.given_ = [X, y]
        return self

    def score_samples(self, X):
        assert type(X) is self.rows
        if self.fails_in == "score_samples":
            raise RuntimeError("no scores")
        self.given_.append(X)
        return -np.linalg.norm(np.asarray(X), axis=1)


class Memory(Norm):
    """Scores the rows it was fitted on by zero."""

    def score_samples(self, X):
        known = (X[:, None] == self.given_[0]).all(axis=2).any(axis=1)
        return np.where(known, 0.0, super().score_samples(X))


def gaussian(n_samples, seed, n_features=5):
    return np.random.default_rng(seed).normal(size=(n_samples, n_features))


def moved_six_sigma(X):
    """Move every row by 6 standard deviations in a random direction of its own."""
    directions = gaussian(len(X), 99, X.shape[1])
    return X + 6 * directions / np.linalg.norm(directions, axis=1, keepdims=True)


def share_flagged(detector, X):
    return np.mean(detector.predict(X) == -1)


# The threshold


@pytest.mark.parametrize("contamination", [0.01, 0.1, 0.25, 0.5])
def test_contamination_is_the_share_of_training_rows_flagged(contamination):
    X = gaussian(200, 0)
    detector = OutlierDetector(PCA(), contamination=contamination)
    assert np.sum(detector.fit_predict(X) == -1) == 200 * contamination


@pytest.mark.parametrize(
    "estimator",
    [
        PCA(),
        PCA(n_components=2),
        GaussianMixture(random_state=0),
        KernelDensity(),
        AutoencoderTransformer(random_state=0),
        VAETransformer(random_state=0),
        make_pipeline(StandardScaler(), VAETransformer(n_components=3, random_state=0)),
    ],
    ids=["pca", "pca-2", "gmm", "kde", "ae", "vae", "pipeline"],
)
def test_auto_finds_outliers_six_sigma_away_and_raises_few_false_alarms(estimator):
    detector = OutlierDetector(estimator).fit(gaussian(1000, 0))
    new = gaussian(4000, 1)
    assert share_flagged(detector, new) <= 0.02
    assert share_flagged(detector, moved_six_sigma(new)) >= 0.8


@pytest.mark.parametrize(
    "estimator", [PCA(), GaussianMixture(random_state=0)], ids=["pca", "gmm"]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_auto_bears_one_outlier_in_ten_training_rows(estimator, frozen):
    X = gaussian(1000, 0)
    if frozen:
        estimator = FrozenEstimator(estimator.fit(X))
    X[:100] = moved_six_sigma(X[:100])
    detector = OutlierDetector(estimator).fit(X)
    new = gaussian(4000, 1)
    assert share_flagged(detector, new) <= 0.02
    assert share_flagged(detector, moved_six_sigma(new)) >= 0.8
    assert share_flagged(detector, X[:100]) >= 0.8


@pytest.mark.parametrize("n_samples", [9, 400, 1000])
@pytest.mark.parametrize("transform", [np.array, np.exp])
def test_auto_is_a_quantile_or_the_fence_whichever_is_higher(n_samples, transform):
    X = transform(gaussian(n_samples, 0))
    estimator = Norm() if n_samples < 500 else FrozenEstimator(Norm().fit(X))
    scores = -np.linalg.norm(X, axis=1)
    expected = max(np.quantile(scores, 0.005), adjusted_lower_fence(scores))
    assert OutlierDetector(estimator).fit(X).offset_ == pytest.approx(expected)


def test_auto_goes_by_the_scores_of_rows_the_estimator_has_not_seen():
    detector = OutlierDetector(Memory()).fit(gaussian(400, 0))
    assert share_flagged(detector, gaussian(4000, 1)) <= 0.02


@pytest.mark.parametrize(
    ("n_samples", "contamination", "n_fits"),
    [
        (9, "auto", 1),
        (100, "auto", 6),
        (1000, "auto", 4),
        (2500, "auto", 2),
        (100, 0.1, 1),
    ],
)
def test_auto_fits_as_many_copies_as_give_500_scores(n_samples, contamination, n_fits):
    before = Norm.n_fits
    OutlierDetector(Norm(), contamination=contamination).fit(gaussian(n_samples, 0))
    assert Norm.n_fits - before == n_fits


def test_decision_function_is_the_score_above_the_threshold():
    X = gaussian(300, 0)
    detector = OutlierDetector(PCA(), contamination=0.1).fit(X)
    scores = PCA().fit(X).score_samples(X)
    assert_allclose(detector.score_samples(X), scores)
    assert_allclose(detector.decision_function(X), scores - np.quantile(scores, 0.1))
    outlier = detector.decision_function(X) < 0
    assert_array_equal(detector.predict(X), np.where(outlier, -1, 1))
    assert_array_equal(detector.fit_predict(X), detector.predict(X))


def test_equal_scores_are_all_normal():
    assert (OutlierDetector(Norm()).fit_predict(np.ones((20, 2))) == 1).all()


# The estimator inside


def test_the_estimator_given_stays_unfitted():
    estimator = PCA()
    detector = OutlierDetector(estimator).fit(gaussian(50, 0))
    assert detector.estimator is estimator
    assert not hasattr(estimator, "components_")
    assert detector.estimator_.n_features_in_ == 5


def test_a_frozen_estimator_is_used_as_it_is():
    vae = VAETransformer(n_components=2, max_iter=3, random_state=0)
    vae.fit(gaussian(200, 0))
    content = pickle.dumps(vae)
    frozen = FrozenEstimator(vae)
    offsets = []
    for X in (gaussian(100, 1), 3 * gaussian(100, 2)):
        detector = OutlierDetector(frozen, contamination=0.1).fit(X)
        assert detector.estimator_ is frozen
        offsets.append(detector.offset_)
        assert share_flagged(detector, X) == 0.1
        assert_array_equal(detector.score_samples(X), vae.score_samples(X))
    assert offsets[1] < offsets[0]
    assert pickle.dumps(vae) == content


def test_an_unfitted_frozen_estimator_is_refused():
    detector = OutlierDetector(FrozenEstimator(PCA()))
    with pytest.raises(NotFittedError, match="not fitted"):
        detector.fit(gaussian(50, 0))
    assert "offset_" not in vars(detector)


@pytest.mark.parametrize("contamination", ["auto", 0.1])
def test_rows_are_passed_on_untouched(contamination):
    frame = pd.DataFrame(gaussian(20, 0), columns=list("abcde"))
    y = np.zeros(20)
    detector = OutlierDetector(Norm(pd.DataFrame), contamination=contamination)
    detector.fit(frame, y)
    detector.predict(frame)
    detector.decision_function(frame)
    detector.score_samples(frame)
    given = detector.estimator_.given_
    assert given.pop(1) is y
    assert len(given) >= 4
    assert all(X is frame for X in given)


def test_features_are_those_of_the_estimator():
    frame = pd.DataFrame(gaussian(20, 0), columns=list("abcde"))
    detector = OutlierDetector(make_pipeline(StandardScaler(), PCA()))
    assert not hasattr(detector, "n_features_in_")
    assert not hasattr(detector, "feature_names_in_")
    detector.fit(frame)
    assert detector.n_features_in_ == 5
    assert list(detector.feature_names_in_) == list("abcde")
    with pytest.raises(ValueError, match="feature names should match"):
        detector.predict(frame.rename(columns={"a": "z"}))
    with pytest.raises(ValueError, match="4 features"):
        detector.fit(frame.to_numpy()).predict(frame.to_numpy()[:, 1:])
    assert not hasattr(OutlierDetector(Norm(pd.DataFrame)).fit(frame), "n_features_in_")


def test_a_pipeline_may_stand_inside_or_around():
    X = gaussian(300, 0) * [1, 10, 100, 1, 1]
    vae = VAETransformer(n_components=2, max_iter=2, random_state=0)
    inside = OutlierDetector(make_pipeline(StandardScaler(), vae), contamination=0.1)
    around = make_pipeline(StandardScaler(), OutlierDetector(vae, contamination=0.1))
    inside.fit(X)
    around.fit(X)
    for verb in ("predict", "decision_function", "score_samples"):
        assert_array_equal(getattr(inside, verb)(X), getattr(around, verb)(X))
    assert_array_equal(around.fit_predict(X), inside.predict(X))


def test_grid_search_reaches_the_estimator_inside():
    X = gaussian(60, 0)
    search = GridSearchCV(
        OutlierDetector(make_pipeline(StandardScaler(), PCA())),
        {"estimator__pca__n_components": [1, 3], "contamination": [0.1, 0.2]},
        scoring=lambda detector, X, y=None: detector.score_samples(X).mean(),
        cv=2,
    )
    search.fit(X)
    detector = search.best_estimator_
    assert detector.estimator_[-1].n_components_ == detector.estimator[-1].n_components


def test_a_reloaded_detector_is_the_same():
    X = gaussian(100, 0)
    vae = VAETransformer(n_components=2, max_iter=2, random_state=0)
    detector = OutlierDetector(vae).fit(X)
    again = pickle.loads(pickle.dumps(detector))
    assert again.offset_ == detector.offset_
    assert_array_equal(again.decision_function(X), detector.decision_function(X))


# What is refused


@pytest.mark.parametrize(
    ("estimator", "contamination", "name"),
    [
        (StandardScaler(), "auto", "estimator"),
        ("pca", "auto", "estimator"),
        (None, "auto", "estimator"),
        (PCA(), 0.0, "contamination"),
        (PCA(), 0.51, "contamination"),
        (PCA(), -0.1, "contamination"),
        (PCA(), "legacy", "contamination"),
        (PCA(), None, "contamination"),
    ],
)
def test_parameter_is_validated_in_fit(estimator, contamination, name):
    detector = OutlierDetector(estimator, contamination=contamination)
    with pytest.raises(ValueError, match=f"The '{name}' parameter of OutlierDetector"):
        detector.fit(gaussian(20, 0))
    assert vars(detector) == {"estimator": estimator, "contamination": contamination}


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    ("estimator", "X", "error", "message"),
    [
        (Norm(fails_in="fit"), gaussian(20, 0), KeyboardInterrupt, None),
        (Norm(fails_in="score_samples"), gaussian(20, 0), RuntimeError, "no scores"),
        (PCA(), np.full((20, 5), np.nan), ValueError, "contains NaN"),
        (PCA(), gaussian(1, 0), ValueError, "n_samples = 1.* at least 2 rows"),
        (PCA(), gaussian(0, 0), ValueError, "n_samples = 0"),
        (PCA(), np.zeros(5), ValueError, "1D array"),
        (PCA(), sparse.csr_array(np.eye(20)), TypeError, "Sparse data"),
        (
            AutoencoderTransformer(max_iter=2, learning_rate=1e30, random_state=0),
            gaussian(20, 0),
            ValueError,
            "Lower learning_rate",
        ),
    ],
)
def test_a_fit_that_fails_changes_nothing(estimator, X, error, message, fitted):
    detector = OutlierDetector(PCA())
    if fitted:
        detector.fit(gaussian(50, 0))
    detector.set_params(estimator=estimator)
    before = vars(detector).copy()
    with pytest.raises(error, match=message):
        detector.fit(X)
    assert vars(detector) == before


@pytest.mark.parametrize("verb", ["predict", "decision_function", "score_samples"])
def test_verbs_ask_for_a_fit_first(verb):
    with pytest.raises(NotFittedError, match="OutlierDetector instance is not fitted"):
        getattr(OutlierDetector(PCA()), verb)(gaussian(20, 0))


# Skewness


def naive_medcouple(values):
    m = np.median(values)
    kernel = [
        ((b - m) - (m - a)) / (b - a) if b > a else 0.0
        for a in values[values <= m]
        for b in values[values >= m]
    ]
    return np.median(kernel)


@pytest.mark.parametrize("n", [2, 3, 10, 11, 100, 101])
@pytest.mark.parametrize("skew", [np.exp, np.sin, np.negative])
def test_medcouple_equals_a_naive_double_loop(n, skew):
    values = skew(gaussian(n, n, 1)[:, 0])
    assert medcouple(values) == pytest.approx(naive_medcouple(values), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 2, 7, 9, 10], -1 / 3), ([-1, -2, -7, -9, -10], 1 / 3), ([1, 2, 3], 0)],
)
def test_medcouple_by_hand(values, expected):
    assert medcouple(np.asarray(values, float)) == pytest.approx(expected)


def test_medcouple_is_a_measure_of_skewness():
    values = np.exp(gaussian(201, 0, 1)[:, 0])
    skewness = medcouple(values)
    assert 0 < skewness < 1
    assert medcouple(-values) == pytest.approx(-skewness)
    assert medcouple(1000 * values - 7) == pytest.approx(skewness)
    assert medcouple(np.r_[values, -values]) == pytest.approx(0, abs=1e-12)
    assert medcouple(np.ones(9)) == 0


def test_medcouple_of_many_values_is_close_to_the_naive_double_loop():
    values = np.exp(gaussian(2000, 0, 1)[:, 0])
    assert medcouple(values) == pytest.approx(naive_medcouple(values), abs=0.01)


def test_fence_is_the_boxplots_and_lower_for_skewness_to_the_left():
    symmetric = np.arange(101.0)
    assert adjusted_lower_fence(symmetric) == pytest.approx(25 - 1.5 * 50)
    skewed = np.exp(gaussian(300, 0, 1)[:, 0])
    for values, factor in (
        (skewed, 1.0),
        (-skewed, np.exp(3 * medcouple(skewed))),
    ):
        first, third = np.percentile(values, [25, 75])
        expected = first - 1.5 * factor * (third - first)
        assert adjusted_lower_fence(values) == pytest.approx(expected)

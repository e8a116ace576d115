import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.stats import chisquare
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    PolynomialFeatures,
    StandardScaler,
)

from skrepr import AutoencoderTransformer, OutlierDetector, VAETransformer
from skrepr._estimators._thresholds import (
    adjusted_lower_fence,
    automatic_threshold,
    medcouple,
    threshold_of_share,
)
from skrepr.backbones import MLP


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


class Nearest(Norm):
    """Scores a row by minus the distance to the nearest row it was fitted on."""

    def score_samples(self, X):
        return -cKDTree(self.given_[0]).query(X)[0]


def gaussian(n_samples, seed, n_features=5):
    return np.random.default_rng(seed).normal(size=(n_samples, n_features))


def moved_six_sigma(X):
    """Move every row by 6 standard deviations in a random direction of its own."""
    directions = gaussian(len(X), 99, X.shape[1])
    return X + 6 * directions / np.linalg.norm(directions, axis=1, keepdims=True)


def share_flagged(detector, X):
    return np.mean(detector.predict(X) == -1)


# The threshold

# Trained for a few steps: the threshold is what counts.
brief = {"backbone": MLP((32,)), "learning_rate": 5e-3, "random_state": 0}
AUTOENCODER = AutoencoderTransformer(max_iter=50, **brief)
VAE = VAETransformer(max_iter=60, n_importance_samples=16, **brief)


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
        AUTOENCODER,
        VAE,
        make_pipeline(StandardScaler(), AUTOENCODER),
    ],
    ids=["pca", "pca-2", "gmm", "kde", "ae", "vae", "pipeline"],
)
def test_auto_finds_outliers_six_sigma_away_and_raises_few_false_alarms(estimator):
    detector = OutlierDetector(estimator).fit(gaussian(1000, 0))
    new = gaussian(2000, 1)
    assert share_flagged(detector, new) <= 0.025
    assert share_flagged(detector, moved_six_sigma(new)) >= 0.8


@pytest.mark.parametrize(
    "model",
    [AutoencoderTransformer(max_iter=150), VAETransformer(max_iter=300)],
    ids=["ae", "vae"],
)
def test_models_of_the_default_size_find_outliers_six_sigma_away(model):
    detector = OutlierDetector(model.set_params(random_state=0), calibration=0.5)
    detector.fit(gaussian(1000, 0))
    new = gaussian(2000, 1)
    assert share_flagged(detector, new) <= 0.025
    assert share_flagged(detector, moved_six_sigma(new)) >= 0.8


@pytest.mark.parametrize(
    ("estimator", "share", "least"),
    [(AUTOENCODER, 0.02, 0.2), (AUTOENCODER, 0.1, 0.2), (VAE, 0.1, 0.35)],
    ids=["ae-2%", "ae-10%", "vae-10%"],
)
def test_auto_raises_few_false_alarms_with_outliers_among_the_training_rows(
    estimator, share, least
):
    X = gaussian(1000, 0)
    n_outliers = round(1000 * share)
    X[:n_outliers] = moved_six_sigma(X[:n_outliers])
    detector = OutlierDetector(estimator).fit(X)
    new = gaussian(2000, 1)
    assert share_flagged(detector, new) <= 0.02
    # Autoencoders learn to reconstruct the outliers they are trained on.
    assert share_flagged(detector, moved_six_sigma(new)) >= least


@pytest.mark.parametrize(
    "estimator", [PCA(), GaussianMixture(random_state=0)], ids=["pca", "gmm"]
)
@pytest.mark.parametrize("share", [0.02, 0.1])
@pytest.mark.parametrize("frozen", [False, True])
def test_auto_bears_outliers_among_the_training_rows(estimator, share, frozen):
    X = gaussian(1000, 0)
    if frozen:
        estimator = FrozenEstimator(clone(estimator).fit(X))
    n_outliers = round(1000 * share)
    X[:n_outliers] = moved_six_sigma(X[:n_outliers])
    detector = OutlierDetector(estimator).fit(X)
    new = gaussian(4000, 1)
    assert share_flagged(detector, new) <= 0.02
    assert share_flagged(detector, moved_six_sigma(new)) >= 0.8
    assert share_flagged(detector, X[:n_outliers]) >= 0.8


def held_out_scores(estimator, X):
    """Score the held-out rows of as many of the five folds as give 500 scores."""
    scores = []
    for train, test in KFold(5, shuffle=True, random_state=0).split(X):
        if len(scores) < 500:
            scores.extend(clone(estimator).fit(X[train]).score_samples(X[test]))
    return np.array(scores)


@pytest.mark.parametrize("n_samples", [9, 400, 1000, 4000])
@pytest.mark.parametrize("transform", [np.array, np.exp])
@pytest.mark.parametrize("frozen", [False, True])
def test_auto_takes_training_scores_that_hold_for_rows_held_out(
    n_samples, transform, frozen
):
    X = transform(gaussian(n_samples, 0))
    estimator = FrozenEstimator(Norm().fit(X)) if frozen else Norm()
    expected = automatic_threshold(-np.linalg.norm(X, axis=1))
    assert OutlierDetector(estimator).fit(X).offset_ == expected


@pytest.mark.parametrize("n_samples", [10, 50, 400, 1000])
def test_auto_takes_held_out_scores_where_training_scores_are_too_good(n_samples):
    X = gaussian(n_samples, 0)
    for estimator in Memory(), Nearest():
        expected = automatic_threshold(held_out_scores(estimator, X))
        assert OutlierDetector(estimator).fit(X).offset_ == expected


def test_a_frozen_or_tiny_estimator_goes_without_held_out_scores():
    X = gaussian(200, 0)
    assert OutlierDetector(FrozenEstimator(Memory().fit(X))).fit(X).offset_ == 0
    assert OutlierDetector(Memory()).fit(X[:9]).offset_ == 0
    assert OutlierDetector(Memory()).fit(X[:10]).offset_ < 0


@pytest.mark.parametrize("n_samples", [400, 1000])
def test_what_a_model_remembers_does_not_set_the_threshold(n_samples):
    for estimator in Memory(), Nearest():
        detector = OutlierDetector(estimator).fit(gaussian(n_samples, 0))
        new = gaussian(4000, 1)
        assert share_flagged(detector, new) <= 0.02
        assert share_flagged(detector, moved_six_sigma(new)) >= 0.8
        assert share_flagged(detector, gaussian(n_samples, 0)) <= 0.02


def test_an_autoencoder_of_89_zeros_flags_other_digits_and_few_other_zeros():
    digits = load_digits()
    zeros = digits.data[digits.target == 0]
    detector = OutlierDetector(clone(AUTOENCODER).set_params(max_iter=300))
    detector.fit(zeros[::2])
    assert len(zeros[::2]) == 89
    assert share_flagged(detector, zeros[1::2]) <= 0.05
    assert share_flagged(detector, digits.data[digits.target == 1]) >= 0.9


@pytest.mark.parametrize("n", [50, 1000, 5000])
def test_a_threshold_is_the_quantile_or_the_fence_of_clearly_more_rows(n):
    scores = np.sort(gaussian(n, 0, 1)[:, 0])
    assert np.sum(scores < adjusted_lower_fence(scores)) <= 0.01 * n
    quantile = np.quantile(scores, 0.0025)
    assert automatic_threshold(scores) == pytest.approx(quantile)
    expected = 0.005 * n
    most = int(expected + 3 * np.sqrt(expected))
    for n_low, by_fence in ((most, False), (most + 1, True)):
        # Fewer than `most` lie below the fence on their own: put in as many as needed.
        low = scores.clip(-2, 2)
        low[:n_low] = -9.0 - np.arange(n_low)
        fence = adjusted_lower_fence(low)
        assert np.sum(low < fence) == n_low
        expected_threshold = fence if by_fence else np.quantile(low, 0.0025)
        assert automatic_threshold(low) == pytest.approx(expected_threshold)
    assert automatic_threshold(1000 * low - 7) == pytest.approx(1000 * fence - 7)


@pytest.mark.parametrize("share", [0.0025, 0.1, 0.5])
@pytest.mark.parametrize("n_impossible", [0, 1, 3, 60])
def test_a_threshold_is_finite_with_scores_of_minus_infinity(share, n_impossible):
    scores = gaussian(100, 0, 1)[:, 0]
    scores[:n_impossible] = -np.inf
    threshold = threshold_of_share(scores, share)
    assert np.isfinite(threshold)
    if n_impossible <= share * 99:
        assert threshold == np.quantile(scores, share)
    else:
        assert threshold == scores[n_impossible:].min()
    assert np.isfinite(automatic_threshold(scores))


@pytest.mark.parametrize("contamination", ["auto", 0.1])
def test_rows_of_density_zero_are_outliers(contamination):
    X = gaussian(400, 0, 2)
    X[:4] = [[50, 50], [60, 60], [-50, 50], [70, 0]]
    kde = KernelDensity(kernel="tophat", bandwidth=0.7)
    detector = OutlierDetector(kde, contamination=contamination).fit(X)
    assert np.isfinite(detector.offset_)
    assert share_flagged(detector, np.array([[99.0, 99.0], [-99.0, 0.0]])) == 1
    assert not np.isnan(detector.decision_function(X)).any()
    frozen = FrozenEstimator(kde.fit(X[4:]))
    detector = OutlierDetector(frozen, contamination=contamination).fit(X)
    assert np.isfinite(detector.offset_)
    assert share_flagged(detector, X[:4]) == 1


@pytest.mark.parametrize("contamination", ["auto", 0.1])
def test_no_finite_score_is_an_error(contamination):
    kde = KernelDensity(kernel="tophat", bandwidth=0.1).fit(np.full((3, 2), 1e3))
    detector = OutlierDetector(FrozenEstimator(kde), contamination=contamination)
    with pytest.raises(ValueError, match="no row a finite score"):
        detector.fit(gaussian(50, 0, 2))
    assert "offset_" not in vars(detector)


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
    given = {"estimator": estimator, "contamination": contamination}
    assert vars(detector) == {**given, "calibration": None}


@pytest.mark.parametrize("calibration", [0, 1, 1.5, -0.1, "auto"])
def test_calibration_is_validated_in_fit(calibration):
    detector = OutlierDetector(PCA(), calibration=calibration)
    with pytest.raises(ValueError, match="The 'calibration' parameter"):
        detector.fit(gaussian(20, 0))


# Conformal p-values.


def test_p_values_of_normal_rows_are_uniform():
    """They are exchangeable with the rows held out: each rank is equally likely."""
    rng = np.random.default_rng(0)
    p = []
    for _ in range(400):
        X = rng.standard_t(3, size=(60, 2))
        detector = OutlierDetector(PCA(1), calibration=0.5).fit(X[:59])
        p.append(detector.p_values(X[59:])[0])
    held_out = len(detector.calibration_scores_)
    assert held_out == 30
    assert_allclose(np.array(p) * 31, np.round(np.array(p) * 31), atol=1e-9)
    ranks = np.round(np.array(p) * 31).astype(int)
    assert chisquare(np.bincount(ranks, minlength=32)[1:]).pvalue > 0.01
    for level in 0.1, 0.3, 0.5:
        share = np.mean(np.array(p) <= level)
        assert share <= level + 3 * np.sqrt(level * (1 - level) / 400)


def test_p_values_of_an_autoencoder_keep_their_level():
    """Also where it remembers its training rows: few of these, many columns."""
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(200, 20)), rng.normal(size=(4000, 20))
    autoencoder = AutoencoderTransformer(max_iter=100, random_state=0)
    detector = OutlierDetector(autoencoder, calibration=0.5).fit(X)
    p = detector.p_values(new)
    for level in 0.05, 0.2, 0.5:  # binomial over the 100 rows held out
        assert abs(np.mean(p <= level) - level) < 3 * np.sqrt(level * (1 - level) / 100)
    assert (detector.p_values(new + 6) == 1 / 101).all()


def test_p_values_count_the_rows_held_out_that_score_no_higher():
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(90, 2)), rng.normal(size=(20, 2))
    detector = OutlierDetector(PCA(1), calibration=0.2).fit(X)
    held_out = detector.calibration_scores_
    assert held_out.shape == (18,)
    assert (np.diff(held_out) >= 0).all()
    scores = detector.score_samples(new)
    expected = [(1 + np.sum(held_out <= score)) / 19 for score in scores]
    assert_allclose(detector.p_values(new), expected)
    # The estimator knows nothing of the rows held out, and the threshold is theirs.
    known = np.isin(detector.score_samples(X), held_out)
    assert known.sum() == 18
    expected = PCA(1).fit(X[~known]).score_samples(new)
    assert_allclose(scores, expected)
    assert detector.offset_ == automatic_threshold(held_out)
    share = OutlierDetector(PCA(1), calibration=0.2, contamination=0.25).fit(X)
    assert share.offset_ == np.quantile(held_out, 0.25)


@pytest.mark.parametrize("calibration", [None, 0.2])
def test_a_frozen_estimator_is_calibrated_on_all_rows(calibration):
    X = gaussian(200, 0)
    pca = PCA(1).fit(X[:100])
    detector = OutlierDetector(FrozenEstimator(pca), calibration=calibration)
    detector.fit(X[100:])
    held_out = np.sort(pca.score_samples(X[100:]))
    assert_array_equal(detector.calibration_scores_, held_out)
    assert detector.p_values(X[100:]).min() == 2 / 101


def test_without_calibration_there_are_no_p_values():
    X = gaussian(50, 0)
    detector = OutlierDetector(PCA(1), calibration=0.2).fit(X)
    detector.set_params(calibration=None).fit(X)
    assert not hasattr(detector, "calibration_scores_")
    detector.set_params(calibration=0.2)  # what counts is how it was fitted
    with pytest.raises(AttributeError, match="Set calibration to the share"):
        detector.p_values(X)
    detector.fit(X).set_params(calibration=None)
    assert len(detector.p_values(X)) == 50
    with pytest.raises(NotFittedError):
        OutlierDetector(PCA(1), calibration=0.2).p_values(X)


def test_a_score_that_is_nan_is_the_strangest():
    class Undefined(Norm):
        def score_samples(self, X):
            return np.where(X[:, 0] > 9, np.nan, super().score_samples(X))

    detector = OutlierDetector(Undefined(), calibration=0.5).fit(gaussian(40, 0))
    assert_allclose(detector.p_values(np.full((1, 2), 10.0)), 1 / 21)
    assert detector.predict(np.full((1, 2), 10.0)) == -1


def test_labels_follow_the_rows_that_are_not_held_out():
    X = gaussian(40, 0)
    detector = OutlierDetector(Norm(), calibration=0.25).fit(X, np.arange(40))
    X_given, y_given = detector.estimator_.given_[:2]
    assert_array_equal(X[y_given], X_given)
    assert len(y_given) == 30


def test_calibration_leaves_rows_to_fit():
    with pytest.raises(ValueError, match=r"calibration=0\.9 of n_samples = 10"):
        OutlierDetector(PCA(1), calibration=0.9).fit(gaussian(10, 0))


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


# Contributions.


@pytest.fixture(scope="module")
def explained():
    """Rows, and a detector that scales them before a VAE scores them."""
    X = pd.DataFrame(gaussian(40, 0, 3) * [1, 10, 100], columns=list("abc"))
    model = VAETransformer(2, max_iter=2, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model).fit(X)
    return X, OutlierDetector(FrozenEstimator(pipeline)).fit(X)


def test_contributions_are_those_of_the_estimator(explained):
    X, detector = explained
    scaler, vae = detector.estimator_.estimator
    found = detector.feature_contributions(X)
    assert_array_equal(found, vae.feature_contributions(scaler.transform(X)))
    assert_allclose(found.sum(axis=1), -detector.score_samples(X))
    # Detectors, searches and pipelines around each other lead to the same.
    around = make_pipeline("passthrough", detector)
    search = GridSearchCV(around, {}, scoring=lambda *args: 0.0, cv=2)
    outer = OutlierDetector(FrozenEstimator(search.fit(X))).fit(X)
    assert outer.feature_contributions(X).shape == found.shape


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_contributions_to_rows_of_an_array(explained):
    X, detector = explained
    expected = detector.feature_contributions(X)
    assert_array_equal(detector.feature_contributions(X.to_numpy()), expected)
    assert_array_equal(detector.feature_contributions(X.to_numpy().tolist()), expected)


def test_contributions_of_columns_that_a_pipeline_makes_are_refused(explained):
    X = explained[0]
    vae = VAETransformer(2, max_iter=1, random_state=0)
    for step, made in [
        (PolynomialFeatures(2), "'1', 'a', 'b'"),
        (PCA(3), "'pca0', 'pca1', 'pca2'"),
        (FunctionTransformer(np.fliplr, check_inverse=False), "unknown ones"),
    ]:
        estimator = make_pipeline(step, vae)
        detector = OutlierDetector(estimator, contamination=0.1).fit(X)
        with pytest.raises(ValueError, match=f"other columns of X: {made}.* Expected"):
            detector.feature_contributions(X)
    step.set_params(func=np.square, feature_names_out="one-to-one")
    assert detector.set_params(estimator=estimator).fit(X).feature_contributions(
        X
    ).shape == (40, 3)


def test_an_estimator_without_contributions_leaves_the_detector_without(explained):
    X = explained[0]
    for estimator in PCA(1), make_pipeline(StandardScaler(), PCA(1)):
        detector = OutlierDetector(estimator)
        assert not hasattr(detector, "feature_contributions")
        assert not hasattr(detector.fit(X), "feature_contributions")
    assert hasattr(OutlierDetector(AutoencoderTransformer()), "feature_contributions")
    assert hasattr(explained[1], "feature_contributions")


# Skewness


def naive_medcouple(values):
    m, n_tied = np.median(values), np.sum(values == np.median(values))
    low, high = np.sort(values)[::-1], np.sort(values)
    low, high = low[low <= m], high[high >= m]  # both begin with those tied
    kernel = [
        np.sign(n_tied - 1 - i - j) if b == a else ((b - m) - (m - a)) / (b - a)
        for i, a in enumerate(low)
        for j, b in enumerate(high)
    ]
    return np.median(kernel)


@pytest.mark.parametrize("n_tied", [1, 2, 3, 7, 40, 60, 90, 100])
@pytest.mark.parametrize("sign", [1, -1])
def test_medcouple_of_ties_equals_a_naive_double_loop(n_tied, sign):
    draws = np.random.default_rng(0)
    one_sided = np.r_[np.zeros(n_tied), draws.exponential(size=100 - n_tied)]
    two_sided = np.r_[np.zeros(n_tied), draws.normal(size=101)]
    rounded = draws.normal(size=100).round(1) + 0.0
    for values in one_sided, two_sided, rounded, two_sided.round():
        expected = naive_medcouple(sign * values)
        assert medcouple(sign * values) == pytest.approx(expected, abs=1e-12)
        assert medcouple(-sign * values) == pytest.approx(-expected, abs=1e-12)


def test_medcouple_of_a_spike_at_the_end_is_1():
    draws = np.random.default_rng(0).exponential(size=40)
    assert medcouple(np.r_[np.zeros(60), draws]) == 1
    assert medcouple(-np.r_[np.zeros(60), draws]) == -1
    many = np.r_[np.zeros(6000), np.random.default_rng(0).exponential(size=4000)]
    assert medcouple(many) == 1


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


# Columns as they come


@pytest.mark.parametrize(
    ("kind", "library", "params"),
    [
        (AutoencoderTransformer, "pandas", {}),
        (VAETransformer, "polars", {"contamination": 0.1}),
        (AutoencoderTransformer, "polars", {"calibration": 0.3}),
        (VAETransformer, "pandas", {"calibration": 0.3}),
    ],
)
def test_holes_and_categories_are_no_matter(mixed, kind, library, params):
    if library == "polars":
        mixed = pl.from_pandas(mixed.astype({"grade": "Int64"}))
    transformer = kind(2, backbone=MLP((16,)), max_iter=20, random_state=0)
    detector = OutlierDetector(transformer, **params).fit(mixed)
    assert np.isfinite(detector.score_samples(mixed)).all()
    assert np.mean(detector.predict(mixed) == 1) > 0.6


def test_a_strange_pair_of_categories_is_an_outlier(mixed):
    odd = mixed[["count", "kind", "positive"]].assign(weight=mixed["count"] * 1.0)
    detector = OutlierDetector(clone(AUTOENCODER).set_params(n_components=2)).fit(odd)
    strange = odd[odd["kind"] == "large"].assign(positive=False, kind="small")
    usual = odd[odd["kind"] == "large"]
    scores = detector.score_samples(strange), detector.score_samples(usual)
    assert np.median(scores[0]) < np.min(scores[1])

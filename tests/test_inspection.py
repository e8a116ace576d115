"""The displays: what they draw is what the estimators say."""

import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from matplotlib import pyplot as plt
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from skrepr import AutoencoderTransformer, OutlierDetector, VAETransformer
from skrepr.inspection import FeatureContributionsDisplay, ScoreDistributionDisplay


@pytest.fixture(autouse=True)
def _figures_without_a_screen():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3)) @ rng.normal(size=(3, 6))
    return pd.DataFrame(X * [1, 10, 100, 1, 1, 1] + 5, columns=list("abcdef"))


@pytest.fixture(scope="module")
def autoencoder(frame):
    return AutoencoderTransformer(2, max_iter=20, random_state=0).fit(frame)


# The distribution of the scores.


def heights(ax):
    return np.array([patch.get_height() for patch in ax.patches])


def test_all_rows_are_in_the_histogram_and_the_threshold_is_drawn(frame):
    detector = OutlierDetector(PCA(2), contamination=0.1).fit(frame)
    display = ScoreDistributionDisplay.from_estimator(detector, frame)
    assert_array_equal(display.scores, detector.score_samples(frame))
    assert display.threshold == detector.offset_
    assert_array_equal(display.line_.get_xdata(), [detector.offset_] * 2)
    assert "10.0% below" in display.line_.get_label()
    assert heights(display.ax_).sum() == len(frame)
    assert display.figure_ is display.ax_.figure


def test_an_estimator_without_a_threshold(autoencoder, frame):
    display = ScoreDistributionDisplay.from_estimator(autoencoder, frame)
    assert display.threshold is None
    assert display.line_ is None
    assert display.ax_.get_legend() is None
    assert heights(display.ax_).sum() == len(frame)


def test_far_outliers_leave_room_for_the_others():
    scores = np.r_[np.linspace(-2, -1, 99), -1e9, -np.inf]
    display = ScoreDistributionDisplay(scores=scores, threshold=-3.0).plot()
    low, high = display.ax_.get_xlim()
    assert -10 < low < -8
    assert high < 0
    assert heights(display.ax_).sum() == 101
    assert "2.0% are lower than shown" in display.ax_.get_xlabel()


def test_groups_have_a_histogram_each(frame):
    y = np.repeat(["normal", "strange"], [60, 20])
    detector = OutlierDetector(PCA(2)).fit(frame)
    _, ax = plt.subplots()
    display = ScoreDistributionDisplay.from_estimator(detector, frame, y, ax=ax, bins=9)
    assert display.ax_ is ax
    assert len(ax.patches) == 18
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[:2] == ["normal", "strange"]
    widths = [patch.get_width() for patch in ax.patches[:9]]
    assert np.dot(heights(ax)[:9], widths) == pytest.approx(1)


@pytest.mark.parametrize("threshold", [-3.0, -4.99])
def test_rows_that_nearly_all_lie_below_the_threshold_are_told_apart(threshold):
    scores = np.linspace(-10, -5, 200)
    if threshold < -4:
        scores[-1] = -4.98
    display = ScoreDistributionDisplay(scores=scores, threshold=threshold).plot()
    assert "lower than shown" not in display.ax_.get_xlabel()
    assert heights(display.ax_).max() < 10


@pytest.mark.parametrize("y", [["a"] * 7, "normal"])
def test_groups_of_another_number_of_rows_are_an_error(y):
    with pytest.raises(ValueError, match="one group for every row"):
        ScoreDistributionDisplay(scores=np.arange(9.0), y=y).plot()


@pytest.mark.parametrize("scores", [[-1.0] * 5, [-1.0]])
def test_equal_scores_can_be_plotted(scores):
    for threshold in None, -1.0, -5.0, 3.0:
        ScoreDistributionDisplay(scores=np.array(scores), threshold=threshold).plot()


@pytest.mark.parametrize("scores", [[-np.inf], [np.nan, -1.0]])
def test_scores_that_cannot_be_plotted_are_an_error(scores):
    with pytest.raises(ValueError, match="Scores must not be NaN"):
        ScoreDistributionDisplay(scores=np.array(scores)).plot()


# The features behind the score of a row.


def bars(display):
    return {
        label.get_text(): bar.get_width()
        for label, bar in zip(
            display.ax_.get_yticklabels(), display.bars_.patches, strict=True
        )
    }


def test_bars_are_the_contributions_the_largest_first(autoencoder, frame):
    display = FeatureContributionsDisplay.from_estimator(autoencoder, frame, row=7)
    contributions = autoencoder.feature_contributions(frame)[7]
    widths = [bar.get_width() for bar in display.bars_.patches]
    assert_allclose(widths, np.sort(contributions)[::-1])
    largest = frame.columns[contributions.argmax()]
    first = display.ax_.get_yticklabels()[0].get_text()
    assert first == f"{largest} = {frame[largest].iloc[7]:.4g}"
    assert display.row == 7
    assert_allclose(sum(widths), -autoencoder.score_samples(frame)[7])


def test_the_row_with_the_lowest_score_is_the_default(autoencoder, frame):
    display = FeatureContributionsDisplay.from_estimator(autoencoder, frame)
    lowest = autoencoder.score_samples(frame).argmin()
    expected = autoencoder.feature_contributions(frame)[lowest]
    assert_allclose(display.contributions, expected)


def test_few_features_and_one_bar_for_the_others(autoencoder, frame):
    display = FeatureContributionsDisplay.from_estimator(
        autoencoder, frame, row=0, max_features=2
    )
    contributions = np.sort(autoencoder.feature_contributions(frame)[0])[::-1]
    found = bars(display)
    assert len(found) == 3
    assert found["the other 4"] == pytest.approx(contributions[2:].sum())


def test_an_array_and_a_data_frame_show_the_same(autoencoder, frame):
    plain = AutoencoderTransformer(2, max_iter=20, random_state=0).fit(frame.to_numpy())
    display = FeatureContributionsDisplay.from_estimator(plain, frame.to_numpy(), row=3)
    expected = FeatureContributionsDisplay.from_estimator(autoencoder, frame, row=3)
    assert_allclose(display.contributions, expected.contributions)
    assert display.feature_names == ["x0", "x1", "x2", "x3", "x4", "x5"]


def test_detectors_and_pipelines_are_looked_into(frame):
    model = AutoencoderTransformer(2, max_iter=10, random_state=0)
    pipeline = make_pipeline(StandardScaler(), PolynomialFeatures(2), model).fit(frame)
    expanded = pipeline[:-1].transform(frame)
    expected = pipeline[-1].feature_contributions(expanded)[5]
    detector = OutlierDetector(FrozenEstimator(pipeline)).fit(frame)
    for estimator in pipeline, detector, FrozenEstimator(detector):
        display = FeatureContributionsDisplay.from_estimator(estimator, frame, row=5)
        assert_allclose(display.contributions, expected)
        assert_allclose(display.values, expanded[5])
        assert display.feature_names[:3] == ["1", "a", "b"]


def test_a_vae_shows_its_contributions(frame):
    vae = VAETransformer(2, max_iter=10, random_state=0).fit(frame)
    display = FeatureContributionsDisplay.from_estimator(vae, frame, row=1)
    assert_allclose(display.contributions, vae.feature_contributions(frame)[1])
    assert_allclose(display.contributions.sum(), -vae.score_samples(frame)[1])


def test_what_has_no_scores_is_an_error(frame):
    with pytest.raises(TypeError, match=r"Ridge has no scores.*score_samples"):
        ScoreDistributionDisplay.from_estimator(Ridge().fit(frame, frame), frame)


def test_what_cannot_be_explained_is_an_error(autoencoder, frame):
    from_estimator = FeatureContributionsDisplay.from_estimator
    with pytest.raises(TypeError, match="PCA does not tell what features contribute"):
        from_estimator(OutlierDetector(PCA(2)).fit(frame), frame)
    for max_features in None, 0, 2.5:
        with pytest.raises(ValueError, match="Expected a positive integer"):
            from_estimator(autoencoder, frame, max_features=max_features)
    with pytest.raises(NotFittedError):
        from_estimator(OutlierDetector(PCA(2)), frame, row=0)
    for row in 80, -1, 1.5, "a":
        with pytest.raises(ValueError, match="not a position in X, which has 80 rows"):
            from_estimator(autoencoder, frame, row=row)


def test_without_matplotlib_the_plots_say_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = "ScoreDistributionDisplay needs matplotlib.*pip install matplotlib"
    with pytest.raises(ImportError, match=message):
        ScoreDistributionDisplay(scores=[-1.0]).plot()


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_whole_numbers_are_written_in_full(frame):
    X = frame.assign(a=1_700_043_581 + np.arange(80))
    autoencoder = AutoencoderTransformer(2, max_iter=5, random_state=0).fit(X)
    search = GridSearchCV(autoencoder, {"n_components": [2]}, cv=2).fit(X)
    for estimator in autoencoder, search:
        display = FeatureContributionsDisplay.from_estimator(
            estimator, X.to_numpy(), row=3, color="red"
        )
        assert "a = 1700043584" in bars(display)
        assert display.ax_.get_title().startswith("row 3: ")


@pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_categories_and_holes_are_written_as_they_are(mixed, kind, library):
    estimator = kind(2, max_iter=5, random_state=0).fit(mixed)
    X = mixed.iloc[:3].assign(size=[1.5, None, 2.0], kind=["small", None, "large"])
    if library == "polars":
        X = pl.from_pandas(X.astype({"grade": "Int64"}))
    for row, written in [(0, ["size = 1.5", "kind = small"]), (1, ["size = missing"])]:
        display = FeatureContributionsDisplay.from_estimator(estimator, X, row=row)
        assert set(written) <= set(bars(display))
        assert np.isfinite(display.contributions).all()
        assert "positive = " in " ".join(bars(display))
    assert "kind = missing" in bars(display)

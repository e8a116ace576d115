"""Generated rows: supports, moments, conditions, and the ways between rows."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.datasets import load_iris, load_wine

from skrepr import AutoencoderTransformer, VAETransformer
from skrepr.backbones import MLP
from skrepr.likelihoods import Poisson

BOTH = pytest.mark.parametrize("estimator", [AutoencoderTransformer, VAETransformer])


def table(n=400):
    """Numbers of every kind, flags and categories that have to do with each other."""
    rng = np.random.default_rng(0)
    size = rng.normal(size=n)
    kind = np.where(size + 0.3 * rng.normal(size=n) > 0, "large", "small")
    return pd.DataFrame(
        {
            "size": size * 20 + 100,
            "whole": np.rint(size * 3 + rng.normal(size=n)).astype("int64"),
            "spike": np.where(rng.random(n) < 0.4, 0.0, np.exp(size)),
            "step": np.round(size).clip(-2, 2) / 2,
            "kind": pd.Categorical(kind, ["small", "large", "never"]),
            "flag": rng.random(n) < 0.3,
            "constant": 7.5,
        }
    )


@pytest.fixture(scope="module", params=[AutoencoderTransformer, VAETransformer])
def fitted(request):
    return request.param(n_components=4, max_iter=150, random_state=0).fit(table())


def test_generated_columns_have_the_values_of_the_training_rows(fitted):
    X, drawn = table(), fitted.sample(3000, random_state=0)
    assert list(drawn.columns) == list(X.columns)
    assert (drawn.dtypes == X.dtypes).all()
    assert not drawn.isna().any(axis=None)
    for name in ("whole", "step", "kind", "flag", "constant"):
        assert set(drawn[name]) <= set(X[name]), name
    for name in ("size", "whole", "spike", "step"):
        assert drawn[name].between(X[name].min(), X[name].max()).all()
        distance = stats.ks_2samp(drawn[name], X[name]).statistic
        assert distance < 0.03, name
    assert (drawn["spike"] == 0).mean() == pytest.approx(0.4, abs=0.05)


def test_generated_columns_have_to_do_with_each_other(fitted):
    X, drawn = table(), fitted.sample(3000, random_state=0)
    numbers = ["size", "whole", "step"]
    expected = X[numbers].corr(method="spearman")
    found = drawn[numbers].corr(method="spearman")
    assert_allclose(found, expected, atol=0.12)
    by_kind = [
        (frame["size"] > 100)[frame["kind"] == "large"].mean() for frame in (X, drawn)
    ]
    assert by_kind[1] == pytest.approx(by_kind[0], abs=0.1)


@BOTH
def test_moments_of_normal_rows(estimator):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 2)) @ rng.normal(size=(2, 4)) * [1, 50, 0.1, 3]
    X += rng.normal(size=X.shape) * 0.3 * X.std(axis=0) + [0, 100, 0, -5]
    brief = {"backbone": MLP((64,)), "max_iter": 80, "learning_rate": 3e-3}
    model = estimator(n_components=8, random_state=0, **brief).fit(X)
    drawn = model.sample(5000, random_state=0)
    assert_allclose(drawn.mean(axis=0), X.mean(axis=0), atol=0.05 * X.std(axis=0).max())
    assert_allclose(drawn.std(axis=0), X.std(axis=0), rtol=0.05)
    assert_allclose(np.corrcoef(drawn.T), np.corrcoef(X.T), atol=0.1)


def test_conditions_hold(fitted):
    given = {"kind": "small", "size": (None, 95.0), "flag": True}
    drawn = fitted.sample(40, given=given, random_state=0)
    assert len(drawn) == 40
    assert (drawn["kind"] == "small").all()
    assert (drawn["size"] <= 95).all()
    assert drawn["flag"].all()


def test_a_condition_may_be_a_value_of_a_number(fitted):
    drawn = fitted.sample(60, given={"size": 123.456}, random_state=0)
    assert (drawn["size"] == 123.456).all()
    # What goes with a large size: the mean of the training rows near by.
    X = table()
    near = X[(X["size"] - 123.456).abs() < 10]
    assert drawn["whole"].mean() == pytest.approx(near["whole"].mean(), abs=1.0)
    drawn = fitted.sample(10, given={"step": 0.5}, random_state=0)
    assert (drawn["step"] == 0.5).all()


def test_conditions_by_index_of_an_array():
    X, y = load_wine(return_X_y=True)
    X = np.column_stack([X, y])
    vae = VAETransformer(max_iter=100, categorical_features=[13], random_state=0).fit(X)
    drawn = vae.sample(30, given={13: 2, 0: (12.5, 13.5)}, random_state=0)
    assert isinstance(drawn, np.ndarray)
    assert (drawn[:, 13] == 2).all()
    assert ((drawn[:, 0] >= 12.5) & (drawn[:, 0] <= 13.5)).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight": 3}, "names the column 'weight'.*Expected one of 'size'"),
        ({"kind": "never"}, "wants 'never' in the column 'kind'.*'small', 'large'"),
        ({"size": (1000, 2000)}, "no training row has that. They have values from"),
        ({"whole": 0.5}, "wants 0.5 in the column 'whole'"),
        ({"size": "big"}, "holds numbers. Expected a number or a pair"),
        ({"size": (1, 2, 3)}, "Expected a number or a pair"),
        ({"size": (110, 90)}, "lowest value is above the highest"),
        ({"kind": None}, "wants None in the column 'kind'"),
        ([("size", 3)], "given must be a dict"),
    ],
)
def test_conditions_that_cannot_hold(fitted, given, message):
    with pytest.raises(ValueError, match=message):
        fitted.sample(5, given=given)


def test_conditions_on_whole_numbers_and_on_float32():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.permutation(3000)[:500], rng.integers(1, 4, 500) / 10])
    vae = VAETransformer(2, max_iter=2, random_state=0).fit(X.astype(np.float32))
    drawn = vae.sample(5, given={1: 0.1, 0: (1000, None)}, random_state=0)
    assert_allclose(drawn[:, 1], 0.1)
    for wanted in (3.5, (3.2, 3.8)):
        with pytest.raises(ValueError, match=r"no training row has that.*whole"):
            vae.sample(5, given={0: wanted})


def test_conditions_that_hardly_ever_hold_together(monkeypatch, fitted):
    monkeypatch.setattr("skrepr._columns._conditions._MAX_DRAWN", 2000)
    X = table()
    given = {"size": (X["size"].quantile(0.995), None), "kind": "small"}
    with pytest.raises(ValueError, match=r"satisfy the conditions.*they are rare"):
        fitted.sample(500, given=given, random_state=0)


@BOTH
def test_samples_follow_the_seed_and_the_pickle(estimator):
    X = table(100)
    model = estimator(max_iter=3, random_state=0).fit(X)
    first = model.sample(20, random_state=1)
    pd.testing.assert_frame_equal(first, model.sample(20, random_state=1))
    assert not first.equals(model.sample(20, random_state=2))
    again = pickle.loads(pickle.dumps(model))
    pd.testing.assert_frame_equal(first, again.sample(20, random_state=1))


@BOTH
def test_polars_comes_back(estimator):
    X = pl.from_pandas(table(100).astype({"kind": "string"}))
    model = estimator(max_iter=3, random_state=0).fit(X)
    drawn = model.sample(7, random_state=0)
    assert drawn.schema == X.schema
    assert drawn.height == 7


def test_counts_are_left_as_they_are_drawn():
    X = np.random.default_rng(0).poisson([3.0, 50.0], size=(300, 2)).astype(float)
    vae = VAETransformer(2, likelihood=Poisson(), max_iter=60, random_state=0)
    drawn = vae.fit(X).sample(2000, random_state=0)
    assert_array_equal(drawn, np.rint(drawn))
    assert drawn.min() >= 0
    assert_allclose(drawn.mean(axis=0), [3, 50], rtol=0.1)
    assert not set(drawn[:, 1]) <= set(X[:, 1])


@BOTH
def test_ways_start_and_end_at_reconstructions(estimator):
    X = load_iris(as_frame=True).data
    model = estimator(max_iter=20, random_state=0).fit(X)
    ways = model.interpolate(X[:2], X[100:102], n_steps=6)
    ends = model.inverse_transform(model.transform(X.iloc[[0, 100, 1, 101]]))
    assert ways.shape == (12, 4)
    assert_allclose(ways.iloc[[0, 5, 6, 11]], ends)
    codes = model.transform(X.iloc[[0, 100]])
    middle = model.inverse_transform(0.4 * codes[[1]] + 0.6 * codes[[0]])
    assert_allclose(ways.iloc[[2]], middle, rtol=1e-5)


@BOTH
def test_ways_that_do_not_fit(estimator):
    X = load_iris().data
    model = estimator(max_iter=2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="X_start has 2 rows and X_stop 3"):
        model.interpolate(X[:2], X[:3])
    with pytest.raises(ValueError, match="n_steps must be an integer of at least 2"):
        model.interpolate(X[:2], X[:2], n_steps=1)


@BOTH
@pytest.mark.parametrize("n_samples", [0, -1, 2.5, True, "3"])
def test_numbers_of_rows_that_are_none(estimator, n_samples):
    model = estimator(max_iter=1, random_state=0).fit(load_iris().data)
    with pytest.raises(ValueError, match="n_samples must be a positive integer"):
        model.sample(n_samples)

"""Quantiles of columns, and the map to normal scores, against NumPy and scipy."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.integrate import trapezoid

from skrepr._columns._quantiles import NormalMaps, Quantiles, ranks


def test_a_discrete_column_keeps_all_its_values_and_their_shares():
    column = np.repeat([3.0, 0.5, 7.0], [50, 30, 20])
    known = Quantiles.fit(column)
    assert known.is_discrete
    assert not known.is_whole
    assert_array_equal(known.values, [0.5, 3, 7])
    values = known.at((np.arange(1000) + 0.5) / 1000)
    assert_array_equal(np.unique(values, return_counts=True)[1], [300, 500, 200])


@pytest.mark.parametrize("n", [60, 20_000])
def test_a_continuous_column_has_its_quantiles(n):
    column = np.random.default_rng(0).lognormal(size=n)
    known = Quantiles.fit(column)
    assert not known.is_discrete
    assert len(known.values) <= 1001
    at = np.linspace(0.05, 0.95, 25)
    expected = np.quantile(column, at, method="hazen")
    assert_allclose(known.at(at), expected, rtol=0.02 if n > 1000 else 0.2)
    assert_array_equal(known.at(np.array([0.0, 1.0])), [column.min(), column.max()])


def test_a_spike_in_a_continuous_column_keeps_its_share():
    rng = np.random.default_rng(0)
    column = np.where(rng.random(20_000) < 0.3, 0.0, rng.gamma(2, size=20_000))
    known = Quantiles.fit(column)
    assert not known.is_discrete
    values = known.at(rng.random(50_000))
    assert (values == 0).mean() == pytest.approx((column == 0).mean(), abs=0.01)
    assert values.min() == 0


def test_whole_numbers_stay_whole_where_most_are_seen_once():
    column = np.random.default_rng(0).permutation(10**6)[:5000].astype(float)
    known = Quantiles.fit(column)
    assert known.is_whole
    assert not known.is_discrete
    values = known.at(np.random.default_rng(1).random(1000))
    assert_array_equal(values, np.rint(values))
    assert values.min() >= column.min()
    assert values.max() <= column.max()


def test_missing_cells_do_not_count():
    column = np.array([1.0, np.nan, 2.0, 2.0, np.nan, 1.0])
    assert_array_equal(Quantiles.fit(column).values, [1, 2])
    assert_array_equal(Quantiles.fit(column).upto, [0.5, 1])


def test_of_many_rows_a_part_tells_and_the_ends_stay():
    column = np.zeros(250_000)
    column[123_456] = 1.0
    assert_array_equal(Quantiles.fit(column).values, [0, 1])
    column[:] = np.nan
    column[[5, 9]] = 3, 4
    assert_array_equal(Quantiles.fit(column).values, [3, 4])


def test_the_state_is_json():
    known = Quantiles.fit(np.random.default_rng(0).normal(size=300))
    again = Quantiles.from_state(json.loads(json.dumps(known.get_state())))
    at = np.linspace(0, 1, 50)
    assert_array_equal(again.at(at), known.at(at))
    assert again.n_cells == 300


def normal_maps(X):
    return NormalMaps([Quantiles.fit(column).normal_knots() for column in X.T], 1e6)


def uneven_columns(n=500):
    """Return columns with 12 to 2 knots, and others of all sizes and units."""
    rng = np.random.default_rng(0)
    columns = [
        rng.normal(size=n),
        rng.integers(0, 2, n) * 7.0,
        rng.exponential(size=n) * 1e-9,
        rng.poisson(3.0, size=n),
        rng.normal(1e9, 1, size=n),
        np.arange(n) % 3,
        rng.standard_cauchy(n) * 1e30,
    ]
    return np.column_stack(columns)


def test_maps_of_many_columns_are_interpolations_of_each():
    X = uneven_columns()
    maps = normal_maps(X)
    knots = [Quantiles.fit(column).normal_knots() for column in X.T]
    assert len({len(values) for values, _ in knots}) > 3
    spread = X.std(axis=0)
    rows = np.concatenate([X, X + spread / 3, X - 5 * spread, 1e9 * X, -1e9 * X])
    rows[::7, ::2] = np.nan
    scores = maps.forward(rows)
    for j, (values, normal) in enumerate(knots):
        mean = (normal[-1] - normal[0]) / (values[-1] - values[0])
        low, high = (
            values[i] + (end - normal[i]) / mean for i, end in ((0, -1e6), (-1, 1e6))
        )
        values, normal = np.r_[low, values, high], np.r_[-1e6, normal, 1e6]
        assert_allclose(scores[:, j], np.interp(rows[:, j], values, normal), rtol=1e-14)
        back = np.interp(scores[:, j], normal, values)
        assert_allclose(maps.inverse(scores)[:, j], back, rtol=1e-14)
        assert_array_equal(scores[np.isnan(rows[:, j]), j], np.nan)
        within = np.flatnonzero(~np.isnan(rows[:, j]) & ~np.isin(rows[:, j], values))
        slopes = np.append(np.diff(normal) / np.diff(values), mean)
        place = np.searchsorted(values, rows[within, j]).clip(1) - 1
        log_slopes = maps.log_slope(rows)[within, j]
        assert_allclose(log_slopes, np.log(slopes[place]), rtol=1e-6, atol=1e-9)


def test_a_map_gives_a_row_the_same_whatever_rows_stand_beside_it():
    X = uneven_columns()
    maps = normal_maps(X)
    for map_ in maps.forward, maps.inverse, maps.log_slope:
        of_all = map_(X)
        assert_array_equal(map_(X[7:8]), of_all[7:8])
        assert_array_equal(map_(X[100:150]), of_all[100:150])


def test_on_a_knot_the_slope_is_the_geometric_mean_of_those_beside_it():
    maps = NormalMaps([(np.array([0.0, 1.0, 3.0]), np.array([-1.0, 0.0, 1.0]))], 1e6)
    x = np.array([[0.5], [1.0], [2.0], [99.0]])
    slopes = np.exp(maps.log_slope(x))[:, 0]
    assert_allclose(slopes, [1, np.sqrt(0.5), 0.5, 2 / 3])


def test_values_as_good_as_equal_have_finite_scores_and_slopes():
    column = np.append(np.random.default_rng(0).normal(size=100), [0.0, 5e-324, 1e-310])
    maps, x = normal_maps(column[:, None]), np.sort(column)[:, None]
    scores = maps.forward(x)[:, 0]
    assert (np.diff(scores) >= 0).all()
    assert np.isfinite(maps.log_slope(x)).all()


@pytest.mark.parametrize(
    "distribution", [stats.lognorm(1), stats.uniform(-5, 2), stats.t(3)]
)
def test_normal_scores_are_normal(distribution):
    column = distribution.rvs(4000, random_state=0)
    map_ = normal_maps(column[:, None])
    scores = map_.forward(column[:, None])
    assert stats.kstest(scores[:, 0], "norm").statistic < 0.02
    assert_allclose(map_.inverse(scores)[:, 0], column, rtol=1e-9, atol=1e-9)


def test_beyond_the_outermost_values_scores_go_on_linearly():
    column = np.random.default_rng(0).exponential(size=500)
    map_ = normal_maps(column[:, None])
    far = column.max() + np.array([[0.0], [10.0], [20.0]])
    steps = np.diff(map_.forward(far), axis=0)
    assert_allclose(steps, steps[:1].repeat(2, axis=0))
    assert steps[0] > 1
    assert_allclose(map_.inverse(map_.forward(far)), far)


def test_slope_and_normal_density_make_a_density():
    distribution = stats.gamma(2)
    column = distribution.rvs(5000, random_state=0)
    map_ = normal_maps(column[:, None])

    def density(x):
        x = x[:, None]
        log_density = stats.norm.logpdf(map_.forward(x)) + map_.log_slope(x)
        return np.exp(log_density)[:, 0]

    x = np.linspace(-5, 40, 200_001)
    assert trapezoid(density(x), x) == pytest.approx(1, abs=0.01)
    at = np.array([0.5, 1.0, 2.0, 4.0])
    assert_allclose(density(at), distribution.pdf(at), rtol=0.2)


def test_ranks_of_a_sample_are_uniform_also_where_values_are_equal():
    rng = np.random.default_rng(0)
    knots = np.sort(np.concatenate([np.zeros(300), rng.normal(2, 0.1, size=700)]))
    values = np.concatenate([np.zeros(3000), rng.normal(2, 0.1, size=7000)])
    found = ranks(values, knots, rng)
    assert stats.kstest(found, "uniform").statistic < 0.03
    order = np.argsort(values[3000:])
    assert (np.diff(found[3000:][order]) >= 0).mean() > 0.99

"""Quantiles of columns, and the map to normal scores, against NumPy and scipy."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.integrate import trapezoid

from skrepr._columns._quantiles import Quantiles, ranks


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


@pytest.mark.parametrize(
    "distribution", [stats.lognorm(1), stats.uniform(-5, 2), stats.t(3)]
)
def test_normal_scores_are_normal(distribution):
    column = distribution.rvs(4000, random_state=0)
    map_ = Quantiles.fit(column).normal_map(1e6)
    scores = map_.forward(column)
    assert stats.kstest(scores, "norm").statistic < 0.02
    assert_allclose(map_.inverse(scores), column, rtol=1e-9, atol=1e-9)


def test_beyond_the_outermost_values_scores_go_on_linearly():
    column = np.random.default_rng(0).exponential(size=500)
    map_ = Quantiles.fit(column).normal_map(1e6)
    far = column.max() + np.array([0.0, 10.0, 20.0])
    steps = np.diff(map_.forward(far))
    assert_allclose(steps, steps[0])
    assert steps[0] > 1
    assert_allclose(map_.inverse(map_.forward(far)), far)


def test_slope_and_normal_density_make_a_density():
    distribution = stats.gamma(2)
    column = distribution.rvs(5000, random_state=0)
    map_ = Quantiles.fit(column).normal_map(1e6)

    def density(x):
        x = np.atleast_1d(x)
        return np.exp(stats.norm.logpdf(map_.forward(x)) + map_.log_slope(x))

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

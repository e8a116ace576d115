"""The distributions of a row given its code, against scipy.stats."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import expit

from skrepr import AutoencoderTransformer, VAETransformer
from skrepr._frame import Schema
from skrepr._table import Table
from skrepr.backbones import MLP
from skrepr.likelihoods import Bernoulli, Gaussian


def build(part, X, standardize=True, **options):
    """Return the module of a part, the table of X and X's matrix as a tensor."""
    table = Table.fit(X, standardize=standardize, schema=Schema.fit(X, None, ""))
    matrix = torch.from_numpy(table.to_matrix(X))
    return part.build(table.columns, **options).double(), table, matrix


def normal_rows(n=40):
    return np.random.default_rng(0).normal(size=(n, 3)) * [1, 50, 0.1] + [0, 9, -1]


def binary_rows(n=40):
    return np.random.default_rng(0).binomial(1, [0.5, 0.1, 0.8], size=(n, 3)) * 1.0


def outputs(n=40, draws=()):
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.normal(size=(*draws, n, 3)))


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("scale", [1e-5, 0.3, 2.0])
def test_gaussian_log_density_is_that_of_scipy(standardize, scale):
    X = normal_rows()
    module, table, x = build(Gaussian(scale), X, standardize)
    output = outputs()
    loc = table.from_matrix(output.numpy())  # in the user's units
    expected = stats.norm(loc, scale * table.scale).logpdf(X)
    log_prob = module.log_prob(x, output).numpy()
    assert_allclose(log_prob + module.log_jacobian, expected, rtol=1e-5)


def test_a_learned_scale_starts_at_1_and_has_a_floor():
    module, _, x = build(Gaussian(), normal_rows())
    output = outputs()
    expected = stats.norm(output, 1).logpdf(x)
    assert_allclose(module.log_prob(x, output).detach(), expected)
    with torch.no_grad():
        module.raw_log_scale.fill_(-100)
    assert module.log_prob(x, x).isfinite().all()


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("standardize", [True, False])
def test_a_learned_scale_starts_and_ends_relative_to_the_columns(unit, standardize):
    X = unit * np.column_stack([normal_rows(), np.full(40, 5.0)])
    module, table, _ = build(Gaussian(), X, standardize)
    deviations = table.columns.std[:3]
    start = stats.gmean(deviations)
    assert start == pytest.approx(1 if standardize else stats.gmean(X[:, :3].std(0)))
    assert module.log_scale.exp().item() == pytest.approx(start)
    with torch.no_grad():
        module.raw_log_scale.fill_(-100)
    assert module.log_scale.exp().item() == pytest.approx(start / 1000)


def test_a_learned_scale_of_constant_columns_alone_is_finite():
    module, _, x = build(Gaussian(), np.full((9, 2), 7.0), standardize=False)
    assert module.log_scale.item() == 0
    assert (module.log_prob(x, x) == 0).all()


@pytest.mark.parametrize("scale", [1e-12, 1e9])
@pytest.mark.parametrize("standardize", [True, False])
def test_a_fixed_scale_is_not_clamped(scale, standardize):
    module, _, _ = build(Gaussian(scale), normal_rows(), standardize)
    assert module.log_scale.exp().item() == pytest.approx(scale, rel=1e-5)
    assert list(module.parameters()) == []


def test_the_learned_scale_has_its_maximum_at_the_residuals_standard_deviation():
    module, _, x = build(Gaussian(), normal_rows(500))
    output = x + 0.2 * outputs(500)
    optimizer = torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=200)

    def loss():
        optimizer.zero_grad()
        value = -module.log_prob(x, output).mean()
        value.backward()
        return value

    optimizer.step(loss)
    expected = (x - output).square().mean().sqrt().item()
    assert module.log_scale.exp().item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("standardize", [True, False])
def test_bernoulli_log_probability_is_that_of_scipy(standardize):
    X = binary_rows()
    module, _, x = build(Bernoulli(), X, standardize)
    output = outputs()
    expected = stats.bernoulli(expit(output.numpy())).logpmf(X)
    assert_allclose(module.log_prob(x, output), expected, rtol=1e-5)
    assert_array_equal(module.log_jacobian, 0)


@pytest.mark.parametrize("standardize", [True, False])
def test_bernoulli_cost_of_values_between_is_the_cross_entropy(standardize):
    X = np.random.default_rng(0).uniform(size=(40, 3))
    module, _, x = build(Bernoulli(), X, standardize)
    output = outputs()
    p = expit(output.numpy())
    expected = -(X * np.log(p) + (1 - X) * np.log1p(-p))
    assert_allclose(module.cost(x, output), expected, rtol=1e-5)


def test_bernoulli_cost_is_finite_for_a_certain_decoder():
    module, _, x = build(Bernoulli(), binary_rows())
    assert module.cost(x, 1e4 * outputs()).isfinite().all()


def test_gaussian_cost_is_the_squared_error():
    module, _, x = build(Gaussian(0.1), normal_rows(), noise=False)
    output = outputs()
    assert_allclose(module.cost(x, output), (x - output).square())
    assert list(module.parameters()) == []


@pytest.mark.parametrize("part", [Gaussian(0.5), Bernoulli()])
def test_several_draws_are_evaluated_at_once(part):
    module, _, x = build(part, binary_rows())
    output = outputs(draws=(7,))
    for method in module.log_prob, module.cost:
        each = torch.stack([method(x, one) for one in output])
        assert_allclose(method(x, output), each, rtol=1e-12)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(
    ("part", "X", "moments"),
    [
        (Gaussian(0.5), normal_rows(), lambda table, o: (o, 0.5 * table.scale)),
        (
            Bernoulli(),
            binary_rows(),
            lambda table, o: (expit(o), np.sqrt(expit(o) * expit(-o))),
        ),
    ],
    ids=["gaussian", "bernoulli"],
)
def test_mean_and_samples_have_the_moments_of_the_distribution(
    standardize, part, X, moments
):
    module, table, _ = build(part, X, standardize)
    output = outputs(1).expand(100_000, 3)
    draws = module.sample(output, torch.Generator().manual_seed(0)).numpy()
    rows = module.restore(table.from_matrix(draws))
    if isinstance(part, Gaussian):
        mean, std = table.from_matrix(output[:1].numpy()), 0.5 * table.scale
    else:
        mean, std = moments(table, output[:1].numpy())
    found = module.restore(table.from_matrix(module.mean(output[:1]).numpy()))
    assert_allclose(found, mean, rtol=1e-5)
    error = std / math.sqrt(len(rows))
    assert (np.abs(rows.mean(axis=0) - mean) < 4 * error).all()
    assert_allclose(rows.std(axis=0), np.broadcast_to(std, (1, 3))[0], rtol=0.02)


@pytest.mark.parametrize("part", [Gaussian(0.5), Bernoulli()])
def test_samples_follow_the_generator(part):
    module, _, _ = build(part, binary_rows())
    state = torch.get_rng_state()
    a, b, c = (
        module.sample(outputs(), torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("standardize", [True, False])
def test_bernoulli_rows_are_exactly_0_or_1_in_the_users_units(standardize):
    X = binary_rows()
    X[:, 1] = 0
    X[0, 1] = 1  # a rare feature
    module, table, _ = build(Bernoulli(), X, standardize)
    module = module.float()
    draws = module.sample(outputs().float(), torch.Generator().manual_seed(0))
    rows = module.restore(table.from_matrix(draws.numpy()))
    assert set(rows.ravel()) == {0.0, 1.0}
    assert not np.signbit(rows).any()


@pytest.mark.parametrize("bad", [-0.1, 1.5])
def test_bernoulli_refuses_values_outside_0_and_1(bad):
    X = binary_rows()
    module, _, _ = build(Bernoulli(), X)
    module.check(X)
    X[3, 1] = bad
    with pytest.raises(ValueError, match=rf"column 1 has values from .*{bad}.*MinMax"):
        module.check(X)


def test_restored_bernoulli_rows_stay_between_0_and_1():
    module, _, _ = build(Bernoulli(), binary_rows())
    restored = module.restore(np.array([[-1e-7, 0.25, 1 + 1e-7]]))
    assert_array_equal(restored, [[0.0, 0.25, 1.0]])
    assert not np.signbit(restored).any()


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("value", [0.0, 1 / 3, 0.123456789])
def test_a_constant_column_comes_back_exactly(likelihood, value):
    X = np.column_stack([binary_rows(), np.full(40, value)])
    for estimator in VAETransformer, AutoencoderTransformer:
        fitted = estimator(2, likelihood=likelihood, max_iter=2).fit(X)
        back = fitted.inverse_transform(fitted.transform(X))
        assert_array_equal(back[:, 3], value)
    fitted = VAETransformer(2, likelihood=likelihood, max_iter=2).fit(X)
    assert_array_equal(fitted.sample(5)[:, 3], value)


@pytest.mark.parametrize("part", [Gaussian(0.5), Bernoulli()])
@pytest.mark.parametrize("standardize", [True, False])
def test_a_column_that_does_not_vary_weighs_nothing(part, standardize):
    X = binary_rows()
    with_constant = np.insert(X, 1, 0.25, axis=1)
    module, _, x = build(part, X, standardize)
    wider, _, wide_x = build(part, with_constant, standardize)
    output = outputs()
    wide_output = torch.full((40, 4), 17.0, dtype=torch.double)
    wide_output[:, [0, 2, 3]] = output
    for method in "log_prob", "cost":
        narrow = getattr(module, method)(x, output)
        wide = getattr(wider, method)(wide_x, wide_output)
        assert (wide[:, 1] == 0).all()
        assert_allclose(wide.sum(dim=1), narrow.sum(dim=1))
    assert_allclose(np.delete(wider.log_jacobian, 1), module.log_jacobian)
    assert wider.log_jacobian[1] == 0


@pytest.mark.parametrize("standardize", [True, False])
def test_a_log_density_is_in_the_users_units(standardize):
    # Multiplying a column by a divides its density by a.
    X = normal_rows(100)
    vae = VAETransformer(2, standardize=standardize, max_iter=2, random_state=0).fit(X)
    if standardize:  # powers of 2: the matrix is the same to the last bit
        scaled = vae.score_samples(X)
        other = VAETransformer(2, max_iter=2, random_state=0).fit(X * [1, 1024, 0.25])
        change = -math.log(1024) - math.log(0.25)
        found = other.score_samples(X * [1, 1024, 0.25]) - scaled
        assert_allclose(found, change, atol=1e-6)
    else:
        assert_array_equal(vae.module_.likelihood.log_jacobian, 0)


@pytest.mark.parametrize("standardize", [True, False])
def test_the_density_of_a_fitted_model_integrates_to_1(standardize):
    rng = np.random.default_rng(0)
    X = 0.1 * np.concatenate([rng.normal(-2, 1, 300), rng.normal(3, 0.5, 300)])[:, None]
    vae = VAETransformer(
        1, backbone=MLP((32,)), standardize=standardize, n_importance_samples=256
    ).set_params(max_iter=100, batch_size=100, random_state=0)
    grid = np.linspace(-2, 2, 4001)
    density = np.exp(vae.fit(X).score_samples(grid[:, None]))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=0.02)

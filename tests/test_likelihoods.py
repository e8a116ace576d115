"""The distributions of a row given its code, against scipy.stats."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import expit
from sklearn.base import clone

from skrepr import AutoencoderTransformer, VAETransformer
from skrepr._columns._schema import Schema
from skrepr._columns._table import Table
from skrepr.backbones import MLP
from skrepr.likelihoods import (
    Bernoulli,
    Gaussian,
    Likelihood,
    MixtureOfGaussians,
    NegativeBinomial,
    PerColumn,
    Poisson,
    StudentT,
)
from skrepr.likelihoods._categories import softmax_of
from skrepr.likelihoods._joint import build_likelihood


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


def counts(n=40):
    return np.random.default_rng(0).poisson([0.3, 8, 300], size=(n, 3)) * 1.0


def set_parameters(module, **values):
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(torch.as_tensor(value))


def test_a_scale_of_every_column_is_that_of_scipy_and_has_a_floor():
    X = normal_rows()
    for standardize in True, False:
        module, table, x = build(Gaussian("per_feature"), X, standardize)
        std = table.columns.std
        assert_allclose(module.log_scale.exp().detach(), std, rtol=1e-5)
        set_parameters(module, raw_log_scale=np.log([0.1, 0.5, 2.0]) / 10)
        output = outputs()
        loc, scale = table.from_matrix(output.numpy()), X.std(0) * [0.1, 0.5, 2.0]
        expected = stats.norm(loc, scale).logpdf(X)
        found = module.log_prob(x, output).detach().numpy() + module.log_jacobian
        assert_allclose(found, expected, rtol=1e-5)
        set_parameters(module, raw_log_scale=np.full(3, -100.0))
        assert_allclose(module.log_scale.exp().detach(), 0.01 * std, rtol=1e-5)
    autoencoders, _, _ = build(Gaussian("per_feature"), X, noise=False)
    assert list(autoencoders.parameters()) == []


@pytest.mark.parametrize("standardize", [True, False])
def test_student_t_log_density_is_that_of_scipy(standardize):
    X = normal_rows()
    module, table, x = build(StudentT(df=2.5, scale=0.4), X, standardize)
    assert list(module.parameters()) == []
    output = outputs()
    loc = table.from_matrix(output.numpy())
    expected = stats.t(2.5, loc, 0.4 * table.scale).logpdf(X)
    assert_allclose(
        module.log_prob(x, output).numpy() + module.log_jacobian, expected, rtol=1e-5
    )
    assert_allclose(module.cost(x, output), -module.log_prob(x, output))


def test_learned_degrees_of_freedom_are_found():
    rng = np.random.default_rng(0)
    X = stats.t(3).rvs((20_000, 1), random_state=rng)
    module, table, x = build(StudentT(), X)
    assert module.df.item() == pytest.approx(5)
    assert module.log_scale.item() == pytest.approx(0)
    optimizer = torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=200)
    zero = -torch.from_numpy(table.center / table.scale).expand_as(x)

    def loss():
        optimizer.zero_grad()
        value = -module.log_prob(x, zero).mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert module.df.item() == pytest.approx(3, rel=0.1)
    scale = module.log_scale.exp().item() * table.scale[0]
    assert scale == pytest.approx(1, rel=0.05)
    set_parameters(module, raw_df=1e3)
    assert module.df.item() == pytest.approx(100)
    set_parameters(module, raw_df=-1e3)
    assert module.df.item() == pytest.approx(1)


def components(module, output, table):
    """Return weights, means and standard deviations of a mixture in the user's units.

    Written out from the decoder's output, shape (n, 3 * n_components * d).
    """
    weights, means, scales = (
        output.numpy().reshape(len(output), 3, -1, 3).swapaxes(0, 1)
    )
    columns = table.columns
    k = means.shape[1]
    start = np.linspace(-1.5, 1.5, k) if k > 1 else np.zeros(1)
    means = columns.mean + (start[:, None] + means) * columns.std
    floor = math.log(0.01)
    scales = columns.std * np.exp(floor + np.log1p(np.exp(scales - floor)))
    weights = np.exp(weights) / np.exp(weights).sum(1, keepdims=True)
    return weights, means * table.scale + table.center, scales * table.scale


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("k", [1, 4])
def test_mixture_log_density_is_that_of_scipy(standardize, k):
    X = normal_rows()
    module, table, x = build(MixtureOfGaussians(k), X, standardize)
    assert module.n_outputs == 9 * k
    output = torch.from_numpy(np.random.default_rng(1).normal(size=(40, 9 * k)))
    weights, means, scales = components(module, output, table)
    density = (weights * stats.norm(means, scales).pdf(X[:, None, :])).sum(1)
    found = module.log_prob(x, output).numpy() + module.log_jacobian
    assert_allclose(found, np.log(density), rtol=1e-4)
    assert_allclose(
        table.from_matrix(module.mean(output).numpy()),
        (weights * means).sum(1),
        rtol=1e-5,
    )
    far = torch.full_like(output, -1e4)
    assert module.log_prob(x, far).isfinite().all()


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("part", [Poisson(), NegativeBinomial()])
def test_log_probabilities_of_counts_are_those_of_scipy(standardize, part):
    X = counts()
    module, _, x = build(part, X, standardize)
    output = outputs()
    mean = X.mean(axis=0) * np.exp(output.numpy())
    if isinstance(part, NegativeBinomial):
        r = np.array([0.2, 3.0, 50.0])
        set_parameters(module, raw_log_r=np.log(r) / 10)
        expected = stats.nbinom(r, r / (r + mean)).logpmf(X)
    else:
        expected = stats.poisson(mean).logpmf(X)
    found = module.log_prob(x, output).detach()
    assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert_allclose(module.cost(x, output).detach(), -found)
    assert_array_equal(module.log_jacobian, 0)
    assert_allclose(
        module.float().log_prob(x.float(), output.float()).detach(),
        expected,
        rtol=1e-4,
        atol=2e-3,
    )


@pytest.mark.parametrize("bad", [-1.0, 0.5])
@pytest.mark.parametrize("part", [Poisson(), NegativeBinomial()])
def test_counts_are_whole_numbers_from_0(part, bad):
    X = counts()
    module, _, _ = build(part, X)
    X[2, 0] = np.nan
    module.check(X)
    X[3, 1] = bad
    with pytest.raises(ValueError, match=rf"counts 0, 1, 2.*column 1 holds {bad:g}"):
        module.check(X)


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


def test_samples_of_a_t_distribution_are_those_of_scipy():
    X = normal_rows()
    module, _, _ = build(StudentT(df=4, scale=0.5), X)
    output = outputs(1).expand(50_000, 3)
    draws = module.sample(output, torch.Generator().manual_seed(0)).numpy()
    for j in range(3):
        loc = output[0, j].item()
        assert stats.kstest(draws[:, j], stats.t(4, loc, 0.5).cdf).pvalue > 0.001
    assert_array_equal(module.mean(output), output)


def test_samples_of_a_mixture_are_those_of_scipy():
    module, table, _ = build(MixtureOfGaussians(3), normal_rows(), standardize=False)
    output = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 27)))
    weights, means, scales = (a[0] for a in components(module, output, table))
    output = output.expand(50_000, 27)
    draws = module.sample(output, torch.Generator().manual_seed(0)).numpy()
    for j in range(3):

        def cdf(value, j=j):
            each = stats.norm(means[:, j], scales[:, j]).cdf(value[:, None])
            return each @ weights[:, j]

        assert stats.kstest(draws[:, j], cdf).pvalue > 0.001


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("part", [Poisson(), NegativeBinomial()])
def test_samples_of_counts_are_those_of_scipy(standardize, part):
    X = counts()
    module, table, _ = build(part, X, standardize)
    module = module.float()
    output = outputs(1).float()
    mean = X.mean(axis=0) * np.exp(output.numpy()[0])
    variance = mean if isinstance(part, Poisson) else mean + mean**2  # at r = 1
    n = 50_000
    draws = module.sample(output.expand(n, 3), torch.Generator().manual_seed(0))
    rows = module.restore(table.from_matrix(draws.detach().numpy().astype(float)))
    assert_array_equal(rows, np.rint(rows))
    assert (rows >= 0).all()
    assert (np.abs(rows.mean(0) - mean) < 4 * np.sqrt(variance / n)).all()
    assert_allclose(rows.var(0), variance, rtol=0.05)
    found = module.restore(table.from_matrix(module.mean(output).numpy()))
    assert_allclose(found[0], mean, rtol=1e-5)


@pytest.mark.parametrize(
    "part", [Gaussian(0.5), Bernoulli(), Gaussian("per_feature"), StudentT(), Poisson()]
)
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
        assert_array_equal(fitted.sample(5)[:, 3], value)


@pytest.mark.parametrize(
    "part",
    [
        Gaussian(0.5),
        Gaussian("per_feature"),
        Bernoulli(),
        StudentT(),
        Poisson(),
        NegativeBinomial(),
    ],
)
@pytest.mark.parametrize("standardize", [True, False])
def test_a_column_that_does_not_vary_weighs_nothing(part, standardize):
    X = binary_rows()
    with_constant = np.insert(X, 1, 1.0, axis=1)
    module, _, x = build(part, X, standardize)
    wider, _, wide_x = build(part, with_constant, standardize)
    output = outputs()
    wide_output = torch.full((40, 4), 17.0, dtype=torch.double)
    wide_output[:, [0, 2, 3]] = output
    for method in "log_prob", "cost":
        narrow = getattr(module, method)(x, output).detach()
        wide = getattr(wider, method)(wide_x, wide_output).detach()
        assert (wide[:, 1] == 0).all()
        assert_allclose(wide.sum(dim=1), narrow.sum(dim=1))
    assert_allclose(np.delete(wider.log_jacobian, 1), module.log_jacobian)
    assert wider.log_jacobian[1] == 0


@pytest.mark.parametrize("standardize", [True, "quantile", False])
def test_a_log_density_is_in_the_users_units(standardize):
    # Multiplying a column by a divides its density by a.
    X = normal_rows(100)
    vae = VAETransformer(2, standardize=standardize, max_iter=2, random_state=0).fit(X)
    if standardize:  # powers of 2: the matrix is the same to the last bit
        scaled = vae.score_samples(X)
        other = clone(vae).fit(X * [1, 1024, 0.25])
        change = -math.log(1024) - math.log(0.25)
        found = other.score_samples(X * [1, 1024, 0.25]) - scaled
        assert_allclose(found, change, atol=1e-6)
    else:
        assert_array_equal(vae.module_.likelihood.log_jacobian, 0)


@pytest.mark.filterwarnings("ignore:The posterior has collapsed")
@pytest.mark.parametrize("standardize", [True, "quantile", False])
def test_the_density_of_a_fitted_model_integrates_to_1(standardize):
    rng = np.random.default_rng(0)
    X = 0.1 * np.concatenate([rng.normal(-2, 1, 300), rng.normal(3, 0.5, 300)])[:, None]
    vae = VAETransformer(
        1, backbone=MLP((32,)), standardize=standardize, n_importance_samples=256
    ).set_params(max_iter=50, batch_size=100, random_state=0)
    grid = np.linspace(-2, 2, 1001)
    density = np.exp(vae.fit(X).score_samples(grid[:, None]))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=0.02)


# Several likelihoods side by side, and categories.


def mixed_table(n=60, seed=0):
    """Return a table of numbers, counts and categories with holes, and its matrix."""
    rng = np.random.default_rng(seed)
    X = np.column_stack(
        [
            rng.normal(3, 2, n),
            rng.integers(0, 4, n),
            rng.poisson(4, n),
            rng.integers(0, 3, n),
            rng.integers(0, 16, n),
            rng.normal(size=n),
            np.full(n, 1.0),
        ]
    )
    X[rng.uniform(size=X.shape) < 0.2] = np.nan
    schema = Schema.fit(X, [1, 3, 4, 6], "")
    encoded = schema.read(X, "")
    table = Table.fit(encoded, standardize=True, schema=schema)
    return table, torch.from_numpy(table.to_matrix(encoded)), encoded


def joint(part="gaussian", **options):
    table, x, encoded = mixed_table()
    part = Likelihood.names[part]() if isinstance(part, str) else part
    module = build_likelihood(part, table.columns, **options).double()
    rng = np.random.default_rng(1)
    output = torch.from_numpy(rng.normal(size=(len(x), module.n_outputs)))
    return module, table, x, output, encoded


def test_every_column_has_its_own_distribution():
    poisson, t = Poisson(), StudentT(df=3.0, scale=0.5)
    module, table, x, output, X = joint(PerColumn({2: poisson, 5: t}))
    numbers, levels = [0, 2, 5], table.columns.n_levels
    assert module.n_outputs == 3 + levels[[1, 3, 4]].sum()
    log_prob = module.log_prob(x, output).detach().numpy()
    observed = ~np.isnan(X)
    assert (log_prob[~observed] == 0).all()
    assert (log_prob[:, 6] == 0).all()  # a single level
    log_prob = log_prob + module.log_jacobian
    out = output.numpy()
    scale, center = table.scale, table.center
    expected = [
        stats.norm(out[:, 0] * scale[0] + center[0], scale[0]).logpdf(X[:, 0]),
        stats.poisson(np.nanmean(X[:, 2]) * np.exp(out[:, 1])).logpmf(X[:, 2]),
        stats.t(3, out[:, 2] * scale[5] + center[5], scale[5] / 2).logpdf(X[:, 5]),
    ]
    for j, values in zip(numbers, expected, strict=True):
        rows = observed[:, j]
        assert_allclose(log_prob[rows, j], values[rows], rtol=1e-5)
    start = 3
    for j in sorted((1, 3, 4), key=lambda j: levels[j]):
        logits = out[:, start : start + levels[j]]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        rows = np.flatnonzero(observed[:, j])
        codes = X[rows, j].astype(int)
        assert_allclose(log_prob[rows, j], np.log(p[rows, codes]), rtol=1e-6)
        start += levels[j]


@pytest.mark.parametrize("method", ["log_prob", "cost"])
@pytest.mark.parametrize(
    "part", ["gaussian", "student_t", "mixture", PerColumn({2: "negative_binomial"})]
)
def test_missing_cells_have_no_share_in_the_loss_or_its_slope(part, method):
    module, _, x, output, _ = joint(part)
    output.requires_grad_(True)
    cells = getattr(module, method)(x, output)
    assert cells.isfinite().all()
    assert (cells[x.isnan()] == 0).all()
    cells.sum().backward()
    assert output.grad.isfinite().all()
    slopes = [p.grad for p in module.parameters() if p.grad is not None]
    assert all(slope.isfinite().all() for slope in slopes)
    only = x.clone()
    only[1:] = torch.nan
    output.grad = None
    getattr(module, method)(only, output).sum().backward()
    assert (output.grad[1:] == 0).all()
    assert (output.grad[0] != 0).any()


def test_the_cost_of_predicting_the_frequencies_is_1():
    module, table, x, output, X = joint(noise=False)
    start, levels = 2 + 1, table.columns.n_levels
    for j in sorted((1, 3, 4), key=lambda j: levels[j]):
        frequencies = torch.from_numpy(table.columns.frequencies[j])
        output[:, start : start + levels[j]] = frequencies.log()
        start += levels[j]
    output[:, :3] = 0
    observed = ~np.isnan(X)
    cost = module.cost(x, output).numpy()
    squares = module.residual(x, output).numpy() ** 2
    assert (np.isnan(squares) == ~observed).all()
    for j in range(6):
        rows = observed[:, j]
        assert cost[rows, j].mean() == pytest.approx(1)
        assert squares[rows, j].mean() == pytest.approx(1)
    assert (squares[observed[:, 6], 6] == 0).all()


def test_a_category_that_is_certain_has_no_error():
    module, table, x, output, X = joint(noise=False)
    start, levels = 3, table.columns.n_levels
    for j in sorted((1, 3, 4), key=lambda j: levels[j]):
        codes = torch.from_numpy(np.nan_to_num(X[:, j])).long()
        output[:, start : start + levels[j]] = 0
        output[torch.arange(len(x)), start + codes] = 100
        start += levels[j]
    observed = ~np.isnan(X)
    for j in 1, 3, 4:
        rows = observed[:, j]
        assert module.residual(x, output)[rows, j].abs().max() < 1e-6
        assert module.cost(x, output)[rows, j].abs().max() < 1e-6
        assert_array_equal(module.mean(output)[rows, j], X[rows, j])


def test_a_level_that_never_occurred_is_never_drawn():
    columns = mixed_table()[0].columns
    columns.counts[1][:] = [50, 0, 25, 25]
    module = build_likelihood(Gaussian(), columns)
    output = torch.zeros(2000, module.n_outputs)
    start = 3 + 3  # after the numbers and the column of three levels
    output[:, start + 1] = 100
    assert (module.mean(output)[:, 1] != 1).all()
    draws = module.sample(output, torch.Generator().manual_seed(0))[:, 1].detach()
    assert set(draws.tolist()) == {0.0, 2.0, 3.0}
    # The others are drawn with their probabilities.
    assert (draws == 0).double().mean().item() == pytest.approx(1 / 3, abs=0.05)


def rare_levels(n_frequent=17):
    """Return columns of frequent and rare levels, of rare ones alone, and of few."""
    frequent = np.arange(n_frequent).repeat(10)
    rare = n_frequent + np.repeat(np.arange(6), [1, 1, 1, 2, 2, 2])
    X = np.zeros((len(frequent) + len(rare), 3))
    X[:, 0] = [*frequent, *rare]
    X[:, 1] = np.arange(len(X))
    X[:, 2] = np.arange(len(X)) % 3
    schema = Schema.fit(X, [0, 1, 2], "")
    encoded = schema.read(X, "")
    table = Table.fit(encoded, standardize=True, schema=schema)
    module = build_likelihood(Gaussian(), table.columns).double()
    return module.requires_grad_(False), torch.from_numpy(table.to_matrix(encoded))


def outputs_of(module, logits, *shape):
    """Return outputs for which the levels of the large column have these logits."""
    with torch.no_grad():
        module.get_submodule("part_0.softmax.logits").bias_0.copy_(logits)
    return torch.zeros(*shape, module.n_outputs, dtype=float)


def test_columns_of_many_levels_have_a_vector_whose_levels_start_by_frequency():
    module, x = rare_levels()
    assert module.n_outputs == 3 + 8  # 1.6 * 18 ** 0.56 = 8.07
    zeros = torch.zeros(len(x), module.n_outputs, dtype=float)
    shares = module.log_prob(x, zeros)[:, 0].exp()
    assert_allclose(shares[:170], 10 / 179, rtol=1e-6)
    assert_allclose(shares[170:], [*[1 / 179] * 3, *[2 / 179] * 6], rtol=1e-6)
    assert_allclose(module.log_prob(x, zeros)[:, 2].exp(), 1 / 3)


@pytest.mark.parametrize("size", [1.0, 60.0, 1e3, 1e6])
def test_slopes_of_categories_are_those_of_autograd_however_large_logits_are(size):
    module, x = rare_levels()
    module = module.float().requires_grad_(True)
    rng = np.random.default_rng(0)
    output = rng.normal(size=(len(x), module.n_outputs)) * size
    output = torch.from_numpy(output).float().requires_grad_(True)
    expected = module.log_prob(x.float(), output).sum() / len(x)
    expected.backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    assert gradients
    module.zero_grad()
    with torch.no_grad():
        targets = module.targets(x.float())
        found, slope = module.log_prob_and_slope(targets, output, 1 / len(x))
    assert_allclose(found, expected.detach(), rtol=1e-5)
    assert_allclose(slope, output.grad, rtol=1e-4, atol=1e-7)
    for name, p in module.named_parameters():
        assert_allclose(p.grad, gradients[name], rtol=1e-4, atol=1e-6 * size)


def test_rare_levels_share_an_output_by_their_frequencies():
    module, x = rare_levels()
    logits = torch.linspace(-1, 1, 18, dtype=float)
    output = outputs_of(module, logits, len(x))
    probabilities = logits.softmax(0)
    codes = torch.arange(23).repeat(len(x), 1).T
    every_level = torch.stack([codes[:, 0], 0 * codes[:, 0], 0 * codes[:, 0]], 1)
    found = module.log_prob(every_level.double(), output[:23]).exp()
    expected = probabilities[17] * torch.tensor([1, 1, 1, 2, 2, 2]) / 9
    assert_allclose(found[:17, 0], probabilities[:17])
    assert_allclose(found[17:, 0], expected)
    assert found[:, 0].sum().item() == pytest.approx(1)
    assert_allclose(found[:, 1], 1 / len(x), rtol=1e-6)
    # What the class cannot tell apart is no error, and a column of it alone has none.
    assert module.cost(x, output)[-9:, 0].unique().numel() == 1
    assert (module.cost(x, output)[:, 1] == 0).all()
    assert (module.residual(x, output)[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("rare", "n_declared", "expected"),
    [
        ([2, 2], 1000, 1 / 5),  # as one row
        ([1, 1, 1, 2], 1000, 3 / 8),  # as the levels that occur once
        ([1, 1, 1, 2], 2, 2 / 7),  # each as one of these
    ],
)
def test_declared_levels_do_not_outweigh_rare_ones(rare, n_declared, expected):
    counts = np.array([*[10] * 17, *rare, *[0] * n_declared])
    table, _, _ = mixed_table()
    columns = table.columns[[3]]
    columns = replace(columns, counts=[counts], n_levels=np.array([len(counts)]))
    module = softmax_of(columns)
    output = torch.zeros(1, module.n_outputs)
    every_level = torch.arange(len(counts)).float()[:, None]
    found = module.log_prob(every_level, output.expand(len(counts), -1)).exp()
    assert found.sum().item() == pytest.approx(1, rel=1e-5)
    of_declared = found[-n_declared:].sum() / found[17:].sum()
    assert of_declared.item() == pytest.approx(expected, rel=1e-4)


def test_a_column_of_one_category_of_many_that_are_declared_is_certain():
    pd = pytest.importorskip("pandas")
    levels = [f"level {i}" for i in range(20)]
    X = pd.DataFrame({"x": np.arange(6.0)})
    X["c"] = pd.Categorical(["level 7"] * 6, categories=levels)
    vae = VAETransformer(1, max_iter=1, random_state=0).fit(X)
    likelihood = vae.module_.likelihood
    x, output = torch.zeros(6, 2), torch.zeros(6, likelihood.n_outputs)
    assert (likelihood.log_prob(x, output)[:, 1] == 0).all()
    whole, slope = likelihood.log_prob_and_slope(likelihood.targets(x), output, 1.0)
    assert whole.item() == pytest.approx(likelihood.log_prob(x, output).sum().item())
    assert slope.shape == output.shape
    assert (vae.sample(5)["c"] == "level 7").all()


def test_rare_levels_are_drawn_by_their_frequencies():
    module, _ = rare_levels()
    logits = torch.zeros(18)
    logits[-1] = np.log(17)  # the rare have one half
    output = outputs_of(module, logits, 20_000)
    draws = module.sample(output, torch.Generator().manual_seed(0)).long()
    shares = torch.bincount(draws[:, 0], minlength=23) / len(draws)
    assert_allclose(shares[:17], 0.5 / 17, atol=0.006)
    assert_allclose(shares[17:] * 18, [1, 1, 1, 2, 2, 2], atol=0.15)
    shares = torch.bincount(draws[:, 1], minlength=179) / len(draws)
    assert_allclose(shares, 1 / 179, atol=0.003)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 3), (0.9, 20)])
def test_the_most_probable_level_may_be_rare(share, expected):
    module, _ = rare_levels()
    probabilities = torch.full((18,), (1 - share) / 34)
    probabilities[3] += (1 - share) / 2
    probabilities[17] = share  # levels 20 to 22 have two of its nine rows
    output = outputs_of(module, probabilities.log(), 4, 5)
    assert (module.mean(output)[..., 0] == expected).all()
    weights = torch.full((4, 5), 0.25, dtype=float)
    assert (module.average(output, weights)[:, 0] == expected).all()
    assert (module.average(output, weights)[:, 2] == 0).all()


def test_an_average_of_draws_is_of_numbers_and_of_probabilities():
    module, _, x, _, _ = joint()
    output = torch.from_numpy(
        np.random.default_rng(2).normal(size=(4, len(x), module.n_outputs))
    )
    weights = torch.from_numpy(np.random.default_rng(3).dirichlet([1] * 4, len(x)).T)
    found = module.average(output, weights)
    numbers = [0, 2, 5]
    expected = (weights[..., None] * output[..., :3]).sum(0)
    assert_allclose(found[:, numbers], expected)
    p = (weights[..., None] * output[..., 3:6].softmax(-1)).sum(0)
    assert_array_equal(found[:, 3], p.argmax(-1))
    alone, _, _ = build(Gaussian(), normal_rows())
    expected = (weights[:, :40, None] * output[:, :40, :3]).sum(0)
    assert_allclose(alone.average(output[:, :40, :3], weights[:, :40]), expected)


def test_columns_that_share_a_likelihood_share_its_scale():
    X = normal_rows()
    own = Gaussian()
    for spec, n_scales in [
        ({}, 1),
        ({0: "gaussian"}, 1),
        ({0: own}, 2),
        ({0: own, 1: own}, 2),
        ({0: own, 1: Gaussian()}, 3),
    ]:
        table = Table.fit(X, standardize=True, schema=Schema.fit(X, None, ""))
        module = build_likelihood(PerColumn(spec), table.columns)
        assert len(list(module.parameters())) == n_scales


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({7: "poisson"}, r"column 7, which X does not have. Expected some of 0, 1, 2"),
        ({"a": "poisson"}, r"column 'a', which X does not have"),
        ({1: "poison"}, r"column 1 must be one of the names.*'poisson'.*Got 'poison'"),
        ({1: PerColumn({})}, r"column 1 must be one of the names"),
        ({1: Gaussian(-1.0)}, r"'scale' parameter of Gaussian"),
        ({0: "poisson"}, r"counts 0, 1, 2"),
    ],
)
@pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])
def test_a_likelihood_of_a_column_is_checked(kind, spec, message):
    for likelihood in spec, PerColumn(spec):
        with pytest.raises(ValueError, match=message):
            kind(2, likelihood=likelihood, max_iter=1).fit(normal_rows())


def test_a_categorical_column_has_no_likelihood_to_choose():
    X = np.column_stack([normal_rows(), binary_rows()[:, :1]])
    vae = VAETransformer(2, likelihood={3: "bernoulli"}, max_iter=1)
    vae.fit(X)
    with pytest.raises(ValueError, match=r"column 3, which is categorical"):
        vae.set_params(categorical_features=[3]).fit(X)


def test_a_search_reaches_a_likelihood_by_its_name_and_not_a_dict_of_them():
    vae = VAETransformer(likelihood="student_t").set_params(likelihood__df=3.0)
    assert vae.likelihood.df == 3.0
    vae = VAETransformer(likelihood={0: "poisson"})
    with pytest.raises(ValueError, match=r"which has no parameters"):
        vae.set_params(likelihood__scale=0.5)


@pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])
@pytest.mark.parametrize(
    "likelihood",
    [
        "student_t",
        "mixture",
        "poisson",
        "negative_binomial",
        {1: "poisson", 2: "negative_binomial"},
        Gaussian("per_feature"),
    ],
    ids=str,
)
def test_every_likelihood_trains(kind, likelihood):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(250, 1))
    X = rng.poisson(np.exp([0.5, 1.5, 3.0] + 0.7 * z)) * 1.0
    brief = {"backbone": MLP((32,)), "max_iter": 80, "learning_rate": 0.015}
    fitted = kind(2, likelihood=likelihood, random_state=0, **brief).fit(X)
    assert fitted.history_["loss"][-1] < fitted.history_["loss"][0]
    assert np.isfinite(fitted.score_samples(X)).all()
    errors = fitted.reconstruction_error(X).mean(axis=0)
    assert errors[2] < 0.5
    if kind is VAETransformer:
        drawn = fitted.sample(3000, random_state=0)
        assert_allclose(drawn.mean(axis=0), X.mean(axis=0), rtol=0.2)


@pytest.mark.parametrize("likelihood", [{0: "poisson"}, {0: "student_t"}])
def test_a_column_by_its_likelihood_is_left_to_autograd_and_clones(likelihood):
    X = np.column_stack([counts()[:, 1], normal_rows()])
    vae = VAETransformer(2, likelihood=likelihood, max_iter=2, random_state=0)
    assert_array_equal(clone(vae).fit(X).score_samples(X), vae.fit(X).score_samples(X))

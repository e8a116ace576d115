"""The VAE against probabilistic PCA, and its bound, scores and samples."""

import copy
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from torch import nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal, kl_divergence

from skrepr import VAETransformer
from skrepr._training._sources import Batch
from skrepr.backbones import MLP, Backbone
from skrepr.likelihoods import Gaussian


def rows(n=500):
    """Six correlated columns in very different units."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(n, 3)) * [3, 2, 0.5]
    X = signal @ rng.normal(size=(3, 6)) + 0.5 * rng.normal(size=(n, 6))
    return X * [1, 1e3, 1e-3, 5, 0.1, 1] + [0, 1e4, 0, 0, 3, 100]


def binary_rows(n=200):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(n, 2)) @ rng.normal(size=(2, 7))
    return (rng.logistic(size=(n, 7)) < logits) * 1.0


def make(n_components=2, **params):
    params = {
        "backbone": MLP((16,)),
        "standardize": True,
        "learning_rate": 1e-3,
        "max_iter": 20,
        "random_state": 0,
    } | params
    return VAETransformer(n_components, **params)


def batch(x, progress=1.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.as_tensor(x).float()
    return Batch(x, None, torch.arange(len(x)), torch.tensor(progress), generator)


@pytest.fixture(scope="module")
def fitted():
    return make(3, max_iter=200).fit(rows())


def log_weights(vae, X):
    """Compute log p(x, z) - log q(z|x) of the model's draws, (n_draws, n), anew."""
    module = vae.module_
    with torch.no_grad():
        x = torch.from_numpy(vae.table_.to_matrix(X)).float()
        mean, log_variance = module.encoder(x).chunk(2, dim=1)
        posterior = Normal(mean, (log_variance / 2).exp())
        z = posterior.mean + posterior.stddev * module.noise[:, None, :]
        output = module.decoder(z)
        if vae.likelihood == "bernoulli":
            log_prob = TorchBernoulli(logits=output).log_prob(torch.tensor(X).float())
        else:
            scale = module.likelihood.log_scale.exp()
            log_prob = (
                Normal(output, scale).log_prob(x) - torch.tensor(vae.table_.scale).log()
            )
        ratio = Normal(0, 1).log_prob(z) - posterior.log_prob(z)
        return (log_prob.sum(-1) + ratio.sum(-1)).double().numpy()


# The model.


def test_a_linear_vae_is_probabilistic_pca():
    X = rows()
    scaler = StandardScaler().fit(X)
    pca = PCA(2).fit(scaler.transform(X))
    vae = make(
        backbone=MLP(()), learning_rate=0.02, max_iter=1000, n_importance_samples=256
    ).fit(X)

    noise_variance = vae.module_.likelihood.log_scale.exp().item() ** 2
    assert noise_variance == pytest.approx(pca.noise_variance_, rel=0.02)
    # The marginal covariance of the rows is that of the model.
    weight = vae.module_.decoder[0].weight.double().numpy()
    covariance = weight @ weight.T + noise_variance * np.eye(6)
    assert_allclose(covariance, pca.get_covariance(), atol=0.05)

    # In the user's units the density changes by the scaling's Jacobian.
    expected = pca.score_samples(scaler.transform(X)) - np.log(scaler.scale_).sum()
    scores = vae.score_samples(X)
    assert scores.mean() == pytest.approx(expected.mean(), abs=0.03)
    assert vae.score(X) == pytest.approx(scores.mean())
    assert np.corrcoef(scores, expected)[0, 1] > 0.995
    assert np.abs(scores - expected).mean() < 0.1

    posterior_mean = pca.transform(scaler.transform(X))
    codes = np.column_stack([vae.transform(X), np.ones(len(X))])
    _, residual, *_ = np.linalg.lstsq(codes, posterior_mean, rcond=None)
    assert (residual < 0.01 * np.square(posterior_mean).sum(axis=0)).all()


@pytest.mark.parametrize("standardize", [True, False])
def test_scores_are_densities_in_the_users_units(standardize):
    X = np.random.default_rng(0).normal(size=(1000, 2)) * [0.2, 3] + [5, -1]
    vae = make(standardize=standardize, max_iter=150, learning_rate=0.02)
    scores = vae.set_params(n_importance_samples=64).fit(X).score_samples(X)
    expected = stats.norm([5, -1], [0.2, 3]).logpdf(X).sum(axis=1)
    assert scores.mean() == pytest.approx(expected.mean(), abs=0.15)


# The loss.


def test_the_loss_is_minus_the_elbo():
    vae = make(3, beta=0.7, max_iter=2).fit(rows(100))
    x = torch.from_numpy(vae.table_.to_matrix(rows(100), np.float32))
    terms = vae.module_.loss(batch(x))
    mean, log_variance = vae.module_.posterior(x)
    posterior = Normal(mean, (log_variance / 2).exp())
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1).mean()
    torch.testing.assert_close(terms["kl"], 0.7 * kl, rtol=1e-4, atol=1e-6)

    noise = torch.empty_like(mean).normal_(generator=batch(x).generator)
    output = vae.module_.decoder(mean + posterior.stddev * noise)
    scale = vae.module_.likelihood.log_scale.exp()
    log_prob = Normal(output, scale).log_prob(x).sum(dim=1).mean()
    torch.testing.assert_close(terms["reconstruction"], -log_prob)


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_the_weight_of_the_kl_rises_from_0_to_beta(beta):
    vae = make(3, beta=beta, kl_warmup=0.5, max_iter=2).fit(rows(100))
    x = vae.table_.to_matrix(rows(100), np.float32)
    kl = [vae.module_.loss(batch(x, p))["kl"].item() for p in (0, 0.25, 0.5, 0.9, 1)]
    assert kl[0] == 0
    assert_allclose(np.array(kl[1:]) / kl[-1], [0.5, 1, 1, 1], rtol=1e-5)
    plain = make(3, kl_warmup=0.0, max_iter=2).fit(rows(100))
    full = [plain.module_.loss(batch(x, p))["kl"].item() for p in (0, 1)]
    assert full[0] == full[1] > 0


def test_the_warm_up_shows_in_the_history_but_not_in_validation():
    vae = make(kl_warmup=1.0, max_iter=4, learning_rate=1e-12, early_stopping=True)
    history = vae.fit(rows(100)).history_
    assert_allclose(np.array(history["kl"]) / history["kl"][1], [0, 1, 2, 3], rtol=1e-3)
    assert np.ptp(history["validation_kl"]) < 1e-6


def test_the_kl_of_the_default_network_stays_above_0():
    history = VAETransformer(max_iter=600, random_state=0).fit(rows(100)).history_
    assert history["kl"][-1] > 0.5
    assert_allclose(
        history["loss"], np.add(history["reconstruction"], history["kl"]), rtol=1e-6
    )


def test_latents_the_data_have_no_use_for_stay_at_the_prior():
    Z = np.random.default_rng(0).normal(size=(500, 1))
    X = Z @ np.ones((1, 4)) + 0.3 * np.random.default_rng(1).normal(size=(500, 4))
    codes = make(5, max_iter=400, learning_rate=3e-3).fit(X).transform(X)
    spread = np.sort(codes.std(axis=0))
    assert spread[-1] > 0.9
    assert spread[-2] < 0.3


def test_a_larger_beta_gives_a_smaller_kl():
    divergences = []
    for beta in 0.1, 1.0, 10.0:
        vae = make(3, beta=beta, likelihood=Gaussian(1.0), max_iter=200)
        divergences.append(vae.fit(rows(200)).history_["kl"][-1] / beta)
    assert divergences[0] > 1.5 * divergences[1] > 1.5 * 1.5 * divergences[2]


@pytest.mark.parametrize("size", [1e4, 1e12])
def test_huge_rows_have_a_finite_loss_gradient_and_score(fitted, size):
    module = make(2, max_iter=1).fit(rows(50)).module_.requires_grad_(True)
    x = torch.full((5, 6), size)
    terms = module.loss(batch(x))
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(p.grad.isfinite().all() for p in module.parameters())
    log_variance = module.posterior(x)[1]
    assert log_variance.exp().isfinite().all()
    assert (log_variance.exp() > 0).all()
    assert np.isfinite(fitted.score_samples(rows(5) * size)).all()


# Scores.


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_scores_are_the_importance_weighted_bound_of_the_models_own_draws(likelihood):
    X = binary_rows() if likelihood == "bernoulli" else rows(200)
    vae = make(3, likelihood=likelihood, max_iter=100).fit(X)
    weights = log_weights(vae, X)
    assert weights.shape == (32, 200)
    expected = np.log(np.exp(weights - weights.max(0)).mean(axis=0)) + weights.max(0)
    scores = vae.score_samples(X)
    assert scores.dtype == np.float64
    assert_allclose(scores, expected, rtol=1e-4, atol=1e-3)
    # Never below the ELBO of the same draws, in any row.
    elbo = weights.mean(axis=0)
    assert (scores >= elbo - 1e-4).all()
    assert (scores > elbo + 1e-3).mean() > 0.9


def test_more_draws_raise_the_score():
    X = rows(200)
    vae = make(3, n_importance_samples=128, max_iter=100).fit(X)
    noise = vae.module_.noise
    means = []
    for n in 1, 8, 64:  # the mean score of all the parts of n draws
        scores = []
        for part in noise.split(n):
            vae.module_.noise = part
            scores.append(vae.score_samples(X))
        means.append(np.mean(scores, axis=0))
    assert (np.diff(means, axis=0) > -1e-9).all()
    assert (np.diff(means, axis=0).mean(axis=1) > [0.03, 0.003]).all()


def test_the_number_of_draws_does_not_touch_the_training():
    X = rows(100)
    a, b = (make(n_importance_samples=n, max_iter=3).fit(X) for n in (1, 100))
    assert_array_equal(a.transform(X), b.transform(X))


def test_scores_do_not_depend_on_chance_or_on_company(fitted):
    X = rows()
    scores = fitted.score_samples(X)
    assert_array_equal(fitted.score_samples(X), scores)
    alone = np.concatenate([fitted.score_samples(X[i : i + 1]) for i in range(20)])
    assert_allclose(alone, scores[:20], rtol=1e-7, atol=1e-9)
    many = fitted.score_samples(np.resize(X, (5000, 6)))
    assert_allclose(many[-500:], scores, rtol=1e-7, atol=1e-9)


def test_strange_rows_have_the_lowest_scores(fitted):
    X = rows()
    strange = X[:50] + 6 * X.std(axis=0) * np.eye(6)[np.arange(50) % 6]
    assert fitted.score_samples(strange).max() < np.quantile(
        fitted.score_samples(X), 0.1
    )


@pytest.mark.parametrize("standardize", [True, False])
def test_a_constant_column_contributes_nothing(standardize):
    vae = make(standardize=standardize, max_iter=2).fit(np.insert(rows(50), 2, 5.0, 1))
    X = np.insert(rows(50), 2, 5.0, axis=1)
    elsewhere = X.copy()
    elsewhere[:, 2] = 77
    assert_array_equal(vae.score_samples(elsewhere), vae.score_samples(X))


def test_bernoulli_scores_are_log_probabilities():
    X = binary_rows()[:, :4]
    vae = make(likelihood="bernoulli", max_iter=300, n_importance_samples=512).fit(X)
    every = np.array(np.meshgrid(*[[0.0, 1.0]] * 4)).reshape(4, -1).T
    assert np.exp(vae.score_samples(every)).sum() == pytest.approx(1, abs=0.05)
    assert (vae.score_samples(X) < 0).all()


# Contributions.


def test_contributions_are_means_over_weighted_draws(fitted):
    X = rows(2)
    module = copy.deepcopy(fitted.module_).double()
    matrix, scale = fitted.table_.to_matrix(X), fitted.table_.scale
    noise_scale = module.likelihood.log_scale.exp().item()
    expected = np.empty((2, 6))
    for i in range(2):
        x = torch.from_numpy(matrix[i : i + 1])
        mean, log_variance = module.posterior(x)
        weights, cells = [], []
        for noise in module.noise:
            z = mean + (log_variance / 2).exp() * noise
            output = module.decoder(z).numpy()[0]
            density = stats.norm(output, noise_scale).pdf(matrix[i]) / scale
            cells.append(-np.log(density))
            ratio = Normal(0, 1).log_prob(z) - Normal(
                mean, (log_variance / 2).exp()
            ).log_prob(z)
            weights.append(density.prod() * math.exp(ratio.sum()))
        expected[i] = np.average(cells, axis=0, weights=weights)
        score = math.log(np.mean(weights))
        expected[i] += (-score - expected[i].sum()) / 6
        assert fitted.score_samples(X)[i] == pytest.approx(score)
    assert_allclose(fitted.feature_contributions(X), expected, rtol=1e-6)


def linear_gaussian(weight, offset, scale, widening, n_importance_samples):
    """Make a VAE of one latent with a known posterior, and a wider proposal."""
    vae = make(
        1,
        backbone=MLP(()),
        standardize=False,
        likelihood=Gaussian(scale),
        max_iter=1,
        n_importance_samples=n_importance_samples,
    ).fit(np.random.default_rng(0).normal(size=(20, len(weight))))
    variance = 1 / (1 + weight @ weight / scale**2)
    to_mean = variance * weight / scale**2
    encoder, decoder = vae.module_.encoder.network[0], vae.module_.decoder[0]
    for parameter, value in [
        (decoder.weight, weight[:, None]),
        (decoder.bias, offset),
        (encoder.weight, [to_mean, np.zeros_like(weight)]),
        (encoder.bias, [-to_mean @ offset, math.log(widening * variance)]),
    ]:
        parameter.copy_(torch.as_tensor(np.array(value)))
    return vae


def expected_surprise(row, weight, offset, scale):
    """Return E[-log p(x_j|z) | observed cells], and the divergence from the prior."""
    o = ~np.isnan(row)
    variance = 1 / (1 + weight[o] @ weight[o] / scale**2)
    mean = variance * weight[o] @ (row - offset)[o] / scale**2
    squares = (row - offset - mean * weight) ** 2 + variance * weight**2
    surprise = 0.5 * np.log(2 * np.pi * scale**2) + squares / (2 * scale**2)
    divergence = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    return surprise, divergence


WEIGHT, OFFSET = np.array([1.0, -0.5, 2.0, 0.0]), np.array([0.0, 1.0, -1.0, 0.5])


def test_contributions_of_a_linear_gaussian_model_have_a_closed_form():
    X = np.random.default_rng(1).normal(size=(5, 4)) * 2
    exact = linear_gaussian(WEIGHT, OFFSET, 0.5, 1.0, 32)
    wider = linear_gaussian(WEIGHT, OFFSET, 0.5, 1.5, 5000)
    for row in X:
        surprise, divergence = expected_surprise(row, WEIGHT, OFFSET, 0.5)
        covariance = np.outer(WEIGHT, WEIGHT) + 0.25 * np.eye(4)
        density = multivariate_normal(OFFSET, covariance).logpdf(row)
        assert surprise.sum() + divergence == pytest.approx(-density)
        expected = surprise + divergence / 4
        # The draws have the moments of the posterior: so few of them are exact.
        found = exact.feature_contributions(row[None])[0]
        assert_allclose(found, expected, rtol=1e-4)
        found = wider.feature_contributions(row[None])[0]
        assert_allclose(found, expected, rtol=0.02, atol=0.02)


def test_beside_holes_contributions_are_means_given_the_observed_cells():
    vae = linear_gaussian(WEIGHT, OFFSET, 0.5, 3.0, 5000)
    X = np.random.default_rng(1).normal(size=(4, 4)) * 2
    X[[0, 1, 2, 3], [0, 1, 2, 2]] = np.nan
    found = vae.feature_contributions(X)
    for row, contributions in zip(X, found, strict=True):
        surprise, _ = expected_surprise(row, WEIGHT, OFFSET, 0.5)
        shared = (contributions - surprise)[~np.isnan(row)]  # what all get alike
        assert_allclose(shared, shared.mean(), atol=0.03 * np.nanmax(surprise))


def every_kind(n=60):
    """Columns of every likelihood, of categories, a constant one, and holes."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    X = np.column_stack(
        [
            z + rng.normal(size=n),
            z + rng.standard_t(4, size=n),
            np.where(z > 0, 2.0, -2.0) + rng.normal(size=n),
            rng.logistic(size=n) < z,
            rng.poisson(np.exp(z / 2)),
            rng.negative_binomial(3, 0.5, size=n),
            np.full(n, 7.0),
            rng.integers(3, size=n),
            np.zeros(n),
        ]
    )
    X[rng.random(X.shape) < 0.1] = np.nan
    X[0], X[1, :6], X[2:10] = np.nan, np.nan, np.nan_to_num(X[2:10])
    return X


KINDS = ["gaussian", "student_t", "mixture", "bernoulli", "poisson"]
KINDS = dict(enumerate([*KINDS, "negative_binomial"]))


@pytest.mark.parametrize("standardize", [True, False, "quantile"])
def test_contributions_sum_to_minus_the_score(standardize):
    X = every_kind()
    vae = make(
        likelihood=KINDS,
        categorical_features=[7, 8],
        standardize=standardize,
        max_iter=5,
    ).fit(X)
    X = X[:15]
    contributions = vae.feature_contributions(X)
    assert contributions.dtype == np.float64
    assert_allclose(contributions.sum(axis=1), -vae.score_samples(X), rtol=1e-12)
    single = X.astype(np.float32)
    sums = vae.feature_contributions(single).sum(axis=1)
    assert_allclose(sums, -vae.score_samples(single), rtol=1e-12)
    # Nothing comes from what is missing or was constant; without any value all share.
    assert (contributions[1:][np.isnan(X[1:])] == 0).all()
    assert (contributions[1:, [6, 8]] == 0).all()
    assert_allclose(contributions[0, [0, 1, 2, 3, 4, 5, 7]], contributions[0, 0])
    assert (contributions[0, [6, 8]] == 0).all()
    # They are a row's own.
    assert_array_equal(vae.feature_contributions(X), contributions)
    alone = np.concatenate([vae.feature_contributions(X[i : i + 1]) for i in range(4)])
    assert_allclose(alone, contributions[:4], rtol=1e-7, atol=1e-9)


def test_contributions_of_other_units_differ_by_a_constant():
    X = rows(60)
    units = np.array([1, 1e-3, 1e3, 1, 0.5, 1])
    a, b = (make(max_iter=3).fit(rows_) for rows_ in (X, X * units))
    shift = b.feature_contributions(X * units) - a.feature_contributions(X)
    assert_allclose(shift, np.tile(np.log(units), (60, 1)), atol=1e-4)


def test_a_wrong_cell_has_the_largest_contribution(fitted):
    X, column = rows(), np.arange(60) % 6
    strange = X[:60].copy()
    strange[np.arange(60), column] += 6 * X.std(axis=0)[column]
    contributions = fitted.feature_contributions(strange)
    assert_array_equal(contributions.argmax(axis=1), column)
    # Beside what the columns usually contribute smaller errors are seen.
    strange[np.arange(60), column] -= 2 * X.std(axis=0)[column]
    usual = np.median(fitted.feature_contributions(X), axis=0)
    found = (fitted.feature_contributions(strange) - usual).argmax(axis=1)
    assert (found == column).mean() > 0.95


# Samples.


@pytest.mark.parametrize(
    ("params", "tolerance"),
    [
        ({}, 0.1),
        ({"n_components": 5, "backbone": MLP((64,)), "max_iter": 60}, 0.1),
        ({"n_components": 5, "backbone": MLP(()), "learning_rate": 0.02}, 0.05),
    ],
    ids=["defaults", "5 components", "linear"],
)
def test_samples_have_the_moments_of_the_training_rows(params, tolerance):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(5, 5))
    covariance = factor @ factor.T + 0.2 * np.eye(5)
    X = rng.multivariate_normal(np.zeros(5), covariance, size=1000)
    X = X * [1, 100, 1e-3, 10, 1] + [0, 1e3, 5, -3, 1e6]
    brief = {"max_iter": 100, "learning_rate": 5e-3, "random_state": 0}
    vae = VAETransformer(**(brief | params)).fit(X)
    S = vae.sample(20_000, random_state=0)
    assert (np.abs(S.mean(axis=0) - X.mean(axis=0)) < 0.05 * X.std(axis=0)).all()
    assert_allclose(S.std(axis=0), X.std(axis=0), rtol=tolerance)
    assert_allclose(np.corrcoef(S.T), np.corrcoef(X.T), atol=tolerance)


def test_samples_are_spread_as_the_likelihood_says():
    X = rows(100)
    scale = 0.5
    vae = make(likelihood=Gaussian(scale), backbone=MLP(()), max_iter=300).fit(X)
    weight = vae.module_.decoder[0].weight.numpy()
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50_000, 2, generator=generator)
    drawn = vae.module_.sample(z, generator).numpy()
    expected = np.sqrt(np.square(weight).sum(axis=1) + scale**2)
    assert_allclose(drawn.std(axis=0), expected, rtol=0.02)
    # Where rows end up in the user's units depends on the training rows alone.
    found = vae.sample(5000, random_state=0)
    assert_allclose(found.std(axis=0), X.std(axis=0), rtol=0.05)


def test_random_state_fixes_the_samples(fitted):
    state = torch.get_rng_state(), check_random_state(None).get_state()[1].tolist()
    a = fitted.sample(10, random_state=3)
    assert_array_equal(fitted.sample(10, random_state=3), a)
    assert not np.allclose(fitted.sample(10, random_state=4), a)
    stream = np.random.RandomState(0)
    first, second = (fitted.sample(10, random_state=stream) for _ in range(2))
    assert not np.allclose(first, second)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert check_random_state(None).get_state()[1].tolist() == state[1]
    assert not np.allclose(fitted.sample(1), fitted.sample(1))


def test_samples_come_in_the_container_of_the_training_rows():
    X = pd.DataFrame(rows(50), columns=list("abcdef"))
    X.insert(2, "constant", 1 / 3)
    vae = make(max_iter=2).fit(X)
    S = vae.sample(np.int64(7), random_state=0)
    assert S.columns.tolist() == X.columns.tolist()
    assert len(S) == 7
    assert (S["constant"] == 1 / 3).all()
    assert (S.dtypes == np.float64).all()
    assert len(vae.sample()) == 1
    S = make(max_iter=2).fit(pl.from_pandas(X)).sample(3)
    assert isinstance(S, pl.DataFrame)
    assert S.columns == X.columns.tolist()


def test_bernoulli_samples_are_0_or_1_in_the_proportions_of_the_columns():
    X = binary_rows(500)
    vae = make(likelihood="bernoulli", max_iter=200, learning_rate=1e-2).fit(X)
    S = vae.sample(5000, random_state=0)
    assert set(S.ravel()) == {0.0, 1.0}
    assert not np.signbit(S).any()
    assert_allclose(S.mean(axis=0), X.mean(axis=0), atol=0.06)
    assert_allclose(np.corrcoef(S.T), np.corrcoef(X.T), atol=0.2)


@pytest.mark.filterwarnings("ignore:The posterior has collapsed")
def test_without_standardising_the_unit_of_the_columns_hardly_matters():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 5))
    X += 0.3 * rng.normal(size=X.shape)
    X /= X.std(axis=0)
    vae = VAETransformer(
        2,
        backbone=MLP((128,)),
        standardize=False,
        learning_rate=1e-3,
        max_iter=700,
        random_state=0,
        n_importance_samples=64,
    )
    expected = vae.fit(X).score(X)
    for unit in 0.01, 100.0:
        score = vae.fit(unit * X).score(unit * X) + 5 * math.log(unit)
        assert score == pytest.approx(expected, abs=6)  # 17 after 100 epochs
        spread = vae.sample(5000, random_state=0).std(axis=0)
        assert_allclose(spread / unit, 1, atol=0.3)


@pytest.mark.parametrize("n_samples", [0, -1, 2.0, "3", None, True, False, np.True_])
def test_the_number_of_samples_must_be_a_positive_integer(fitted, n_samples):
    with pytest.raises(ValueError, match="n_samples must be a positive integer"):
        fitted.sample(n_samples)


# Codes.


def test_codes_are_posterior_means(fitted):
    X = rows()
    x = torch.from_numpy(fitted.table_.to_matrix(X, np.float32))
    with torch.no_grad():
        mean = fitted.module_.encoder(x)[:, :3]
    assert_allclose(fitted.transform(X), mean, atol=1e-4)


def test_reconstructions_are_those_of_the_posterior_mean(fitted):
    X = rows()
    decoded = fitted.inverse_transform(fitted.transform(X))
    errors = np.square((decoded - X) / X.std(axis=0))
    assert_allclose(fitted.reconstruction_error(X), errors, rtol=1e-5, atol=1e-10)
    assert errors.mean() < 0.5


def test_early_stopping_waits_for_the_warm_up():
    X = np.random.default_rng(0).normal(size=(60, 3))
    params = {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 60, "tol": 1e9}
    assert make(kl_warmup=0.5, **params).fit(X).n_iter_ == 30 + 2
    assert make(kl_warmup=0.0, **params).fit(X).n_iter_ == 1 + 2
    assert math.isfinite(make(kl_warmup=1.0, **params).fit(X).score(X))


# Missing values and categories.


def normal_with_holes(n=3000, share=0.25, seed=0):
    """Rows of a two-factor normal distribution, a copy with holes, mean, covariance."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(7).normal(size=(2, 5))
    mean, scale = np.array([0, 10, -3, 100, 1.0]), np.array([1, 5, 0.1, 20, 1])
    X = rng.normal(size=(n, 2)) @ loadings + 0.4 * rng.normal(size=(n, 5))
    holes = rng.uniform(size=X.shape) < share
    covariance = (loadings.T @ loadings + 0.16 * np.eye(5)) * np.outer(scale, scale)
    X = X * scale + mean
    return X, np.where(holes, np.nan, X), mean, covariance


def conditional(X, mean, covariance):
    """Return the log-density of what is observed, and the mean of what is not."""
    log_density, filled = np.zeros(len(X)), X.copy()
    for i, row in enumerate(X):
        o = ~np.isnan(row)
        if o.any():
            normal = multivariate_normal(mean[o], covariance[np.ix_(o, o)])
            log_density[i] = normal.logpdf(row[o])
            rest = covariance[np.ix_(~o, o)]
            weights = np.linalg.solve(covariance[np.ix_(o, o)], (row - mean)[o])
            filled[i, ~o] = mean[~o] + rest @ weights
        else:
            filled[i] = mean
    return log_density, filled


@pytest.fixture(scope="module")
def with_holes():
    X = normal_with_holes()[1]
    vae = make(2, backbone=MLP((64,)), max_iter=60, n_importance_samples=128)
    return vae.set_params(learning_rate=3e-3).fit(X)


def test_the_density_of_rows_with_holes_is_that_of_the_observed_cells(with_holes):
    _, X, mean, covariance = normal_with_holes(300, seed=1)
    expected = conditional(X, mean, covariance)[0]
    found = with_holes.log_likelihood(X)
    assert np.corrcoef(found, expected)[0, 1] > 0.98
    assert found.mean() == pytest.approx(expected.mean(), abs=0.3)
    nothing = with_holes.log_likelihood(np.full((1, 5), np.nan))
    assert nothing == pytest.approx(0, abs=0.1)


def test_a_row_is_not_stranger_for_its_holes(with_holes):
    whole, X, *_ = normal_with_holes(300, seed=1)
    complete, holed = with_holes.score_samples(whole), with_holes.score_samples(X)
    assert_array_equal(complete, with_holes.log_likelihood(whole))
    spread = complete.std()
    assert holed.mean() == pytest.approx(complete.mean(), abs=0.2 * spread)
    n_holes = np.isnan(X).sum(axis=1)
    assert abs(stats.spearmanr(n_holes, holed).statistic) < 0.15
    # The fewer cells there are, the less there is to be strange.
    assert holed.std() < spread
    # Scores are a row's own, whatever stands beside it.
    lacking = np.flatnonzero(n_holes)[:3]
    assert_allclose(with_holes.score_samples(X[lacking]), holed[lacking], rtol=1e-7)
    assert_allclose(with_holes.score_samples(X[5:9]), holed[5:9], rtol=1e-7)


def test_missing_cells_are_drawn_given_the_rest(with_holes):
    _, X, mean, covariance = normal_with_holes(200, seed=1)
    draws = [  # of each generator all rows get the same random numbers
        with_holes._of_draws("complete", X, torch.Generator().manual_seed(seed))
        for seed in range(20)
    ]
    drawn, holes = np.concatenate(draws, axis=1).swapaxes(0, 1), np.isnan(X)
    table = with_holes.table_
    assert (drawn[:, ~holes] == table.to_matrix(X)[~holes]).all()
    error = drawn - table.to_matrix(conditional(X, mean, covariance)[1])
    assert error[:, holes].mean() == pytest.approx(0, abs=0.05)
    expected = np.zeros((5, 5))
    for o in ~holes:
        rest, known = covariance[np.ix_(~o, o)], covariance[np.ix_(o, o)]
        given = covariance[np.ix_(~o, ~o)] - rest @ np.linalg.solve(known, rest.T)
        expected[np.ix_(~o, ~o)] += given / np.outer(table.std, table.std)[~o][:, ~o]
    found = np.einsum("knj,kni->ji", error, error) / len(drawn)
    # The noise of all columns has one scale in this model, so only their sum is right.
    assert found.trace() == pytest.approx(expected.trace(), rel=0.2)
    beside = ~np.eye(5, dtype=bool)
    assert np.corrcoef(found[beside], expected[beside])[0, 1] > 0.8


@pytest.mark.parametrize(
    "likelihood", ["gaussian", "student_t", "mixture", "poisson", "negative_binomial"]
)
def test_what_is_drawn_for_a_row_does_not_depend_on_the_rows_beside_it(likelihood):
    rng = np.random.default_rng(0)
    X = rng.poisson(3.0, size=(60, 6)).astype(float)
    X[rng.random(X.shape) < 0.2] = np.nan
    X[:, 5] = np.nan_to_num(X[:, 5]) > 2
    X[::3, 5] = np.nan
    vae = make(likelihood={j: likelihood for j in range(4)} | {4: "bernoulli"})
    vae.set_params(categorical_features=[5], max_iter=2)
    X[:, 4] = np.where(np.isnan(X[:, 4]), np.nan, X[:, 4] > 2)
    vae.fit(X)
    together = vae._completed(X)
    for i in (0, 7, 59):
        assert_allclose(vae._completed(X[[i]])[0], together[i], rtol=1e-7)
    assert_allclose(vae._completed(X[20:45]), together[20:45], rtol=1e-7)
    varied = together[np.isnan(X[:, 0]), :, 0]
    assert (varied.std(axis=1) > 0).all()


class Unlearned(Backbone):
    """Networks without parameters."""

    def encoder(self, n_inputs, n_outputs):
        return nn.AdaptiveAvgPool1d(n_outputs)

    decoder = encoder


def test_networks_may_have_no_parameters():
    X = np.random.default_rng(0).normal(size=(40, 6))
    vae = make(backbone=Unlearned(), max_iter=2).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()


def test_a_strange_cell_is_seen_beside_holes(with_holes):
    _, X, *_ = normal_with_holes(300, seed=1)
    X = X[~np.isnan(X).all(axis=1)]
    strange = X.copy()
    rows, column = np.arange(len(X)), np.nanargmax(np.abs(X), axis=1)
    strange[rows, column] += 8 * np.nanstd(X, axis=0)[column]
    scores = with_holes.score_samples(X), with_holes.score_samples(strange)
    assert (scores[1] < np.quantile(scores[0], 0.01)).mean() > 0.95


def test_holes_are_filled_with_the_mean_given_the_rest(with_holes):
    whole, X, mean, covariance = normal_with_holes(300, seed=1)
    filled = with_holes.impute(X)
    holes = np.isnan(X)
    assert_array_equal(filled[~holes], X[~holes])
    std = np.sqrt(covariance.diagonal())
    best = conditional(X, mean, covariance)[1]

    def error(guess):
        return np.square((guess - whole) / std)[holes].mean()

    assert error(filled) < error(best) + 0.05 < 0.55 * error(mean)
    # Codes that were drawn near the posterior mean count most, not those alone.
    decoded = with_holes.inverse_transform(with_holes.transform(X))
    assert error(filled) < error(decoded) + 0.01


def test_holes_that_were_not_there_in_training_are_filled_too():
    whole, X, mean, covariance = normal_with_holes(600, share=0.1)
    vae = make(2, backbone=MLP((64,)), max_iter=300).fit(whole)
    holes = np.isnan(X)
    std = np.sqrt(covariance.diagonal())
    errors = np.square((vae.impute(X) - whole) / std)[holes].mean()
    assert errors < 0.6 * np.square((mean - whole) / std)[holes].mean()
    assert np.isfinite(vae.score_samples(X)).all()
    assert_array_equal(np.isnan(vae.reconstruction_error(X)), holes)


def test_the_loss_counts_observed_cells_alone():
    X = normal_with_holes(50)[1]
    X[0] = np.nan
    vae = make(max_iter=1).fit(X)
    x, module = vae.table_.to_matrix(X, np.float32), vae.module_
    whole = module.loss(batch(x))
    # A row without cells costs what its code costs, whatever the decoder says of it.
    output = module.likelihood.log_prob(torch.from_numpy(x), torch.zeros(50, 5))
    assert (output[0] == 0).all()
    assert torch.isfinite(whole["reconstruction"])
    assert torch.isfinite(whole["kl"])


def test_rows_of_categories_are_learned_and_drawn():
    rng = np.random.default_rng(0)
    z = rng.normal(size=1000)
    kind = np.digitize(z, [-0.5, 0.5])
    X = np.column_stack([z + 0.1 * rng.normal(size=1000), kind, rng.permutation(kind)])
    vae = make(2, categorical_features=[1, 2], max_iter=100, learning_rate=0.01).fit(X)
    drawn = vae.sample(4000, random_state=0)
    for j in 1, 2:
        shares = [(drawn[:, j] == k).mean() for k in range(3)]
        assert_allclose(shares, [(kind == k).mean() for k in range(3)], atol=0.06)
    low, middle, high = (drawn[drawn[:, 1] == k, 0].mean() for k in range(3))
    assert low < -0.6 < -0.3 < middle < 0.3 < 0.6 < high
    strange = np.array([[2.0, 0.0, 1.0], [2.0, 2.0, 1.0]])
    scores = vae.score_samples(strange)
    assert scores[0] < scores[1] - 2
    holes = np.array([[2.0, np.nan, 1.0], [-2.0, np.nan, 1.0]])
    assert_array_equal(vae.impute(holes)[:, 1], [2, 0])


# Generation's tools.


def test_the_bound_reaches_the_density_of_a_known_mixture():
    rng = np.random.default_rng(0)
    means, scale = np.array([[-3.0, 0.0], [3.0, 2.0]]), np.array([0.5, 1.0])

    def draw(n):
        return means[rng.integers(2, size=n)] + scale * rng.normal(size=(n, 2))

    X, new = draw(3000), draw(1000)
    vae = VAETransformer(
        2,
        standardize=True,
        learning_rate=3e-3,
        max_iter=100,
        n_importance_samples=256,
        random_state=0,
    ).fit(X)
    expected = np.log(
        np.mean([stats.norm(m, scale).pdf(new).prod(axis=1) for m in means], axis=0)
    )
    found = vae.log_likelihood(new)
    assert found.mean() == pytest.approx(expected.mean(), abs=0.15)
    assert found.mean() < expected.mean() + 0.02  # nothing fits better than the truth
    assert np.corrcoef(found, expected)[0, 1] > 0.95


def test_normal_scores_keep_log_likelihoods_in_the_users_units():
    X = np.random.default_rng(0).lognormal(size=(3000, 2)) * [1, 1000]
    new = np.random.default_rng(1).lognormal(size=(1000, 2)) * [1, 1000]
    expected = stats.lognorm(1, scale=[1, 1000]).logpdf(new).sum(axis=1)
    brief = {"backbone": MLP((64,)), "learning_rate": 3e-3, "max_iter": 50}
    vae = VAETransformer(2, random_state=0, **brief)
    found = vae.fit(X).log_likelihood(new)
    assert found.mean() == pytest.approx(expected.mean(), abs=0.15)
    assert np.corrcoef(found, expected)[0, 1] > 0.8
    linear = vae.set_params(standardize=True).fit(X).log_likelihood(new)
    assert found.mean() > linear.mean()


def test_terms_of_the_elbo(fitted):
    X = rows(50)
    terms = fitted.elbo(X)
    assert_allclose(terms["elbo"], terms["reconstruction"] - terms["kl"])
    x = torch.from_numpy(fitted.table_.to_matrix(X)).float()
    with torch.no_grad():
        mean, log_variance = fitted.module_.posterior(x)
        posterior = Normal(mean, (log_variance / 2).exp())
        kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    assert_allclose(terms["kl"], kl, rtol=1e-4)
    # Jensen's inequality, of the very same draws.
    weights = log_weights(fitted, X)
    bound = np.logaddexp.reduce(weights) - math.log(len(weights))
    assert (weights.mean(axis=0) < bound).all()
    assert (terms["elbo"] < fitted.log_likelihood(X)).all()
    assert_allclose(terms["elbo"], weights.mean(axis=0), rtol=1e-3)


def test_draws_are_made_in_parts_of_bounded_size(monkeypatch, fitted):
    X = rows(50)
    expected = fitted.log_likelihood(X), fitted.elbo(X)["elbo"]
    contributions = fitted.feature_contributions(X)
    monkeypatch.setattr("skrepr._estimators._vae_module._MAX_DRAWS", 50)
    assert_allclose(fitted.log_likelihood(X), expected[0], rtol=1e-10)
    assert_allclose(fitted.elbo(X)["elbo"], expected[1], rtol=1e-10)
    assert_allclose(fitted.feature_contributions(X), contributions, rtol=1e-8)


@pytest.mark.parametrize("by_hand", [True, False])
def test_free_bits_cost_the_same_and_bring_no_gradient(by_hand):
    X = rows(200)
    vae = make(3, free_bits=100.0, kl_warmup=0.0, max_iter=3)
    if not by_hand:
        vae.set_params(backbone=MLP((16,), norm="layer"))
    vae.fit(X)
    assert_allclose(vae.history_["kl"], 300, rtol=1e-5)
    # Without a cost of the code the reconstruction is that of beta=0.
    free = vae.history_["reconstruction"]
    vae.set_params(free_bits=0.0, beta=0.0).fit(X)
    assert_allclose(vae.history_["reconstruction"], free, rtol=1e-5)


def test_free_bits_keep_latents_alive():
    X = np.random.default_rng(0).normal(size=(1024, 4))
    vae = make(2, beta=5.0, max_iter=150)
    with pytest.warns(UserWarning, match="The posterior has collapsed.*free_bits"):
        vae.fit(X)
    assert not vae.active_units_.any()
    vae.set_params(free_bits=0.5).fit(X)
    assert vae.active_units_.all()
    assert_array_equal(
        vae.active_units_, vae.transform(X).var(axis=0) >= 0.01, strict=True
    )

"""Latent densities: moments of what they draw, and estimators in their place."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_iris
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.neighbors import KernelDensity as SklearnKernelDensity

from skrepr import AutoencoderTransformer, VAETransformer
from skrepr.latent_densities import GaussianMixture, KernelDensity, Prior


def draw(density, n=20_000, seed=0):
    return density.sample(n, torch.Generator().manual_seed(seed)).numpy()


@pytest.fixture(scope="module")
def codes():
    """Two far clusters of correlated codes, in different units."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(600, 3)) @ rng.normal(size=(3, 3))
    Z[200:] += [8, 0, -8]
    return Z * [1, 10, 0.1] + [0, 5, 1]


@pytest.mark.parametrize(
    "part", [KernelDensity(0.3), KernelDensity(1.0), GaussianMixture()]
)
def test_draws_have_the_moments_of_the_codes(part, codes):
    drawn = draw(part.build(codes, 0))
    std = codes.std(axis=0)
    assert_allclose(drawn.mean(axis=0) / std, codes.mean(axis=0) / std, atol=0.05)
    expected = np.cov(codes.T) / np.outer(std, std)
    assert_allclose(np.cov(drawn.T) / np.outer(std, std), expected, atol=0.06)


def test_the_prior_is_standard_normal(codes):
    drawn = draw(Prior().build(codes, 0))
    assert_allclose(drawn.mean(axis=0), 0, atol=0.03)
    assert_allclose(np.cov(drawn.T), np.eye(3), atol=0.03)


def test_the_mixture_finds_the_clusters(codes):
    mixture = GaussianMixture().build(codes, 0)
    assert len(mixture.weights) == 2
    assert_allclose(np.sort(mixture.weights), [1 / 3, 2 / 3], atol=1e-3)
    reference = SklearnMixture(2, random_state=0).fit(codes / codes.std(axis=0))
    means = reference.means_ * codes.std(axis=0)
    found = mixture.means.numpy()
    order = np.argsort(found[:, 0]), np.argsort(means[:, 0])
    assert_allclose(found[order[0]], means[order[1]], rtol=1e-3)
    assert len(GaussianMixture(max_components=1).build(codes, 0).weights) == 1


def test_a_small_bandwidth_stays_with_the_codes_and_a_large_one_leaves_them(codes):
    scale = codes.std(axis=0)
    nearest = [
        np.mean([np.linalg.norm((codes - z) / scale, axis=1).min() for z in drawn])
        for drawn in (
            draw(KernelDensity(h).build(codes, 0), 200) for h in (0.01, 0.3, 1.0)
        )
    ]
    assert nearest[0] < 0.1 < nearest[1] < nearest[2]


def test_components_that_do_not_vary_stay(codes):
    codes = codes.copy()
    codes[:, 1] = 4.0
    for part in (KernelDensity(), GaussianMixture()):
        assert_allclose(draw(part.build(codes, 0))[:, 1], 4, atol=0.1)


@pytest.mark.parametrize(
    "estimator",
    [
        SklearnMixture(3),
        BayesianGaussianMixture(n_components=3, max_iter=300),
        SklearnKernelDensity(bandwidth=0.3),
    ],
)
def test_an_estimator_in_the_place_of_a_density(estimator):
    X = load_iris().data
    before = estimator.get_params()
    vae = VAETransformer(2, latent_density=estimator, max_iter=5, random_state=0).fit(X)
    assert estimator.get_params() == before
    assert not hasattr(estimator, "n_features_in_")
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    a, b = (vae.sample(50, random_state=3) for _ in range(2))
    assert_array_equal(a, b)
    assert (a != vae.sample(50, random_state=4)).any()
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert clone(vae).fit(X).sample(2, random_state=0).shape == (2, 4)


def test_parameters_of_a_density_can_be_searched():
    vae = VAETransformer().set_params(latent_density__max_components=3)
    assert vae.latent_density.max_components == 3
    ae = AutoencoderTransformer().set_params(latent_density__bandwidth=0.3)
    assert ae.latent_density.bandwidth == 0.3


def test_what_cannot_draw_is_no_density():
    class Odd(BaseEstimator):
        def fit(self, X):
            return self

    ae = AutoencoderTransformer(latent_density=Odd())
    with pytest.raises(ValueError, match="latent_density"):
        ae.fit(load_iris().data)
    with pytest.raises(ValueError, match="bandwidth"):
        AutoencoderTransformer(latent_density=KernelDensity(2.0)).fit(load_iris().data)

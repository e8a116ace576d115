"""Random changes of rows, for denoising and for contrastive views."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import ks_2samp

from skrepr._table import Table
from skrepr.augmentations import (
    Compose,
    FeatureCorruption,
    FeatureMasking,
    GaussianNoise,
)

ALL = {
    "noise": GaussianNoise(0.5),
    "masking": FeatureMasking(0.4),
    "corruption": FeatureCorruption(0.4),
    "composition": Compose("feature_corruption", "gaussian_noise"),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def correlated(n=20_000):
    """Rows of three columns in different units, the first two nearly equal."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 1))
    X = np.hstack([z, z + 0.1 * rng.normal(size=(n, 1)), rng.exponential(size=(n, 1))])
    return X * [1, 50, 0.2] + [0, 1000, 3]


def augment(part, X, standardize=True, seed=0):
    """Return the matrix of X, its augmented copy and the column layout."""
    table = Table.fit(X, standardize=standardize, original=X)
    matrix = torch.from_numpy(table.to_matrix(X, np.float32))
    changed = part.build(table.columns)(matrix, generator(seed))
    return matrix.numpy(), changed.numpy(), table.columns


@pytest.mark.parametrize("part", ALL.values(), ids=ALL)
def test_the_generator_decides_everything(part):
    X = correlated(50)
    state = torch.get_rng_state()
    before, a, _ = augment(part, X)
    assert np.array_equal(a, augment(part, X)[1])
    assert not np.array_equal(a, augment(part, X, seed=1)[1])
    assert not np.array_equal(a, before)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("part", ALL.values(), ids=ALL)
def test_two_draws_from_one_generator_differ(part):
    X = correlated(50)
    table = Table.fit(X, standardize=True, original=X)
    matrix = torch.from_numpy(table.to_matrix(X, np.float32))
    module, draws = part.build(table.columns), generator()
    assert not torch.equal(module(matrix, draws), module(matrix, draws))


@pytest.mark.parametrize("part", ALL.values(), ids=ALL)
def test_the_batch_itself_is_not_changed(part):
    X = correlated(50)
    table = Table.fit(X, standardize=True, original=X)
    matrix = torch.from_numpy(table.to_matrix(X, np.float32))
    before = matrix.clone()
    part.build(table.columns)(matrix, generator())
    assert torch.equal(matrix, before)


@pytest.mark.parametrize(
    "part",
    [
        GaussianNoise(0.0),
        FeatureMasking(0.0),
        FeatureCorruption(0.0),
        Compose(FeatureMasking(0.0), FeatureCorruption(0.0)),
    ],
    ids=ALL,
)
def test_at_rate_0_nothing_changes(part):
    before, after, _ = augment(part, correlated(100))
    assert np.array_equal(before, after)


@pytest.mark.parametrize("standardize", [True, False])
def test_every_row_draws_its_own_scale_of_the_noise(standardize):
    part = GaussianNoise(scale=(0.5, 2.0))
    before, after, columns = augment(part, correlated(20_000), standardize)
    noise = (after.astype(float) - before) / columns.std
    # E[noise²] = E[scale²], E[noise⁴] = 3 E[scale⁴]; columns of a row share the scale.
    second = (2.0**3 - 0.5**3) / (3 * 1.5)
    fourth = (2.0**5 - 0.5**5) / (5 * 1.5)
    assert_allclose(np.square(noise).mean(0), second, rtol=0.03)
    assert_allclose((noise**4).mean(0), 3 * fourth, rtol=0.1)
    shared = (np.square(noise[:, 0]) * np.square(noise[:, 1])).mean()
    assert shared == pytest.approx(fourth, rel=0.1)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize(
    "scale", [(1.0, 0.5), (-0.1, 1.0), (0.0,), (0.0, 1.0, 2.0), (0.0, np.inf), ("a", 1)]
)
def test_a_pair_that_is_no_range_is_an_error(scale):
    with pytest.raises(ValueError, match=r"'scale' .*GaussianNoise.*lowest, highest"):
        augment(GaussianNoise(scale), correlated(9))


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_noise_is_in_standard_deviations_of_the_column(standardize, scale):
    before, after, columns = augment(GaussianNoise(scale), correlated(), standardize)
    noise = (after.astype(float) - before) / columns.std
    assert_allclose(noise.mean(axis=0), 0, atol=0.03 * scale)
    assert_allclose(noise.std(axis=0), scale, rtol=0.02)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("standardize", [True, False])
def test_masked_cells_hold_the_mean_of_their_column(standardize):
    X = correlated(400)
    everything = augment(FeatureMasking(1.0), X, standardize)
    expected = np.broadcast_to(everything[2].mean, X.shape)
    assert_allclose(everything[1], expected, rtol=1e-6, atol=1e-6)
    before, after, _ = augment(FeatureMasking(0.5), X, standardize)
    kept = before == after
    assert_allclose(after[~kept], expected[~kept], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("part", [FeatureMasking, FeatureCorruption])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_the_share_of_changed_cells(part, rate):
    before, after, _ = augment(part(rate), correlated())
    changed = before != after
    assert_allclose(changed.mean(axis=0), rate, atol=0.015)
    # Cells are chosen by themselves, not by row.
    assert np.abs(np.corrcoef(changed.T) - np.eye(3)).max() < 0.03


def test_corruption_takes_the_values_of_the_column_itself():
    before, after, _ = augment(FeatureCorruption(1.0), correlated(500))
    for j in range(3):
        assert set(after[:, j]) < set(before[:, j])


def test_corruption_keeps_marginals_and_breaks_dependence():
    before, after, _ = augment(FeatureCorruption(1.0), correlated())
    assert (ks_2samp(before, after).statistic < 0.02).all()
    assert np.corrcoef(before.T)[0, 1] > 0.99
    assert np.abs(np.corrcoef(after.T) - np.eye(3)).max() < 0.03


def test_a_composition_applies_one_after_the_other():
    X = correlated(50)
    table = Table.fit(X, standardize=True, original=X)
    matrix = torch.from_numpy(table.to_matrix(X, np.float32))
    first, second = FeatureMasking(0.5), GaussianNoise(0.3)
    draws = generator(3)
    by_hand = first.build(table.columns)(matrix, draws)
    by_hand = second.build(table.columns)(by_hand, draws)
    composed = Compose(first, second).build(table.columns)(matrix, generator(3))
    assert torch.equal(composed, by_hand)


@pytest.mark.parametrize("part", ALL.values(), ids=ALL)
@pytest.mark.parametrize("standardize", [True, False])
def test_a_constant_column_stays_as_it_is(part, standardize):
    X = np.column_stack([correlated(50)[:, 0], np.full(50, 7.0)])
    _, after, _ = augment(part, X, standardize)
    assert (after[:, 1] == 0).all()

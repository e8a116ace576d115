"""Contrastive learning: views, codes and the score."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_random_state
from torch import nn

from skrepr import ContrastiveTransformer
from skrepr._training import Batch
from skrepr.augmentations import Compose, FeatureCorruption, FeatureMasking
from skrepr.backbones import MLP, Backbone
from skrepr.objectives import NTXent, nt_xent


def rows(n=300):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3)) @ rng.normal(size=(3, 8)) + 0.2 * rng.normal(
        size=(n, 8)
    )
    return X * [1, 10, 100, 1e-3, 1, 1, 1, 1] + [0, 0, 1e4, 0, 3, 0, 0, 0]


def make(n_components=4, **params):
    params = {"backbone": MLP((32,)), "max_iter": 30, "random_state": 0} | params
    return ContrastiveTransformer(n_components, **params)


def test_codes_are_the_encoders_output_not_the_heads():
    X = rows()
    contrastive = make().fit(X)
    x = torch.from_numpy(contrastive.table_.to_matrix(X, np.float32))
    objective = contrastive.module_.objective
    with torch.no_grad():
        codes = objective.encoder(x)
        projections = objective.head(codes)
    assert_allclose(contrastive.transform(X), codes, atol=1e-5)
    assert projections.shape[1] != codes.shape[1]


def test_the_loss_compares_two_views_of_a_batch():
    X = rows(40)
    contrastive = make(objective=NTXent(0.3), max_iter=2).fit(X)
    module = contrastive.module_
    x = torch.from_numpy(contrastive.table_.to_matrix(X, np.float32))
    draws = torch.Generator().manual_seed(5)
    a, b = (module.augment(x, draws) for _ in range(2))
    assert not torch.equal(a, b)
    draws = torch.Generator().manual_seed(5)
    terms = module.loss(Batch(x, None, torch.arange(40), torch.tensor(0.0), draws))
    head = nn.Sequential(module.objective.encoder, module.objective.head)
    torch.testing.assert_close(terms["nt_xent"], nt_xent(head(a), head(b), 0.3))


def test_training_lowers_the_loss_and_raises_the_score():
    X = rows()
    contrastive = make(max_iter=150, learning_rate=3e-3).fit(X)
    loss = contrastive.history_["nt_xent"]
    assert loss == contrastive.history_["loss"]
    assert np.mean(loss[-10:]) < loss[0] - 0.3
    untrained = make(max_iter=1, learning_rate=1e-12).fit(X)
    assert contrastive.score(X) > 1.3 * untrained.score(X)


def test_codes_keep_classes_apart_that_differ_in_many_columns():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    X = rng.normal(size=(3, 10))[y] * 2 + rng.normal(size=(300, 10))
    codes = make(2, max_iter=150, learning_rate=3e-3).fit(X).transform(X)
    codes = (codes - codes.mean(axis=0)) / codes.std(axis=0)
    assert (
        LogisticRegression().fit(codes[::2], y[::2]).score(codes[1::2], y[1::2]) > 0.9
    )


@pytest.mark.parametrize("n", [1, 2, 10, 64, 65, 300])
def test_the_score_is_1_if_nothing_is_changed(n):
    contrastive = make(augmentation=FeatureCorruption(rate=0.0)).fit(rows())
    assert contrastive.score(rows()[:n]) == 1.0


@pytest.mark.parametrize(("n", "chance"), [(20, 1 / 20), (3000, 1 / 64)])
def test_the_score_is_chance_if_nothing_is_left(n, chance):
    contrastive = make(augmentation=FeatureCorruption(rate=1.0)).fit(rows())
    assert contrastive.score(rows(n)) == pytest.approx(
        chance, abs=4 * (chance / n) ** 0.5
    )


def test_the_score_lies_between_and_falls_with_the_rate():
    X = rows()
    scores = [
        make(augmentation=FeatureMasking(r)).fit(X).score(X) for r in (0.1, 0.3, 0.6)
    ]
    assert 1 > scores[0] > scores[1] > scores[2] > 1 / 64


def test_the_score_is_deterministic_and_leaves_generators_alone():
    X = rows()
    contrastive = make(max_iter=3).fit(X)
    states = torch.get_rng_state(), check_random_state(None).get_state()[1].tolist()
    assert contrastive.score(X) == contrastive.score(X)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert check_random_state(None).get_state()[1].tolist() == states[1]


def naive_score(contrastive, X):
    """Find the nearest of up to 64 second views, row by row."""
    module, n = contrastive.module_.double(), len(X)
    x = torch.from_numpy(contrastive.table_.to_matrix(X))
    generator = torch.Generator().manual_seed(0)
    order = np.random.default_rng(0).permutation(n)
    views = [module.augment(x[order], generator) for _ in range(2)]
    a, b = (module.encode(view).numpy() for view in views)
    hits = 0
    for i in range(n):
        similarity = b @ a[i] / np.linalg.norm(b, axis=1) / np.linalg.norm(a[i])
        tied = np.abs(similarity - similarity[i]) <= 1e-6
        if similarity.max() <= similarity[i] + 1e-6:
            hits += 1 / tied.sum()
    return hits / n


@pytest.mark.parametrize("n", [2, 17, 64])
def test_the_score_is_the_share_of_rows_found_by_cosine_similarity(n):
    contrastive = make(max_iter=3).fit(rows())
    expected = naive_score(contrastive, rows()[:n])
    assert contrastive.score(rows()[:n]) == pytest.approx(expected, abs=1e-12)
    copies = np.resize(rows()[: max(1, n // 2)], (n, 8))
    expected = naive_score(contrastive, copies)
    assert contrastive.score(copies) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("copies", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_rows_share_a_hit(copies, dtype):
    contrastive = make(augmentation=FeatureCorruption(rate=0.0)).fit(rows())
    X = np.repeat(rows(64 // copies), copies, axis=0).astype(dtype)
    assert contrastive.score(X) == pytest.approx(1 / copies)
    mixed = np.concatenate([rows(32)] + 2 * [rows(32)[:16]])  # 16 rows three times
    expected = (48 / 3 + 16) / 64
    assert contrastive.score(mixed.astype(dtype)) == pytest.approx(expected)


class Collapsed(Backbone):
    """The same code for every row."""

    def encoder(self, n_inputs, n_outputs):
        network = nn.Linear(n_inputs, n_outputs)
        nn.init.zeros_(network.weight)
        return network.requires_grad_(False)


@pytest.mark.parametrize("n", [1, 10, 64, 65, 500])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_codes_that_collapse_score_chance(n, rate):
    contrastive = make(
        backbone=Collapsed(), augmentation=FeatureCorruption(rate), max_iter=1
    ).fit(rows())
    assert contrastive.score(rows(n)) == pytest.approx(1 / min(n, 64))


def test_the_score_does_not_see_the_batch_size_of_the_objective_or_temperature():
    X = rows()
    scores = [
        make(batch_size=size, objective=NTXent(t), max_iter=1, learning_rate=1e-12)
        .fit(X)
        .score(X)
        for size, t in [(256, 0.5), (32, 0.5), (256, 0.1)]
    ]
    assert scores[0] == scores[1] == scores[2]


def test_the_temperature_changes_what_is_learned():
    X = rows(50)
    a, b = (make(objective=NTXent(t)).fit(X).transform(X) for t in (0.1, 1.0))
    assert not np.allclose(a, b, atol=1e-3)


@pytest.mark.parametrize(
    "augmentation",
    [
        "feature_corruption",
        "feature_masking",
        "gaussian_noise",
        Compose("feature_corruption", "gaussian_noise"),
    ],
    ids=repr,
)
def test_every_augmentation_makes_reproducible_views(augmentation):
    X = rows(40)
    fits = [make(augmentation=augmentation, max_iter=3).fit(X) for _ in range(2)]
    assert_array_equal(fits[0].transform(X), fits[1].transform(X))
    assert fits[0].score(X) == fits[1].score(X) > 1 / 40


def test_batch_norm_sees_both_views_and_small_batches_work():
    X = rows(33)
    contrastive = make(backbone=MLP((8,), norm="batch"), batch_size=2, max_iter=2).fit(
        X
    )
    assert np.isfinite(contrastive.transform(X)).all()
    assert len(contrastive.history_["loss"]) == 2

"""Contrastive learning: views, codes and the score."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_random_state
from torch import nn

from skrepr import ContrastiveTransformer
from skrepr._estimators._contrastive_module import partner
from skrepr._estimators._diagnosis import _accuracies, diagnose
from skrepr._training._sources import Batch, ResidentSource
from skrepr.augmentations import Compose, FeatureCorruption, FeatureMasking
from skrepr.backbones import MLP, Backbone
from skrepr.metrics import alignment, knn_accuracy, normalized_std
from skrepr.objectives import NTXent, Objective, nt_xent


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
    module = contrastive.module_
    with torch.no_grad():
        codes = module.encoder(x)
        projections = module.objective.head(codes)
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
    head = nn.Sequential(module.encoder, module.objective.head)
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


@pytest.fixture(scope="module")
def unchanging():
    """A fitted transformer whose two views of a row are the row."""
    return make(augmentation=FeatureCorruption(rate=0.0)).fit(rows())


@pytest.mark.parametrize("n", [1, 2, 10, 64, 65, 300])
def test_the_score_is_1_if_nothing_is_changed(unchanging, n):
    assert unchanging.score(rows()[:n]) == 1.0


@pytest.mark.parametrize(("n", "chance"), [(20, 1 / 20), (3000, 1 / 64)])
def test_the_score_is_chance_if_nothing_is_left(n, chance):
    contrastive = make(augmentation=FeatureCorruption(rate=1.0), max_iter=5).fit(rows())
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
def test_equal_rows_share_a_hit(unchanging, copies, dtype):
    X = np.repeat(rows(64 // copies), copies, axis=0).astype(dtype)
    assert unchanging.score(X) == pytest.approx(1 / copies)
    mixed = np.concatenate([rows(32)] + 2 * [rows(32)[:16]])  # 16 rows three times
    expected = (48 / 3 + 16) / 64
    assert unchanging.score(mixed.astype(dtype)) == pytest.approx(expected)


class Collapsed(Backbone):
    """The same code for every row."""

    def encoder(self, n_inputs, n_outputs):
        network = nn.Linear(n_inputs, n_outputs)
        nn.init.zeros_(network.weight)
        return network.requires_grad_(False)


@pytest.mark.filterwarnings("ignore:The embedding has collapsed")
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


def classes(n=240, missing=0.0):
    """Rows of four classes that differ little beside what they share, and labels."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 4
    X = 3 * rng.normal(size=(n, 4)) @ rng.normal(size=(4, 10))
    X += rng.normal(size=(4, 10))[y] + 0.5 * rng.normal(size=(n, 10))
    return X, np.where(rng.random(n) < missing, np.nan, y)


def test_labels_bring_the_classes_out():
    X, y = classes(800)
    X_train, X_test, y_test = X[::2], X[1::2], y[1::2]
    unseen, seen = (
        knn_accuracy(
            make(positives=p, max_iter=60, learning_rate=3e-3)
            .fit(X_train, y[::2])
            .transform(X_test),
            y_test,
        )
        for p in ("views", "labels")
    )
    assert seen > unseen + 0.2


def test_labels_are_ignored_unless_they_are_asked_for():
    X, y = classes(60)
    codes = [make(max_iter=2).fit(X, labels).transform(X) for labels in (None, y, "?")]
    assert_array_equal(codes[0], codes[1])
    assert_array_equal(codes[0], codes[2])


@pytest.mark.parametrize("objective", sorted(Objective.names))
@pytest.mark.parametrize("positives", ["views", "labels"])
def test_every_objective_learns_from_views_and_from_labels(objective, positives):
    X, y = classes(90, missing=0.3)
    params = {"objective": objective, "positives": positives, "max_iter": 16}
    contrastive = make(8, batch_size=40, **params).fit(X, y)
    codes = contrastive.transform(X)
    assert np.isfinite(codes).all()
    assert normalized_std(codes) > 0.1
    loss = contrastive.history_["loss"]
    assert np.isfinite(loss).all()
    if objective != "moco":  # more negatives, a higher loss
        assert np.mean(loss[-5:]) < np.mean(loss[:5])
    assert_array_equal(pickle.loads(pickle.dumps(contrastive)).transform(X), codes)
    brief = clone(contrastive).set_params(max_iter=1)
    assert_array_equal(*(clone(brief).fit(X, y).transform(X) for _ in range(2)))


def containers(y):
    strings = np.where(np.isnan(y), None, np.char.add("class ", y.astype(str)))
    return {
        "floats": y,
        "objects": np.where(np.isnan(y), None, y),
        "strings": strings,
        "pandas": pd.Series(strings, dtype="category"),
        "nullable": pd.Series(np.where(np.isnan(y), pd.NA, y), dtype="Float64"),
        "polars": pl.Series(list(strings)),
        "marked": np.nan_to_num(y, nan=-1).astype(int),
    }


@pytest.mark.parametrize("kind", containers(np.zeros(1)))
def test_labels_of_every_type_say_the_same(kind):
    X, y = classes(60, missing=0.4)
    unlabelled = -1 if kind == "marked" else None
    params = {"positives": "labels", "unlabelled": unlabelled, "max_iter": 2}
    expected = make(positives="labels", max_iter=2).fit(X, y)
    found = make(**params).fit(X, containers(y)[kind])
    assert_array_equal(found.transform(X), expected.transform(X))
    assert found.score(X, containers(y)[kind]) == expected.score(X, y)


def test_minus_1_is_a_class_unless_it_is_said_to_be_none():
    X, y = classes(60)
    y = np.where(y == 0, -1, y)
    a, b = (
        make(positives="labels", unlabelled=marker, max_iter=2).fit(X, y)
        for marker in (None, -1)
    )
    assert not np.allclose(a.transform(X), b.transform(X), atol=1e-3)


def test_the_ids_are_class_numbers_or_a_row_s_own():
    X, y = classes(20)
    y[[3, 7]] = np.nan
    ids = make(positives="labels")._ids(X, y)
    assert_array_equal(ids[~np.isnan(y)], y[~np.isnan(y)])
    assert (ids[[3, 7]] < 0).all()
    assert ids[3] != ids[7]
    assert make()._ids(X, y) is None


def test_a_partner_is_another_row_of_the_same_id():
    ids = torch.tensor([5, 5, 5, -1, 2, 2, -9, 0, 5])
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([partner(ids, generator) for _ in range(50)])
    assert (ids[draws] == ids).all()
    assert (draws.sort(dim=1).values == torch.arange(9)).all()
    alone = torch.tensor([3, 6, 7])
    assert (draws[:, alone] == alone).all()
    shared = torch.tensor([0, 1, 2, 4, 5, 8])
    assert (draws[:, shared] != shared).all()
    assert len(draws[:, 0].unique()) == 3
    assert (
        partner(torch.zeros(5, dtype=torch.long), generator) != torch.arange(5)
    ).all()


def test_views_with_labels_are_of_partners_and_carry_their_class():
    X, y = classes(40)
    contrastive = make(positives="labels", max_iter=1).fit(X, y)
    x = torch.from_numpy(contrastive.table_.to_matrix(X, np.float32))
    ids = torch.from_numpy(y.astype(int))
    generator = torch.Generator().manual_seed(0)
    batch = Batch(x, ids, torch.arange(40), torch.tensor(0.0), generator)
    views = contrastive.module_.views(batch)
    assert not views.pairs_only
    assert torch.equal(views.ids, ids.repeat(2))
    assert torch.equal(views.originals[:40], x)
    assert not (views.originals[40:] == x).all(dim=1).any()
    changed = (views.rows != views.originals).float().mean()
    assert changed == pytest.approx(0.3, abs=0.06)
    batch = Batch(x, None, torch.arange(40), torch.tensor(0.0), generator)
    views = contrastive.module_.views(batch)
    assert views.pairs_only
    assert torch.equal(views.originals, x.repeat(2, 1))
    assert torch.equal(views.ids, torch.arange(40).repeat(2))


def test_labels_that_are_needed_and_missing_are_an_error():
    X, y = classes(20)
    labelled = make(positives="labels", max_iter=1)
    with pytest.raises(ValueError, match="requires y to be passed"):
        labelled.fit(X)
    with pytest.raises(ValueError, match=r"All of the 20 labels in y are missing"):
        labelled.fit(X, np.full(20, np.nan))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        labelled.fit(X, y[:-1])
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        labelled.fit(X, y + np.linspace(0, 0.5, 20))
    labelled.fit(X, y)
    with pytest.raises(ValueError, match=r"y is None, but.*Pass y to score"):
        labelled.score(X)


def test_rows_without_a_positive_are_warned_of():
    X, y = classes(20)
    labelled = make(positives="labels", max_iter=1)
    with pytest.warns(UserWarning, match="No two of the 20 labelled rows have"):
        labelled.fit(X, np.arange(20))
    y[0] = 9
    with pytest.warns(UserWarning, match=r"1 of the 5 classes in y have one row only"):
        labelled.fit(X, y)


def test_groups_serve_as_labels():
    X, _ = classes(60)
    groups = np.repeat([f"patient {i}" for i in range(30)], 2)
    X[1::2] = X[::2] + 0.3 * np.std(X, axis=0)
    grouped, blind = (
        make(positives=p, batch_size=16, max_iter=40, learning_rate=3e-3).fit(X, groups)
        for p in ("labels", "views")
    )
    distance = [
        alignment(codes[::2], codes[1::2])
        for codes in (grouped.transform(X), blind.transform(X))
    ]
    assert distance[0] < 0.9 * distance[1]


class Overwhelmed(Backbone):
    """A bias that dwarfs what the rows have to say."""

    def encoder(self, n_inputs, n_outputs):
        network = nn.Linear(n_inputs, n_outputs)
        nn.init.constant_(network.bias, 1e3)
        return network


@pytest.mark.parametrize("backbone", [Collapsed(), Overwhelmed()], ids=repr)
def test_an_embedding_that_collapses_is_warned_of(backbone):
    contrastive = make(backbone=backbone, max_iter=1)
    with pytest.warns(UserWarning, match="The embedding has collapsed"):
        contrastive.fit(rows(50))


def test_too_small_a_rank_is_warned_of():
    X = np.linspace(-1, 1, 50)[:, None] @ np.ones((1, 3))
    contrastive = make(64, backbone=MLP(()), max_iter=1)
    with pytest.warns(UserWarning, match=r"effective rank [12]\.?\d* of 64 components"):
        contrastive.fit(X)


@pytest.mark.parametrize("positives", ["views", "labels"])
def test_early_stopping_follows_the_embedding(positives):
    X, y = classes(200)
    contrastive = make(early_stopping=True, positives=positives, max_iter=4).fit(X, y)
    measured = {
        "validation_alignment": (0, 4),
        "validation_uniformity": (-8, 0),
        "validation_effective_rank": (1, 4),
        "validation_normalized_std": (0, 1.01),
    }
    if positives == "labels":
        measured["validation_knn_accuracy"] = (0, 1)
        measured["validation_linear_probe_accuracy"] = (0, 1)
    diagnostics = {
        name for name in contrastive.history_ if name.startswith("validation_")
    } - {"validation_loss", "validation_nt_xent"}
    assert diagnostics == set(measured)
    for name, (low, high) in measured.items():
        values = np.array(contrastive.history_[name])
        assert values.shape == (4,)
        assert ((low <= values) & (values <= high)).all()


def test_metrics_with_labels_need_classes_of_several_rows():
    codes = np.random.default_rng(0).normal(size=(12, 2))
    for ids in ([0, 0, 0, 1, -1, -2], [-1, -2, -3, -4, -5, -6], [0, 1, 2, 3, 4, 5]):
        found = _accuracies(codes[:6], np.array(ids))
        assert np.isnan(list(found.values())).all()
    codes[:6] += 100
    found = _accuracies(codes, np.repeat([0, 1], 6))
    assert found == {"knn_accuracy": 1.0, "linear_probe_accuracy": 1.0}
    found = _accuracies(codes, np.array([0, 0, 0, 0, -1, -2, 1, 1, 1, -3, -4, -5]))
    assert found["knn_accuracy"] > 0
    assert np.isnan(found["linear_probe_accuracy"])


@pytest.mark.parametrize("objective", sorted(Objective.names))
def test_early_stopping_of_every_objective_finds_a_later_epoch(objective):
    X, _ = classes(150)
    params = {"early_stopping": True, "validation_fraction": 0.3, "max_iter": 15}
    contrastive = make(objective=objective, learning_rate=3e-3, **params).fit(X)
    loss = contrastive.history_["validation_loss"]
    assert np.isfinite(loss).all()
    assert np.argmin(loss) > 1  # of moco, too, whose queue has to fill first


def test_a_divergence_keeps_the_best_epoch_or_says_what_to_do():
    X = rows(60)
    with pytest.raises(ValueError, match=r"Lower learning_rate"):
        make(learning_rate=1e20).fit(X.astype(np.float32))
    with pytest.raises(ValueError, match=r"Lower learning_rate|not finite"):
        make(learning_rate=1e20, early_stopping=True).fit(X)


def test_codes_that_are_not_finite_are_an_error():
    contrastive = make(max_iter=1).fit(rows(20))
    contrastive.module_.encoder.network[0].weight.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"codes of the training rows are not finite"):
        contrastive._warn_of_collapse(rows(20))
    source = ResidentSource(torch.zeros(20, 8), torch.arange(20) % 2)
    found = diagnose(contrastive.module_, source, torch.Generator())
    assert len(found) == 6
    assert np.isnan(list(found.values())).all()


def test_few_rows_are_no_collapse():
    make(256, max_iter=3).fit(rows(10))


def test_a_single_class_has_no_negatives():
    X, _ = classes(20)
    labelled = make(positives="labels", max_iter=1)
    with pytest.raises(ValueError, match=r"All labels in y are 'a': no row has a neg"):
        labelled.fit(X, ["a"] * 20)
    labelled.fit(X, ["a"] * 10 + [None] * 10)


def test_a_batch_holds_pairs_of_two_classes_at_least():
    X, y = classes(60)
    labelled = make(positives="labels", batch_size=2, max_iter=2).fit(X, y)
    assert min(labelled.history_["loss"]) > 0


def test_a_score_of_labels_needs_two_of_them():
    X, y = classes(20)
    labelled = make(positives="labels", max_iter=1).fit(X, y)
    with pytest.raises(ValueError, match=r"y has 1 label\(s\) that are not missing"):
        labelled.score(X, np.where(np.arange(20) == 3, 1.0, np.nan))


def careless(x, generator):
    return nn.functional.dropout(x + 0.1 * torch.randn_like(x), 0.1)


def test_the_score_does_not_depend_on_what_a_function_draws_from():
    X = rows(100)
    contrastive = make(backbone=MLP((8,), dropout=0.2), augmentation=careless).fit(X)
    state = torch.get_rng_state()
    scores = [contrastive.score(X) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert scores[0] == scores[1] < 1

"""Metrics of embeddings: closed forms, naive loops, invariances."""

import itertools
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, special_ortho_group
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from skrepr.metrics import (
    alignment,
    effective_rank,
    knn_accuracy,
    linear_probe_accuracy,
    normalized_std,
    uniformity,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def circle(n):
    angle = 2 * np.pi * np.arange(n) / n
    return np.column_stack([np.cos(angle), np.sin(angle)])


# Alignment and uniformity.


@pytest.mark.parametrize("alpha", [1, 2, 0.5])
def test_alignment_is_a_mean_of_powers_of_distances(alpha):
    a, b = normal(20, 3), normal(20, 3, seed=1)
    cosines = [u @ v / np.sqrt(u @ u * (v @ v)) for u, v in zip(a, b, strict=True)]
    expected = np.mean([(2 - 2 * c) ** (alpha / 2) for c in cosines])
    assert alignment(a, b, alpha=alpha) == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [1, 2, 3])
def test_alignment_lies_between_equal_and_opposite_directions(alpha):
    Z = normal(10, 4)
    lengths = np.random.default_rng(1).uniform(0.1, 10, size=(10, 1))
    assert alignment(Z, lengths * Z, alpha=alpha) == pytest.approx(0, abs=1e-12)
    assert alignment(Z, -lengths * Z, alpha=alpha) == pytest.approx(2**alpha)
    assert alignment(Z[:1], Z[:1]) == 0  # one row is enough


@pytest.mark.parametrize("t", [0.5, 2, 5])
def test_uniformity_of_known_configurations(t):
    # Orthonormal rows all have the distance √2, those of a regular simplex its maximum.
    assert uniformity(3 * np.eye(7), t=t) == pytest.approx(-2 * t)
    simplex = np.eye(4) - 1 / 4
    assert uniformity(simplex, t=t) == pytest.approx(-2 * t * 4 / 3)
    assert uniformity(np.ones((5, 3)), t=t) == pytest.approx(0, abs=1e-12)
    # Of a square, four pairs have the distance √2 and two the distance 2.
    square = np.log((4 * np.exp(-2 * t) + 2 * np.exp(-4 * t)) / 6)
    assert uniformity(circle(4), t=t) == pytest.approx(square)


def test_uniformity_is_a_mean_over_distinct_pairs():
    Z = normal(30, 3)
    unit = Z / np.linalg.norm(Z, axis=1, keepdims=True)
    pairs = itertools.combinations(unit, 2)
    potentials = [np.exp(-3 * np.sum((a - b) ** 2)) for a, b in pairs]
    assert uniformity(Z, t=3) == pytest.approx(np.log(np.mean(potentials)))


def test_uniformity_of_many_rows_needs_little_memory():
    Z = normal(3000, 3)  # in several blocks
    unit = Z / np.linalg.norm(Z, axis=1, keepdims=True)
    expected = np.log(np.mean(np.exp(-2 * pdist(unit, "sqeuclidean"))))
    tracemalloc.start()
    assert uniformity(Z) == pytest.approx(expected, rel=1e-10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(Z) ** 2 / 2


def test_uniformity_does_not_underflow():
    # All potentials are below the least positive number.
    assert uniformity(np.eye(5), t=1000) == pytest.approx(-2000)


def test_uniform_directions_are_lowest():
    even = uniformity(circle(60))
    assert even < uniformity(normal(60, 2) + np.eye(2)[0]) < 0
    assert even < uniformity(circle(60) * [1, 3])


# Rank and spread.


@pytest.mark.parametrize("r", [1, 3, 6])
def test_effective_rank_of_an_isometry_is_its_rank(r):
    left = ortho_group.rvs(10, random_state=0)[:, :r]
    right = ortho_group.rvs(6, random_state=1)[:r]
    assert effective_rank(left @ right) == pytest.approx(r)
    assert effective_rank(1e-8 * left @ right) == pytest.approx(r)


def test_effective_rank_is_the_exponential_of_an_entropy():
    p = np.array([0.5, 0.25, 0.25])  # 1.5 bits
    assert effective_rank(np.diag(7 * p)) == pytest.approx(2**1.5)
    assert effective_rank(np.diag([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_rank(np.zeros((4, 3))) == 0


def test_effective_rank_is_not_of_centred_embeddings():
    Z = np.ones((5, 3))  # one direction, of no variance
    assert effective_rank(Z) == pytest.approx(1)
    Z = normal(500, 3)
    assert effective_rank(Z) > 2.95 > 2 > effective_rank(Z + 9 * np.eye(3)[0])


def test_effective_rank_is_that_of_the_transpose():
    Z = normal(5, 8)
    assert effective_rank(Z) == pytest.approx(effective_rank(Z.T))


def test_spread_of_isotropic_and_of_collapsed_embeddings():
    assert normalized_std(normal(20_000, 5)) == pytest.approx(1, abs=0.01)
    for n in 3, 4, 50:
        assert normalized_std(circle(n)) == pytest.approx(1)
    assert normalized_std(np.vstack([np.eye(3), -np.eye(3)])) == pytest.approx(1)
    # Equal directions of different lengths are collapsed.
    lengths = np.random.default_rng(0).uniform(1, 9, size=(20, 1))
    assert normalized_std(lengths * [[1.0, -2.0, 3.0]]) == pytest.approx(0, abs=1e-7)
    assert normalized_std(np.zeros((5, 2))) == 0


def test_spread_of_orthonormal_rows():
    # Every column holds a single 1 among d values: its variance is 1/d - 1/d².
    d = 5
    assert normalized_std(np.eye(d)) == pytest.approx(np.sqrt(1 - 1 / d))


@pytest.mark.parametrize("seed", range(3))
def test_spread_is_at_most_1(seed):
    assert normalized_std(normal(6, 4, seed=seed)) <= 1


# What neither rotations nor the scale change.


@pytest.mark.parametrize(
    "metric",
    [
        lambda Z: alignment(Z[:20], Z[20:]),
        uniformity,
        effective_rank,
        lambda Z: knn_accuracy(Z, np.arange(40) % 3),
    ],
    ids=["alignment", "uniformity", "effective_rank", "knn_accuracy"],
)
def test_rotations_and_the_scale_change_nothing(metric):
    Z = normal(40, 4) * [1, 2, 3, 4] + [1, 0, 0, 0]
    rotation = special_ortho_group.rvs(4, random_state=0)
    assert metric(100 * Z @ rotation) == pytest.approx(metric(Z), abs=1e-12)


def test_the_units_of_columns_change_no_linear_probe():
    Z, y = load_iris(return_X_y=True)
    changed = Z * [1e-5, 1, 10, 1e6] + [0, 3, 0, 1]
    assert linear_probe_accuracy(changed, y) == linear_probe_accuracy(Z, y) > 0.9


# Neighbours and linear probes.


@pytest.mark.parametrize("n_neighbors", [1, 2, 5, 39])
def test_neighbours_vote_as_in_a_loop(n_neighbors):
    Z = normal(40, 3)
    y = np.array(["b", "a", "c"])[np.argmax(Z + 0.5 * normal(40, 3, seed=1), axis=1)]
    hits = []
    for i in range(40):
        others = [j for j in range(40) if j != i]
        others.sort(key=lambda j: np.sum((Z[i] - Z[j]) ** 2))
        votes = [y[j] for j in others[:n_neighbors]]
        hits.append(max("abc", key=votes.count) == y[i])  # the first of the best
    assert knn_accuracy(Z, y, n_neighbors) == pytest.approx(np.mean(hits))
    assert n_neighbors > 5 or np.mean(hits) > 0.5


def test_no_row_votes_for_itself():
    # Every row has a duplicate of the other class, and nothing else near it.
    Z = np.repeat(10 * normal(20, 2), 2, axis=0)
    assert knn_accuracy(Z, np.tile([0, 1], 20), n_neighbors=1) == 0
    # All rows are equal: a row's own class has one vote fewer than the other.
    y = np.repeat([0, 1], 3)
    assert knn_accuracy(np.zeros((6, 2)), y, n_neighbors=5) == 0


@pytest.mark.parametrize("metric", [knn_accuracy, linear_probe_accuracy])
def test_classes_far_apart_are_told_apart(metric):
    y = np.repeat([3, 7, 9], 20)
    Z = 0.01 * normal(60, 2) + np.repeat(circle(3), 20, axis=0)
    assert metric(Z, y) == 1


@pytest.mark.parametrize("metric", [knn_accuracy, linear_probe_accuracy])
def test_shuffled_labels_are_guessed_by_chance(metric):
    Z, y = load_iris(return_X_y=True)
    rng = np.random.default_rng(0)
    by_chance = [metric(Z, rng.permutation(y)) for _ in range(10)]
    assert np.mean(by_chance) == pytest.approx(1 / 3, abs=0.06)


def test_the_linear_probe_is_a_logistic_regression():
    Z, y = load_iris(return_X_y=True)
    Z = Z[:, :2]
    hits = []
    for train, test in StratifiedKFold(4).split(Z, y):
        mean, std = Z[train].mean(0), Z[train].std(0)
        probe = LogisticRegression().fit((Z[train] - mean) / std, y[train])
        hits.append(probe.score((Z[test] - mean) / std, y[test]))
    assert linear_probe_accuracy(Z, y, cv=4) == pytest.approx(np.mean(hits))
    splitter = StratifiedKFold(4, shuffle=True, random_state=0)
    assert linear_probe_accuracy(Z, y, cv=splitter) != np.mean(hits)


def test_a_linear_probe_sees_no_circle_and_neighbours_do():
    Z = np.vstack([circle(50), 2 * circle(50)])
    y = np.repeat([False, True], 50)
    assert knn_accuracy(Z, y) == 1
    assert linear_probe_accuracy(Z, y) < 0.7


@pytest.mark.parametrize("metric", [knn_accuracy, linear_probe_accuracy])
@pytest.mark.parametrize(
    ("labels", "missing"),
    [
        (np.array([0.0, 1.0, 2.0]), np.nan),
        (np.array(["x", "y", "z"], dtype=object), None),
        (np.array([4, 5, 6], dtype=object), pd.NA),
    ],
)
def test_rows_without_a_label_are_left_out(metric, labels, missing):
    Z, y = load_iris(return_X_y=True)
    some = labels[y]
    some[::3] = missing
    kept = np.arange(150) % 3 > 0
    assert metric(Z, some) == metric(Z[kept], y[kept])
    assert metric(Z, pd.Series(some)) == metric(Z[kept], y[kept])


# Errors.


@pytest.mark.parametrize(
    "metric",
    [
        uniformity,
        effective_rank,
        normalized_std,
        lambda Z: knn_accuracy(Z, [0] * len(Z)),
        lambda Z: linear_probe_accuracy(Z, [0] * len(Z)),
        lambda Z: alignment(Z, Z),
    ],
    ids=["uniformity", "rank", "std", "knn", "probe", "alignment"],
)
def test_embeddings_are_validated(metric):
    with pytest.raises(ValueError, match=r"Z.* contains NaN"):
        metric([[1.0, np.nan], [1.0, 2.0]])
    with pytest.raises(ValueError, match="Expected 2D array, got 1D"):
        metric([1.0, 2.0])
    with pytest.raises(ValueError, match=r"minimum of \d is required"):
        metric(np.ones((0, 2)))


@pytest.mark.parametrize("metric", [uniformity, effective_rank, normalized_std])
def test_one_row_is_too_few(metric):
    with pytest.raises(ValueError, match=r"1 sample\(s\).* minimum of 2"):
        metric([[1.0, 2.0]])


@pytest.mark.parametrize("shape", [(4, 3), (5, 2)])
def test_alignment_is_of_the_same_rows(shape):
    with pytest.raises(ValueError, match=r"\(5, 3\).*Expected two embeddings of the"):
        alignment(np.ones((5, 3)), np.ones(shape))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda Z, y: alignment(Z, Z, alpha=0), "alpha"),
        (lambda Z, y: uniformity(Z, t=-1), "t"),
        (lambda Z, y: knn_accuracy(Z, y, n_neighbors=0), "n_neighbors"),
        (lambda Z, y: linear_probe_accuracy(Z, y, cv=1.5), "cv"),
    ],
)
def test_parameters_are_validated(call, name):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of"):
        call(normal(6, 2), [0, 1] * 3)


@pytest.mark.parametrize("metric", [knn_accuracy, linear_probe_accuracy])
def test_labels_are_those_of_classes_one_a_row(metric):
    Z = normal(12, 2)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        metric(Z, [0, 1])
    with pytest.raises(ValueError, match="Unknown label type"):
        metric(Z, normal(12))
    with pytest.raises(ValueError, match="All of the 12 labels in y are missing"):
        metric(Z, [None] * 12)


def test_too_few_labelled_rows_have_no_neighbours():
    y = [0.0, 1.0, 0.0, 1.0, 0.0, np.nan]
    with pytest.raises(ValueError, match=r"n_neighbors=5 is too large for 5 labelled"):
        knn_accuracy(normal(6, 2), y)
    assert 0 <= knn_accuracy(normal(6, 2), y, n_neighbors=4) <= 1


def test_too_few_rows_of_a_class_cannot_be_split():
    Z = normal(20, 2)
    message = r"class 'rare' has 3 labelled row\(s\), fewer than cv=5"
    with pytest.raises(ValueError, match=message):
        linear_probe_accuracy(Z, ["rare"] * 3 + ["often"] * 17)
    assert 0 <= linear_probe_accuracy(Z, ["rare"] * 3 + ["often"] * 17, cv=3) <= 1
    y = [None] * 3 + ["often"] * 10 + ["as often"] * 7
    assert 0 <= linear_probe_accuracy(Z, y) <= 1
    with pytest.raises(ValueError, match="All labels in y are 'same'"):
        linear_probe_accuracy(Z, ["same"] * 20)

"""The scores of the error models, their contributions, and trimming."""

import copy
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import mahalanobis
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from skrepr import AutoencoderTransformer, VAETransformer
from skrepr._columns._trimming import central_rows
from skrepr.backbones import MLP
from skrepr.error_models import (
    Covariance,
    Diagonal,
    ErrorModel,
    ErrorModelModule,
    MeanSquared,
)
from skrepr.error_models._covariance import _shrunk_whitening

ERROR_MODELS = [MeanSquared(), Diagonal(), Covariance(), Covariance(0.3, 1)]


def rows(n=300, seed=0):
    """Five correlated columns in different units, and one that is independent."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(2, 5))
    X = rng.normal(size=(n, 2)) @ mixing + 0.1 * rng.normal(size=(n, 5))
    return np.c_[X, rng.normal(size=n)] * [1, 1e3, 1e-3, 5, 0.1, 1] + [0, 9, 0, 0, 3, 1]


def make(error_model="covariance", **params):
    params = {"backbone": MLP((16,)), "max_iter": 20, "random_state": 0} | params
    return AutoencoderTransformer(3, error_model=error_model, **params)


def errors_of(ae, X, n_reconstructions):
    """Row, error, error of the reconstruction, ... in standard deviations."""
    table = ae.table_
    rows = [X]
    for _ in range(n_reconstructions):
        rows.append(ae.inverse_transform(ae.transform(rows[-1])))
    steps = [before - after for before, after in pairwise(rows)]
    return np.stack([(X - table.mean) / table.std, *(s / table.std for s in steps)], 1)


@pytest.mark.parametrize("standardize", [True, False])
def test_mean_squared_is_the_mean_of_the_squared_errors(standardize):
    X = rows() / rows().std(axis=0)
    ae = make(MeanSquared(), standardize=standardize).fit(X)
    errors = ae.reconstruction_error(X)
    assert_allclose(ae.score_samples(X), -errors.mean(axis=1))
    assert_allclose(ae.feature_contributions(X), errors / 6)


def test_diagonal_takes_each_error_by_its_spread_among_the_training_rows():
    X, new = rows(), rows(50, seed=1)
    ae = make("diagonal").fit(X)
    residuals = errors_of(ae, X, 1)[:, 1]
    standardised = (errors_of(ae, new, 1)[:, 1] - residuals.mean(0)) / residuals.std(0)
    expected = np.square(standardised) / 6
    assert_allclose(ae.feature_contributions(new), expected, rtol=1e-4, atol=1e-9)
    assert ae.score_samples(X).mean() == pytest.approx(-1, rel=1e-5)


@pytest.mark.parametrize("n_reconstructions", [1, 2, 3])
@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 1.0])
def test_covariance_is_a_mahalanobis_distance(shrinkage, n_reconstructions):
    X, new = rows(), rows(20, seed=1)
    ae = make(Covariance(shrinkage, n_reconstructions), learning_rate=0.01).fit(X)
    errors = errors_of(ae, X, n_reconstructions).reshape(len(X), -1)
    center, std = errors.mean(0), errors.std(0)
    shrunk = (1 - shrinkage) * np.corrcoef(errors.T)
    shrunk[np.diag_indices_from(shrunk)] += shrinkage
    inverse = np.linalg.inv(shrunk * np.outer(std, std))
    found = errors_of(ae, new, n_reconstructions).reshape(len(new), -1)
    typical, expected = (
        [mahalanobis(row, center, inverse) ** 2 for row in vectors]
        for vectors in (errors, found)
    )
    expected = -np.array(expected) / np.mean(typical)
    assert_allclose(ae.score_samples(new), expected, rtol=1e-4)


@pytest.mark.parametrize("n", [200, 12, 8, 2])  # more rows than columns, and fewer
def test_whitening_is_the_inverse_square_root_of_the_shrunk_correlations(n):
    Z = np.random.default_rng(0).normal(size=(n, 3)) @ np.ones((3, 12))
    Z += 0.5 * np.random.default_rng(1).normal(size=Z.shape)
    Z = (Z - Z.mean(0)) / Z.std(0)
    for shrinkage in 1e-3, 0.1, 1.0:
        directions, factors, diagonal, mean_distance = _shrunk_whitening(Z, shrinkage)
        whitening = (directions * factors) @ directions.T + diagonal * np.eye(12)
        shrunk = (1 - shrinkage) * Z.T @ Z / n + shrinkage * np.eye(12)
        assert_allclose(whitening, whitening.T, atol=1e-9)
        assert_allclose(whitening @ shrunk @ whitening, np.eye(12), atol=1e-7)
        assert np.linalg.eigvalsh(whitening).min() > 0
        assert mean_distance == pytest.approx(
            np.square(Z @ whitening).sum(axis=1).mean()
        )


@pytest.mark.parametrize("error_model", ERROR_MODELS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_contributions_sum_to_minus_the_score(error_model, dtype):
    X = np.insert(rows(), 2, 4.0, axis=1).astype(dtype)  # and a constant column
    ae = make(error_model).fit(X)
    new = X[:40] * dtype(1.1)
    contributions = ae.feature_contributions(new)
    assert contributions.shape == new.shape
    assert contributions.dtype == np.float64
    assert contributions.min() >= 0
    assert_allclose(contributions[:, 2], 36 / 6)  # over the columns that vary
    scores = ae.score_samples(new)
    rtol = 1e-9 if dtype == np.float64 else 1e-4
    assert_allclose(contributions.sum(axis=1), -scores, rtol=rtol)
    assert (ae.feature_contributions(X)[:, 2] == 0).all()


@pytest.mark.parametrize("error_model", ["diagonal", "covariance"])
def test_a_value_never_seen_is_strange_however_many_columns_are_constant(error_model):
    X = np.c_[rows(), np.zeros((300, 97))]
    ae = make(error_model).fit(X)
    new = X[:20].copy()
    new[:, 50] = 1e6
    lowest = np.quantile(ae.score_samples(X), 0.01)
    assert (ae.score_samples(new) < lowest).all()


@pytest.mark.parametrize("error_model", ["diagonal", "covariance"])
def test_the_strange_feature_contributes_most(error_model):
    X = rows(500)
    ae = make(error_model, max_iter=200, learning_rate=0.01).fit(X)
    strange = X[:60].copy()
    cells = np.arange(60), np.arange(60) % 6
    strange[cells] += 8 * X.std(axis=0)[cells[1]]
    found = ae.feature_contributions(strange).argmax(axis=1)
    assert (found == cells[1]).mean() > 0.9
    assert ae.score_samples(strange).max() < ae.score_samples(X).min()


def test_covariance_notices_what_the_network_reconstructs():
    """As many codes as columns and no noise: the network copies every row."""
    X = rows()
    far = X[:50] + 6 * X.std(axis=0) * [0, 0, 0, 0, 0, 1]
    y = np.repeat([0, 1], [len(X), 50])
    areas = {}
    for error_model in "mean_squared", "covariance":
        ae = make(error_model, augmentation=None, backbone=MLP(()))
        ae.set_params(n_components=6, max_iter=2000, learning_rate=0.02).fit(X)
        assert ae.reconstruction_error(X).mean() < 1e-6
        areas[error_model] = roc_auc_score(y, -ae.score_samples(np.r_[X, far]))
    assert areas["covariance"] > 0.98 > 0.95 > areas["mean_squared"]


def test_covariance_notices_equal_columns_that_differ():
    X = rows()
    X = np.c_[X, X[:, 5]]
    ae = make(max_iter=100, learning_rate=0.01).fit(X)
    new = X[:50].copy()
    new[:, 6] += 1.0
    assert ae.score_samples(new).max() < np.quantile(ae.score_samples(X), 0.02)
    assert set(ae.feature_contributions(new).argmax(axis=1)) <= {5, 6}


@pytest.mark.parametrize("n", [2, 9, 300])
@pytest.mark.parametrize("error_model", ["diagonal", "covariance"])
def test_the_training_rows_have_the_mean_score_minus_1(error_model, n):
    X = np.insert(rows(n), 2, 4.0, axis=1)
    scores = make(error_model).fit(X).score_samples(X)
    assert scores.mean() == pytest.approx(-1, rel=1e-4)


def test_score_does_not_depend_on_the_error_model():
    X = rows()
    fitted = [make(model).fit(X) for model in ERROR_MODELS]
    assert len({ae.score(X) for ae in fitted}) == 1
    assert_array_equal(fitted[0].transform(X), fitted[2].transform(X))


def test_an_error_model_is_fitted_to_at_most_ten_thousand_rows(monkeypatch):
    seen = []
    fit = type(Covariance().build(make().fit(rows()).table_.columns)).fit

    def spy(self, errors):
        seen.append(len(errors))
        fit(self, errors)

    monkeypatch.setattr("skrepr.error_models._covariance._Covariance.fit", spy)
    X = rows(10_500)
    few, again = (make(max_iter=1).fit(X) for _ in range(2))
    assert not seen  # no score has been asked for
    assert_array_equal(few.score_samples(X[:9]), again.score_samples(X[:9]))
    assert seen == [10_000, 10_000]
    assert few.score_samples(X).mean() == pytest.approx(-1, abs=0.01)


def test_an_error_model_of_your_own():
    class Largest(ErrorModel):
        def build(self, columns):
            return LargestModule()

    class LargestModule(ErrorModelModule):
        def fit(self, errors):
            assert errors.shape == (300, 2, 6)

        def forward(self, errors):
            squares = errors[:, 1].square()
            return squares * (squares == squares.max(1, keepdim=True).values)

    X = rows()
    ae = make(Largest()).fit(X)
    expected = ae.reconstruction_error(X).max(axis=1)
    assert_allclose(ae.score_samples(X), -expected)


# Trimming.


def contaminated(n=400, n_outliers=40):
    """Rows with a small cluster that an autoencoder learns to reconstruct."""
    X = rows(n)
    outliers = rows(n_outliers, seed=3) * 0.1 + 5 * X.std(axis=0) * [1, 0, -1, 0, 1, 1]
    return np.r_[X, outliers], np.repeat([0, 1], [n, n_outliers])


def test_trimming_finds_outliers_among_the_training_rows():
    X, y = contaminated()
    areas = []
    for error_model in "covariance", "mean_squared":
        for trim in 0.0, 0.2:
            ae = make(error_model, max_iter=100, learning_rate=0.01, trim=trim).fit(X)
            areas.append(roc_auc_score(y, -ae.score_samples(X)))
    full, trimmed, full_plain, trimmed_plain = areas
    assert trimmed > 0.99
    assert trimmed_plain > full_plain + 0.2
    assert full < trimmed


def test_what_is_trimmed_leaves_no_trace():
    """The columns are standardised by the rows that stay."""
    X, y = contaminated()
    ae = make(max_iter=30, trim=0.2).fit(X)
    clean = X[y == 0]
    off = np.abs(ae.table_.mean - clean.mean(0)) / clean.std(0)
    assert off.max() < 0.15
    assert off.max() < (np.abs(X.mean(0) - clean.mean(0)) / clean.std(0)).max() / 2
    # A typical row that stays has the distance 1.
    kept = np.sort(-ae.score_samples(X))[: int(0.8 * len(X))]
    assert kept.mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("estimator", [AutoencoderTransformer, VAETransformer])
def test_a_trimmed_fit_is_a_fit_to_the_rows_that_stay(estimator):
    X, _ = contaminated()
    params = {"backbone": MLP((16,)), "max_iter": 5, "random_state": 0}
    trimmed = estimator(3, trim=0.2, **params).fit(X)
    plain = estimator(3, **params).fit(X[central_rows(X, 0.2)])
    assert_array_equal(trimmed.score_samples(X), plain.score_samples(X))


def test_rows_that_are_trimmed_must_be_possible_all_the_same():
    X = np.random.default_rng(0).uniform(size=(60, 3))
    X[0] = 5.0
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        make(likelihood="bernoulli", trim=0.2).fit(X)


def test_a_wide_table_takes_no_square_matrix():
    """More columns than rows: 3 x 2000 numbers a row, of which 40 rows span little."""
    X = np.random.default_rng(0).normal(size=(40, 2000))
    ae = make(max_iter=1, backbone=MLP((4,))).fit(X)
    assert sum(tensor.numel() for tensor in ae.error_model_.state_dict().values()) < 6e5
    new = np.random.default_rng(1).normal(size=(5, 2000))
    contributions = ae.feature_contributions(new)
    assert_allclose(contributions.sum(axis=1), -ae.score_samples(new))
    errors = errors_of(ae, X, 2).reshape(40, -1)
    errors = (errors - errors.mean(0)) / errors.std(0)
    gram = np.linalg.inv(0.9 / 40 * errors @ errors.T + 0.1 * np.eye(40))
    # The Woodbury identity, of the first training row.
    inner = errors @ errors[0]
    distance = (errors[0] @ errors[0] - 0.9 / 40 * inner @ gram @ inner) / 0.1
    inner = errors @ errors.T
    mean = np.trace(inner - 0.9 / 40 * inner @ gram @ inner) / 0.1 / 40
    assert ae.score_samples(X[:1])[0] == pytest.approx(-distance / mean, rel=1e-3)


@pytest.mark.parametrize("trim", [0.0, 0.5])
@pytest.mark.parametrize("error_model", ERROR_MODELS)
@pytest.mark.parametrize(
    "X",
    [
        rows(2),
        rows(3),
        np.ones((10, 4)),
        np.repeat(rows(1), 30, axis=0),
        np.repeat(rows(4), 20, axis=0),
        np.c_[rows(40), np.arange(40) == 7],
        np.random.default_rng(0).normal(size=(40, 300)),
        rows(30)[:, :1],
    ],
    ids=["2", "3", "constant", "identical", "duplicates", "rare", "wide", "narrow"],
)
def test_scores_are_finite_and_strangers_score_worst(X, error_model, trim):
    ae = make(error_model, trim=trim, max_iter=5).fit(X)
    std = X.std(axis=0)
    far = X[:3] + 100 * np.where(std > 0, std, 1.0)
    for rows_ in X, far, X[:3].astype(np.float32):
        scores = ae.score_samples(rows_)
        assert np.isfinite(scores).all()
        assert np.isfinite(ae.feature_contributions(rows_)).all()
        assert scores.max() <= 0
        assert scores.min() > -1e12
    assert ae.score_samples(far).max() < np.median(ae.score_samples(X))


def test_a_column_that_is_constant_among_the_rows_that_stay_counts_36():
    X = np.c_[rows(100), np.zeros(100)]
    X[:5] += 20 * X.std(axis=0)
    X[:5, 6] = 1.0
    ae = make(trim=0.2).fit(X)
    assert not ae.table_.varies[6]
    assert_allclose(ae.feature_contributions(X[:5])[:, 6], 36 / 6)
    assert np.argsort(ae.score_samples(X))[:5].max() < 5


def test_early_stopping_and_trimming_go_together():
    X, y = contaminated()
    ae = make(max_iter=40, early_stopping=True, trim=0.2, learning_rate=0.01).fit(X)
    assert len(ae.history_["validation_loss"]) == ae.n_iter_
    assert roc_auc_score(y, -ae.score_samples(X)) > 0.95


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"error_model": "mahalanobis"}, "'error_model' parameter"),
        ({"error_model": None}, "'error_model' parameter"),
        ({"error_model": Covariance(shrinkage=0.0)}, "'shrinkage' .* Covariance"),
        ({"error_model": Covariance(n_reconstructions=0)}, "'n_reconstructions'"),
        ({"trim": -0.1}, "'trim' parameter"),
        ({"trim": 0.6}, "'trim' parameter"),
    ],
)
def test_parameters_are_validated(params, message):
    with pytest.raises(ValueError, match=message):
        make(**params).fit(rows(20))


def test_the_parameters_of_an_error_model_are_reached_by_name():
    ae = make().set_params(error_model__shrinkage=0.2)
    assert re.fullmatch(r"Covariance\(shrinkage=0.2\)", repr(ae.error_model))


# Rows with holes.


def normal_rows(n, seed):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(3, 8))
    return rng.normal(size=(n, 3)) @ mixing + 0.5 * rng.normal(size=(n, 8))


def with_holes(X, share=0.3, seed=5):
    holes = np.random.default_rng(seed).random(X.shape) < share
    return np.where(holes, np.nan, X)


@pytest.fixture(scope="module", params=["covariance", "diagonal", "mean_squared"])
def error_model(request):
    return request.param


@pytest.fixture(scope="module", params=[0.0, 0.3])
def fitted(request, error_model):
    X = with_holes(normal_rows(2000, seed=1), request.param)
    X = X[~np.isnan(X).all(axis=1)]
    brief = {"max_iter": 40, "learning_rate": 5e-3, "random_state": 0}
    ae = AutoencoderTransformer(4, backbone=MLP((64,)), **brief)
    return ae.set_params(error_model=error_model).fit(X)


def test_scores_have_the_same_distribution_with_holes(fitted):
    X = normal_rows(4000, seed=100)
    holey = with_holes(X)
    full, scores = fitted.score_samples(X), fitted.score_samples(holey)
    assert abs(scores.mean() - full.mean()) < 0.15 * full.std()
    assert 0.02 < (scores < np.quantile(full, 0.05)).mean() < 0.08
    n_holes = np.isnan(holey).sum(axis=1)
    assert abs(spearmanr(n_holes, scores).statistic) < 0.12


def test_an_outlier_is_caught_where_other_cells_are_missing(fitted):
    X = normal_rows(500, seed=3)
    outliers = X.copy()
    cells = np.arange(500), np.arange(500) % 8
    outliers[cells] += 8 * X.std(axis=0)[cells[1]]
    holes = np.isnan(with_holes(X))
    holes[cells] = False
    X[holes] = outliers[holes] = np.nan
    scores = fitted.score_samples(np.r_[X, outliers])
    assert roc_auc_score(np.repeat([1, 0], 500), scores) > 0.95


def test_what_is_missing_contributes_nothing(fitted):
    X = with_holes(normal_rows(50, seed=2))
    X[0] = np.nan
    contributions = fitted.feature_contributions(X)
    assert (contributions[1:][np.isnan(X[1:])] == 0).all()
    assert contributions.min() >= 0
    assert_allclose(contributions.sum(axis=1), -fitted.score_samples(X))
    # Of a row without any value nothing is known: it is typical.
    median = np.median(fitted.score_samples(normal_rows(2000, seed=1)))
    assert fitted.score_samples(X)[0] == pytest.approx(median, rel=0.35)
    one_by_one = [fitted.score_samples(row[None])[0] for row in X[:5]]
    assert_allclose(fitted.score_samples(X)[:5], one_by_one, rtol=1e-6)


def test_covariance_of_training_rows_with_holes_has_the_mean_minus_1():
    X = with_holes(normal_rows(300, seed=1), 0.2)
    assert make().fit(X).score_samples(X).mean() == pytest.approx(-1, rel=1e-4)


@pytest.mark.parametrize(("n", "d"), [(300, 6), (40, 30)], ids=["dense", "low rank"])
@pytest.mark.parametrize("shrinkage", [0.1, 0.5])
def test_the_distance_with_holes_is_that_of_the_observed_part(n, d, shrinkage):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))
    X = np.insert(X, 2, 4.0, axis=1)
    ae = make(Covariance(shrinkage)).fit(X)
    model = copy.deepcopy(ae.error_model_).double()
    errors = ae._scorer.get()._errors(with_holes(X[:20]))
    relative = model._relative_sums(errors)[1]
    whitening = model.left
    if len(model.right):
        whitening = model.left @ model.right + model.diagonal * torch.eye(
            len(model.std)
        )
    shrunk = torch.linalg.inv(whitening @ whitening * model.mean_distance)
    plain = (shrunk - shrinkage * torch.eye(len(shrunk))) / (1 - shrinkage)

    def moments(o):
        product = torch.linalg.inv(shrunk[o][:, o]) @ plain[o][:, o]
        return product.trace(), (product @ product).trace()

    full = moments(torch.arange(len(shrunk)))
    for i, vector in enumerate((errors.flatten(1) - model.mean) / model.std):
        o = (~vector.isnan()).nonzero()[:, 0]
        mean, variance = moments(o)
        distance = vector[o] @ torch.linalg.inv(shrunk[o][:, o]) @ vector[o]
        ratio = (variance / mean**2) / (full[1] / full[0] ** 2)
        assert relative.distances[i].item() == pytest.approx(
            float(distance / mean), rel=1e-5
        )
        assert relative.ratios[i].item() == pytest.approx(float(ratio), rel=1e-5)


def test_a_rare_category_is_strange_even_where_it_is_reconstructed():
    rng = np.random.default_rng(0)
    codes = np.where(rng.random(1000) < 0.02, 1.0, 0.0)
    X = np.c_[rows(1000), codes, codes]
    ae = make(augmentation=None, max_iter=200, categorical_features=[6, 7]).fit(X)
    scores = ae.score_samples(X)
    assert roc_auc_score(codes, -scores) > 0.95


@pytest.mark.parametrize("n", [20, 200])  # fewer rows than errors, and more
def test_threads_take_turns_at_the_first_inverse(monkeypatch, n):
    """As torch asks for on a GPU, where the first one loads its linear algebra."""
    X = np.random.default_rng(0).normal(size=(n, 20))
    X[::3, 1] = np.nan
    fitted = [make(max_iter=1, random_state=seed).fit(X) for seed in range(4)]
    expected = [copy.deepcopy(ae).score_samples(X) for ae in fitted]
    loading, loaded = threading.Lock(), threading.Event()

    def loading_first(function):
        def replaced(*args):
            if not loaded.is_set():
                assert loading.acquire(blocking=False)
                time.sleep(0.1)
                loaded.set()
            return function(*args)

        return replaced

    for name in ("inv", "eigh"):
        function = getattr(torch.linalg, name)
        monkeypatch.setattr(torch.linalg, name, loading_first(function))
    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(lambda ae: ae.score_samples(X), fitted))
    assert_array_equal(scores, expected)

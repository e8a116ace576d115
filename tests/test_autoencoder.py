"""The autoencoder against PCA, and what its errors and scores mean."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from skrepr import AutoencoderTransformer
from skrepr._training._sources import Batch
from skrepr.augmentations import FeatureMasking, GaussianNoise
from skrepr.backbones import MLP
from skrepr.likelihoods import Gaussian


def rows(n=500, rank=3):
    """Six correlated columns in very different units."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(n, rank)) * [3, 2, 0.5][:rank]
    X = signal @ rng.normal(size=(rank, 6)) + 0.5 * rng.normal(size=(n, 6))
    return X * [1, 1e3, 1e-3, 5, 0.1, 1] + [0, 1e4, 0, 0, 3, 100]


def binary_rows(n=200):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(n, 2)) @ rng.normal(size=(2, 7))
    return (rng.logistic(size=(n, 7)) < logits) * 1.0


def make(n_components=2, **params):
    params = {"backbone": MLP((16,)), "max_iter": 20, "random_state": 0} | params
    return AutoencoderTransformer(n_components, **params)


@pytest.fixture(scope="module")
def linear():
    """A linear autoencoder, trained to the end."""
    return make(
        backbone=MLP(()), augmentation=None, learning_rate=0.02, max_iter=600
    ).fit(rows())


def test_a_linear_autoencoder_spans_the_subspace_of_pca(linear):
    X = rows()
    Z = StandardScaler().fit_transform(X)
    pca = PCA(2).fit(Z)
    decoder = linear.module_.decoder[0].weight.numpy()
    assert np.degrees(subspace_angles(decoder, pca.components_.T)).max() < 1

    residuals = Z - pca.inverse_transform(pca.transform(Z))
    least = np.square(residuals).mean()
    error = linear.reconstruction_error(X).mean()
    assert least <= error * (1 + 1e-6)
    assert error == pytest.approx(least, rel=0.01)
    assert linear.score(X) == pytest.approx(-least, rel=0.01)
    errors = linear.reconstruction_error(X).mean(axis=1)
    assert np.corrcoef(errors, np.square(residuals).mean(axis=1))[0, 1] > 0.99


def test_the_training_loss_is_the_reconstruction_error(linear):
    error = linear.reconstruction_error(rows()).mean()
    assert linear.history_["loss"][-1] == pytest.approx(error, rel=0.01)
    assert linear.history_["loss"] == linear.history_["reconstruction"]


@pytest.mark.parametrize("standardize", [True, False])
def test_errors_are_squared_residuals_in_variances_of_the_column(standardize):
    X = rows(60)
    ae = make(standardize=standardize).fit(X)
    new = X[:10] * 1.1
    residuals = (new - ae.inverse_transform(ae.transform(new))) / X.std(axis=0)
    errors = ae.reconstruction_error(new)
    assert errors.shape == new.shape
    assert errors.dtype == np.float64
    assert_allclose(errors, np.square(residuals), rtol=1e-6, atol=1e-12)
    assert ae.score(new) == pytest.approx(-errors.mean())


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("value", [5.0, 5e-9, -5e200, 0.0])
def test_another_value_in_a_column_that_was_constant_counts_36(standardize, value):
    X = np.insert(rows(60), 2, value, axis=1)
    ae = make(standardize=standardize).fit(X)
    assert (ae.reconstruction_error(X)[:, 2] == 0).all()
    new = np.resize(X[0], (4, 7))
    new[1, 2] = np.nextafter(value, -np.inf) if value else value  # rounding
    new[2, 2] = 1.05 * value if value else 1e-300
    new[3, 2] = -1e300
    errors = ae.reconstruction_error(new)
    assert_array_equal(errors[:, 2], [0, 0, 36, 36])
    others = np.delete(errors, 2, axis=1)
    assert_allclose(others, others[[0] * 4], rtol=1e-9)
    assert_allclose(np.diff(ae.score_samples(new)), [0, -36 / 6, 0], atol=1e-9)


def test_float32_rows_of_a_constant_column_count_0():
    X = np.insert(rows(60), 2, 0.1, axis=1).astype(np.float32)
    ae = make().fit(X)
    assert (ae.reconstruction_error(X)[:, 2] == 0).all()
    X[:, 2] += np.float32(0.001)
    assert (ae.reconstruction_error(X)[:, 2] == 36).all()


@pytest.mark.parametrize("augmentation", [None, "gaussian_noise"])
def test_the_strange_feature_of_a_row_has_the_largest_error(augmentation):
    X = rows()
    ae = make(3, augmentation=augmentation, max_iter=300, learning_rate=0.01).fit(X)
    strange = X[:60].copy()
    cells = np.arange(60), np.arange(60) % 6
    strange[cells] += 8 * X.std(axis=0)[cells[1]]
    found = ae.reconstruction_error(strange).argmax(axis=1)
    assert (found == cells[1]).mean() > 0.6
    assert ae.score_samples(strange).max() < np.median(ae.score_samples(X))


def test_standardising_inside_or_before_gives_the_same_codes():
    X = rows(100)
    Z = StandardScaler().fit_transform(X)
    inside, before = make().fit(X), make(standardize=False).fit(Z)
    codes = inside.transform(X)
    assert_allclose(before.transform(Z), codes, atol=1e-4 * codes.std())
    assert_allclose(
        before.reconstruction_error(Z), inside.reconstruction_error(X), atol=1e-3
    )


def test_denoising_reconstructs_what_was_masked():
    X = rows()
    masked = X.copy()
    masked[:, 0] = X[:, 0].mean()
    errors = []
    for augmentation in None, FeatureMasking(0.3):
        ae = make(4, backbone=MLP((32,)), augmentation=augmentation, max_iter=200)
        decoded = ae.fit(X).inverse_transform(ae.transform(masked))
        errors.append(np.square((decoded - X) / X.std(axis=0))[:, 0].mean())
    assert errors[1] < 0.6 * errors[0]


def test_denoising_shrinks_towards_the_data():
    # The best linear map from x + noise back to x shrinks by var / (var + noise²).
    X = np.random.default_rng(0).normal(size=(2000, 1))
    ae = make(1, backbone=MLP(()), augmentation=GaussianNoise(0.5), max_iter=150)
    ae.set_params(learning_rate=0.01).fit(X)
    slope = np.polyfit(X[:, 0], ae.inverse_transform(ae.transform(X))[:, 0], 1)[0]
    assert slope == pytest.approx(1 / 1.25, abs=0.02)


def test_the_scale_of_the_gaussian_does_not_matter_to_an_autoencoder():
    X = rows(60)
    a, b = (make(likelihood=Gaussian(scale)).fit(X) for scale in ("learned", 0.01))
    assert_array_equal(a.transform(X), b.transform(X))


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_the_bernoulli_loss_is_the_binary_cross_entropy(standardize, binary):
    X = binary_rows()
    if not binary:
        X = 0.8 * X + 0.1
    ae = make(likelihood="bernoulli", augmentation=None, standardize=standardize)
    p = ae.fit(X).inverse_transform(ae.transform(X))
    expected = -np.mean(X * np.log(p) + (1 - X) * np.log1p(-p))
    x = torch.from_numpy(ae.table_.to_matrix(X, np.float32))
    terms = ae.module_.loss(Batch(x, None, None, None, None))
    assert terms["reconstruction"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("standardize", [True, False])
def test_bernoulli_reconstructions_lie_between_0_and_1(standardize):
    X = binary_rows()
    ae = make(likelihood="bernoulli", standardize=standardize)
    ae.set_params(max_iter=300, learning_rate=0.01).fit(X)
    decoded = ae.inverse_transform(100 * ae.transform(X))
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert ((ae.inverse_transform(ae.transform(X)) > 0.5) == X).mean() > 0.85


def test_the_loss_is_a_mean_over_the_columns_that_vary():
    X = rows(60)
    wider = np.column_stack([X, np.zeros((60, 5))])
    constant = make(max_iter=1, learning_rate=1e-12, augmentation=None)
    for data in X, wider:
        ae = constant.fit(data)
        expected = ae.reconstruction_error(data)[:, :6].mean()
        assert ae.history_["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_more_components_than_columns_reconstruct_all():
    X = rows(200)
    ae = make(12, augmentation=None, max_iter=400, learning_rate=0.01).fit(X)
    assert ae.transform(X).shape == (200, 12)
    assert ae.score(X) > -0.02


def test_rows_come_back_in_the_container_and_the_units_of_the_training_rows():
    X = pd.DataFrame(rows(60), columns=list("abcdef"), index=range(100, 160))
    ae = make(4, augmentation=None, max_iter=200, learning_rate=0.01).fit(X)
    codes = ae.set_output(transform="pandas").transform(X)
    decoded = ae.inverse_transform(codes)
    assert decoded.columns.tolist() == X.columns.tolist()
    assert decoded.index.tolist() == X.index.tolist()
    assert ((decoded - X).std() < 0.5 * X.std()).all()


def test_read_only_codes_are_decoded_without_a_warning(request):
    torch.set_warn_always(True)  # otherwise torch warns once in a process
    request.addfinalizer(lambda: torch.set_warn_always(False))
    ae = make(max_iter=2).fit(rows(20))
    codes = ae.transform(rows(20))
    expected = ae.inverse_transform(codes)
    codes.flags.writeable = False
    assert_array_equal(ae.inverse_transform(codes), expected)


def test_float32_rows_give_float32_codes_and_float64_scores():
    X = rows(60)
    ae = make().fit(X)
    codes = ae.transform(X.astype(np.float32))
    assert codes.dtype == ae.inverse_transform(codes).dtype == np.float32
    assert_allclose(codes, ae.transform(X), atol=1e-4)
    assert ae.score_samples(X.astype(np.float32)).dtype == np.float64


def test_codes_of_another_width_are_an_error():
    ae = make(3, max_iter=2).fit(rows(20))
    with pytest.raises(ValueError, match=r"Z has 2 columns, .* with n_components=3"):
        ae.inverse_transform(np.zeros((4, 2)))


@pytest.mark.parametrize("standardize", [True, False])
def test_the_error_of_a_value_far_off_is_finite(standardize):
    X = rows(20) / rows(20).std(axis=0)
    ae = make(max_iter=2, standardize=standardize).fit(X)
    errors = ae.reconstruction_error(np.full((1, 6), 1.7e308))
    assert np.isfinite(errors).all()
    assert errors.max() > 1e11


# Missing values and categories.


def holey(share=0.2, seed=1):
    """Return rows, and a copy of them with holes."""
    X = rows(600, rank=2)
    holes = np.random.default_rng(seed).uniform(size=X.shape) < share
    holes[:, 5] = False
    return X, np.where(holes, np.nan, X)


def batch(x, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return Batch(x, None, torch.arange(len(x)), torch.tensor(0.0), draws)


def test_the_loss_is_a_mean_over_the_observed_cells_of_columns_that_vary():
    X = np.insert(holey()[1], 3, 7.0, axis=1)
    X[::5, 3] = np.nan
    ae = make(augmentation=None, max_iter=2).fit(X)
    x = torch.from_numpy(ae.table_.to_matrix(X, np.float32))
    seen = []
    code = ae.module_.encoder.code
    ae.module_.encoder.code = lambda inputs: seen.append(inputs) or code(inputs)
    loss = ae.module_.loss(batch(x))["reconstruction"]
    with torch.no_grad():
        output = ae.module_.decoder(code(seen[0]))
    squares = (x - output).square()[:, [0, 1, 2, 4, 5, 6]]
    assert loss.item() == pytest.approx(squares.nanmean().item(), rel=1e-5)


def test_the_encoder_misses_further_cells_where_training_rows_had_holes():
    X = holey(0.1)[1]
    ae = make(augmentation=None, max_iter=2).fit(X)
    x = torch.from_numpy(ae.table_.to_matrix(X, np.float32)).repeat(20, 1)
    *draws, _ = ae.module_.draws(x, torch.Generator().manual_seed(0))
    hidden = ae.module_.shown(x, draws).isnan().numpy()
    was = x.isnan().numpy()
    assert hidden[was].all()
    assert not hidden[:, 5].any()  # which had no holes
    rates = (hidden & ~was)[:, :5].sum(1) / np.maximum((~was)[:, :5].sum(1), 1)
    assert rates.mean() == pytest.approx(0.25, abs=0.02)
    # Every row draws its rate: more rows miss nothing, or much, than at one rate.
    n = (~was[:, :5]).all(axis=1)
    assert rates[n].var() > 0.25 * 0.75 / 5 + 0.8 * 0.5**2 / 12 * 4 / 5
    whole = make(augmentation=None, max_iter=2).fit(rows())
    assert not whole.module_.has_holes


@pytest.mark.parametrize("trained_on_holes", [True, False])
def test_holes_are_filled_from_the_rest_of_the_row(trained_on_holes):
    whole, X = holey()
    ae = make(backbone=MLP((32,)), augmentation=None, max_iter=150, learning_rate=0.01)
    ae.fit(X if trained_on_holes else whole)
    filled, holes = ae.impute(X), np.isnan(X)
    assert_array_equal(filled[~holes], X[~holes])
    errors = np.square((filled - whole) / whole.std(0))[holes]
    assert errors.mean() < 0.5  # 1 is the error of the means
    assert_array_equal(np.isnan(ae.reconstruction_error(X)), holes)
    assert np.isfinite(ae.score(X))
    assert np.isfinite(ae.score_samples(X)).all()


def test_another_round_of_filling_changes_little():
    whole, X = holey()
    ae = make(augmentation=None, max_iter=100).fit(whole)
    once = ae._run("fill", X)
    assert not np.isnan(once).any()
    ae.module_.had_holes[:] = True  # one round
    first = ae._run("fill", X)
    last = np.abs(once - first)[np.isnan(X)].mean()
    assert 0 < last < np.abs(first)[np.isnan(X)].mean()


def test_rows_with_holes_score_like_whole_ones():
    whole, X = holey()
    ae = make(max_iter=60).fit(X)
    assert ae.score_samples(X).mean() == pytest.approx(-1, rel=0.2)
    strange = X.copy()
    strange[:20, 0] = whole[:, 0].max() * 3
    scores = ae.score_samples(strange)
    assert np.median(scores[:20]) < np.quantile(scores[20:], 0.05)
    assert (ae.feature_contributions(X) >= 0).all()


def test_a_category_that_does_not_fit_is_noticed():
    rng = np.random.default_rng(0)
    z = rng.normal(size=1000)
    X = np.column_stack([z, z + 0.1 * rng.normal(size=1000), z > 0])
    ae = make(2, categorical_features=[2], max_iter=60).fit(X)
    new = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    errors = ae.reconstruction_error(new)
    assert errors[0, 2] < 0.2
    assert errors[1, 2] > 1
    assert np.diff(ae.score_samples(new)) < -3
    assert ae.feature_contributions(new)[1].argmax() == 2
    back = ae.inverse_transform(ae.transform(X))
    assert (back[:, 2] == X[:, 2]).mean() > 0.95
    assert set(back[:, 2]) == {0.0, 1.0}


@pytest.mark.parametrize(("holes", "rate"), [(False, 2e-3), (True, 4e-3)])
def test_the_automatic_learning_rate_depends_on_holes(holes, rate):
    X = np.random.default_rng(0).normal(size=(50, 3))
    if holes:
        X[::3, 1] = np.nan
    auto, fixed, other = (
        AutoencoderTransformer(2, learning_rate=value, max_iter=2, random_state=0)
        for value in ("auto", rate, 3e-3)
    )
    codes = auto.fit(X).transform(X)
    assert (codes == fixed.fit(X).transform(X)).all()
    assert (codes != other.fit(X).transform(X)).any()

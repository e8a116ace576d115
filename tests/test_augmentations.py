"""Random changes of rows, for denoising and for contrastive views."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import ks_2samp, kstest, uniform

from skrepr import AutoencoderTransformer, ContrastiveTransformer
from skrepr._columns._schema import Schema
from skrepr._columns._table import Table
from skrepr.augmentations import (
    Compose,
    FeatureCorruption,
    FeatureMasking,
    GaussianNoise,
    Mixup,
)


def flip(x, generator):
    """Flip the signs of some cells, as a user may write it."""
    return torch.where(torch.empty_like(x).uniform_(generator=generator) < 0.3, -x, x)


ALL = {
    "noise": GaussianNoise(0.5),
    "masking": FeatureMasking(0.4),
    "masking at a random rate": FeatureMasking((0.1, 0.7)),
    "corruption": FeatureCorruption(0.4),
    "corruption at a random rate": FeatureCorruption((0.1, 0.7)),
    "corruption within classes": FeatureCorruption(0.4, donors="class"),
    "mixup": Mixup(),
    "composition": Compose("feature_corruption", "gaussian_noise"),
    "function": Compose(flip, flip),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def correlated(n=20_000):
    """Rows of three columns in different units, the first two nearly equal."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 1))
    X = np.hstack([z, z + 0.1 * rng.normal(size=(n, 1)), rng.exponential(size=(n, 1))])
    return X * [1, 50, 0.2] + [0, 1000, 3]


def augment(part, X, standardize=True, seed=0, ids=None):
    """Return the matrix of X, its augmented copy and the column layout."""
    table = Table.fit(X, standardize=standardize, schema=Schema.fit(X, None, ""))
    matrix = torch.from_numpy(table.to_matrix(X, np.float32))
    ids = ids if ids is None else torch.as_tensor(ids)
    changed = part.build(table.columns)(matrix, generator(seed), ids)
    return matrix.numpy(), changed.numpy(), table.columns


@pytest.mark.parametrize("ids", [None, np.arange(50) % 7])
@pytest.mark.parametrize("part", ALL.values(), ids=ALL)
def test_the_generator_decides_everything(part, ids):
    X = correlated(50)
    state = torch.get_rng_state()
    before, a, _ = augment(part, X, ids=ids)
    assert np.array_equal(a, augment(part, X, ids=ids)[1])
    assert not np.array_equal(a, augment(part, X, seed=1, ids=ids)[1])
    assert not np.array_equal(a, before)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("part", ALL.values(), ids=ALL)
def test_two_draws_from_one_generator_differ(part):
    X = correlated(50)
    table = Table.fit(X, standardize=True, schema=Schema.fit(X, None, ""))
    matrix = torch.from_numpy(table.to_matrix(X, np.float32))
    module, draws = part.build(table.columns), generator()
    assert not torch.equal(module(matrix, draws), module(matrix, draws))


@pytest.mark.parametrize("part", ALL.values(), ids=ALL)
def test_the_batch_itself_is_not_changed(part):
    X = correlated(50)
    table = Table.fit(X, standardize=True, schema=Schema.fit(X, None, ""))
    matrix = torch.from_numpy(table.to_matrix(X, np.float32))
    before, ids = matrix.clone(), torch.arange(50) % 7
    part.build(table.columns)(matrix, generator(), ids)
    assert torch.equal(matrix, before)
    assert torch.equal(ids, torch.arange(50) % 7)


@pytest.mark.parametrize(
    "part",
    [
        GaussianNoise(0.0),
        FeatureMasking(0.0),
        FeatureCorruption(0.0),
        FeatureCorruption((0.0, 0.0), donors="class"),
        Mixup(1.0),
        Compose(FeatureMasking(0.0), FeatureCorruption(0.0)),
        Compose(lambda x, generator: x, Mixup(1.0)),
    ],
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


@pytest.mark.parametrize("part", [FeatureMasking, FeatureCorruption])
def test_every_row_draws_its_own_rate(part):
    before, after, _ = augment(part((0.2, 0.8)), correlated(20_000))
    changed = before != after
    assert_allclose(changed.mean(axis=0), 0.5, atol=0.015)
    # Given its rate, cells of a row change by themselves: what they have in common is
    # the variance of the rate.
    expected = np.where(np.eye(3), 0.25, 0.6**2 / 12)
    assert_allclose(np.cov(changed.T), expected, atol=0.005)


@pytest.mark.parametrize("bounds", [(0.3, 0.3), [0.3, 0.3]])
@pytest.mark.parametrize("part", [GaussianNoise, FeatureMasking, FeatureCorruption])
def test_a_pair_of_equal_numbers_is_the_number(part, bounds):
    X = correlated(50)
    assert np.array_equal(augment(part(bounds), X)[1], augment(part(0.3), X)[1])


@pytest.mark.parametrize(
    "bounds", [(1.0, 0.5), (-0.1, 1.0), (0.0,), (0, 0.5, 1), (0.0, np.inf), ("a", 1)]
)
@pytest.mark.parametrize("part", [GaussianNoise, FeatureMasking, FeatureCorruption])
def test_a_pair_that_is_no_range_is_an_error(part, bounds):
    name = "scale" if part is GaussianNoise else "rate"
    message = rf"'{name}' .*{part.__name__}.*lowest, highest"
    with pytest.raises(ValueError, match=message):
        AutoencoderTransformer(augmentation=part(bounds)).fit(correlated(9))


def test_scales_may_exceed_1_and_rates_may_not():
    augment(GaussianNoise((0.5, 2.0)), correlated(9))
    for part in FeatureMasking, FeatureCorruption:
        with pytest.raises(ValueError, match=r"a number in \[0, 1\].*\(0.5, 2.0\)"):
            AutoencoderTransformer(augmentation=part((0.5, 2.0))).fit(correlated(9))


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


def donors(ids, donors="class", n_columns=20_000):
    """Return the share of every row (columns) among what a row (rows) is given."""
    n = 5
    x = torch.arange(n).float()[:, None].expand(n, n_columns)
    module = FeatureCorruption(1.0, donors=donors).build(None)
    given = module(x, generator(), ids if ids is None else torch.tensor(ids))
    return np.stack([(given == i).float().mean(1).numpy() for i in range(n)], axis=1)


def test_donors_of_a_class_are_drawn_alike():
    third, fifth = [1 / 3, 0, 1 / 3, 1 / 3, 0], [1 / 5] * 5
    expected = [third, fifth, third, third, fifth]  # the others are alone
    assert_allclose(donors([7, -3, 7, 7, 9]), expected, atol=0.015)
    two, three = [0, 0.5, 0, 0, 0.5], [1 / 3, 0, 1 / 3, 1 / 3, 0]
    assert_allclose(donors([4, 2, 4, 4, 2]), [three, two, three, three, two], atol=0.02)


@pytest.mark.parametrize(
    ("ids", "which"),
    [(None, "class"), (None, "all"), ([0, 0, 1, 1, 1], "all"), (range(5), "class")],
)
def test_donors_are_all_rows_where_no_class_is_known_or_asked_for(ids, which):
    ids = ids if ids is None else list(ids)
    assert_allclose(donors(ids, which), np.full((5, 5), 0.2), atol=0.015)


def test_donors_keep_the_distribution_of_the_class_and_break_its_dependence():
    X, ids = correlated(20_000), np.arange(20_000) % 2
    X[ids == 1] = X[ids == 1] * [3, 1, 2] + [5, -500, 1]
    for part in (
        FeatureCorruption(1.0, donors="class"),
        Compose(FeatureCorruption(1.0, donors="class"), FeatureCorruption(0.0)),
    ):
        before, after, _ = augment(part, X, ids=ids)
        for k in 0, 1:
            old, new = before[ids == k], after[ids == k]
            assert (ks_2samp(old, new).statistic < 0.03).all()
            assert np.abs(np.corrcoef(new.T) - np.eye(3)).max() < 0.03


def test_the_rate_holds_within_classes_too():
    part = FeatureCorruption(0.3, donors="class")
    before, after, _ = augment(part, correlated(), ids=np.arange(20_000) % 100)
    # One draw in 200 is of the row itself.
    assert_allclose((before != after).mean(axis=0), 0.3 * 199 / 200, atol=0.015)


def mixed(n, min_share):
    """Return the rows that mixup made of unit vectors: shares lie open."""
    X = np.eye(n + 1, n)
    columns = Table.fit(X, standardize=False, schema=Schema.fit(X, None, "")).columns
    return Mixup(min_share).build(columns)(torch.eye(n), generator()).numpy()


@pytest.mark.parametrize("min_share", [0.0, 0.5, 0.9])
def test_mixup_shares_a_row_with_one_other(min_share):
    n = 2000
    after = mixed(n, min_share)
    share = after.diagonal()
    assert kstest(share, uniform(min_share, 1 - min_share).cdf).pvalue > 0.01
    assert share.mean() == pytest.approx((1 + min_share) / 2, abs=0.02)
    assert share.var() == pytest.approx((1 - min_share) ** 2 / 12, rel=0.1)
    rest = after - np.diag(share)
    assert ((rest != 0).sum(axis=1) == 1).all()
    assert_allclose(rest.sum(axis=1), 1 - share, atol=1e-6)
    # Which other is no matter of the distance between the two.
    step = (rest.argmax(axis=1) - np.arange(n)) % n
    assert kstest(step, uniform(1, n - 1).cdf).pvalue > 0.01


def test_mixup_of_few_rows():
    after = mixed(2, 0.5)
    assert (after.diagonal() < 1).all()
    assert_allclose(after.sum(axis=1), 1)
    assert np.array_equal(mixed(1, 0.5), [[1]])  # there is no other


def test_mixup_keeps_means_and_dependence_and_shrinks_the_variance():
    before, after, _ = augment(Mixup(0.5), correlated())
    assert_allclose(after.mean(axis=0), 0, atol=0.02)
    # λ² + (1 - λ)² is 7/12 + 1/12 on average.
    assert_allclose(after.var(axis=0), 2 / 3, rtol=0.03)
    correlation = np.corrcoef(before.T)[0, 1]
    assert np.corrcoef(after.T)[0, 1] == pytest.approx(correlation, abs=1e-3)
    assert (after >= before.min(axis=0) - 1e-5).all()
    assert (after <= before.max(axis=0) + 1e-5).all()


def mask(x, generator):
    """Do as `FeatureMasking(0.4)` does to standardised columns."""
    masked = torch.empty_like(x).uniform_(generator=generator) < 0.4
    return torch.where(masked, 0.0, x)


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: Compose(f, "mixup")])
@pytest.mark.parametrize("kind", [AutoencoderTransformer, ContrastiveTransformer])
def test_a_function_trains_like_the_part_that_does_the_same(kind, wrap):
    X = correlated(100)
    by_part, by_function = (
        kind(2, augmentation=wrap(f), max_iter=5, batch_size=50, random_state=0).fit(X)
        for f in (FeatureMasking(0.4), mask)
    )
    assert_allclose(by_function.history_["loss"], by_part.history_["loss"], rtol=1e-4)
    assert_allclose(by_function.transform(X), by_part.transform(X), atol=1e-3)
    if kind is ContrastiveTransformer:
        assert by_function.score(X) == pytest.approx(by_part.score(X), abs=0.05)


def test_a_function_that_forgets_the_generator_changes_nothing_global():
    def forgetful(x, generator):
        return x + torch.randn_like(x)

    X, state = correlated(50), torch.get_rng_state()
    a, b = (
        AutoencoderTransformer(
            2, augmentation=Compose(forgetful, "mixup"), max_iter=3, random_state=0
        ).fit(X)
        for _ in range(2)
    )
    assert a.history_ == b.history_
    assert torch.equal(state, torch.get_rng_state())


def test_a_function_may_write_to_its_rows_and_compute_in_float64():
    def overwrite(x, generator):
        x[:] = 3
        return x.double()

    X = correlated(20)
    before, after, _ = augment(Compose(overwrite, Mixup(1.0)), X)
    assert after.dtype == np.float32
    assert (after == 3).all()
    assert np.abs(before.mean()) < 1e-6


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda x, generator: x[:, :2], r"the shape \(2, 2\)"),
        (lambda x, generator: x[:1], r"the shape \(1, 3\)"),
        (lambda x, generator: x.numpy(), r"<class 'numpy.ndarray'>"),
        (lambda x, generator: None, r"<class 'NoneType'>"),
    ],
)
def test_a_function_must_return_rows_like_those_it_gets(function, got):
    message = rf"must return a tensor of the shape \(2, 3\).* Got {got}"
    for estimator in AutoencoderTransformer, ContrastiveTransformer:
        with pytest.raises(ValueError, match=message):
            estimator(2, augmentation=function, max_iter=1).fit(correlated(20))


def test_a_composition_applies_one_after_the_other():
    X = correlated(50)
    table = Table.fit(X, standardize=True, schema=Schema.fit(X, None, ""))
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


def test_a_function_has_to_take_a_batch_and_a_generator():
    contrastive = ContrastiveTransformer(augmentation=lambda x: x)
    with pytest.raises(ValueError, match=r"cannot be called with a batch and a gen"):
        contrastive.fit(correlated(9))


# Categories and holes.


def with_categories(n=20_000):
    """Rows of a number, one with holes, and two columns of categories, one with holes.

    The latter are equal where they are observed.
    """
    rng = np.random.default_rng(0)
    codes = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1]) * 1.0
    X = np.column_stack([rng.normal(size=(n, 2)), codes, codes])
    X[rng.uniform(size=n) < 0.25, 1] = np.nan
    X[rng.uniform(size=n) < 0.25, 3] = np.nan
    return X


def test_a_function_must_leave_codes_of_categories():
    def shift(x, generator):
        return x + 1

    ae = AutoencoderTransformer(2, augmentation=shift, categorical_features=[2, 3])
    expected = r"returned \[4.0, 4.0\] in the categorical column 2\. Expected .* 0 to 3"
    with pytest.raises(ValueError, match=expected):
        ae.fit(with_categories(50))


def augment_mixed(part, X):
    """Return the matrix of rows with categories, its augmented copy and the layout."""
    schema = Schema.fit(X, [2, 3], "")
    table = Table.fit(X, standardize=True, schema=schema)
    matrix = torch.from_numpy(table.to_matrix(X, np.float32))
    changed = part.build(table.columns)(matrix, generator())
    return matrix.numpy(), changed.numpy(), table.columns


@pytest.mark.parametrize(
    "part",
    [part for name, part in ALL.items() if name not in ("function", "composition")],
    ids=[name for name in ALL if name not in ("function", "composition")],
)
def test_categories_stay_codes(part):
    _, after, _ = augment_mixed(part, with_categories(2000))
    for j in 2, 3:
        assert set(after[~np.isnan(after[:, j]), j]) == {0, 1, 2, 3}
    assert not np.isnan(after[:, 0]).any()


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_noise_replaces_categories_by_its_share_of_the_variance(scale):
    X = with_categories()
    before, after, _ = augment_mixed(GaussianNoise(scale), X)
    assert np.array_equal(np.isnan(before), np.isnan(after))
    share = scale**2 / (1 + scale**2)
    frequencies = np.array([0.4, 0.3, 0.2, 0.1])
    expected = share * (1 - np.square(frequencies).sum())
    assert (before[:, 2] != after[:, 2]).mean() == pytest.approx(expected, abs=0.015)
    # A donor that is missing gives nothing.
    both = ~np.isnan(before[:, 3])
    changed = before[both, 3] != after[both, 3]
    assert changed.mean() == pytest.approx(0.75 * expected, abs=0.015)
    found = np.bincount(after[:, 2].astype(int)) / len(after)
    assert_allclose(found, frequencies, atol=0.015)
    observed = ~np.isnan(X[:, 1])
    noise = after[observed, 1] - before[observed, 1]
    assert noise.std() == pytest.approx(scale, abs=0.03)


def test_masked_cells_are_missing_where_cells_may_be():
    before, after, columns = augment_mixed(FeatureMasking(0.4), with_categories())
    masked = after[:, 0] == np.float32(columns.mean[0])
    assert masked.mean() == pytest.approx(0.4, abs=0.015)
    for j, already in (1, 0.25), (2, 0.0), (3, 0.25):
        missing = np.isnan(after[:, j])
        assert missing.mean() == pytest.approx(already + 0.4 * (1 - already), abs=0.015)
        assert np.array_equal(after[~missing, j], before[~missing, j])


def test_a_donor_gives_its_cell_whether_or_not_it_is_missing():
    before, after, _ = augment_mixed(FeatureCorruption(1.0), with_categories())
    for j in 1, 3:
        was, now = np.isnan(before[:, j]), np.isnan(after[:, j])
        assert now.mean() == pytest.approx(0.25, abs=0.015)
        assert np.corrcoef(was, now)[0, 1] == pytest.approx(0, abs=0.03)


def test_mixup_takes_every_category_from_one_of_the_rows():
    before, after, _ = augment_mixed(Mixup(0.5), with_categories())
    same = before[:, 2] == after[:, 2]
    # The share of the row itself is 3/4 on average.
    expected = 0.75 + 0.25 * (0.4**2 + 0.3**2 + 0.2**2 + 0.1**2)
    assert same.mean() == pytest.approx(expected, abs=0.015)
    assert np.array_equal(np.isnan(before[:, 1]), np.isnan(after[:, 1]))
    # One row in four has a partner whose number is missing, and stays what it is.
    observed = ~np.isnan(before[:, 1])
    kept = before[observed, 1] == after[observed, 1]
    assert kept.mean() == pytest.approx(0.25, abs=0.015)
    now = np.isnan(after[:, 3])
    assert now.mean() == pytest.approx(0.25, abs=0.015)


def test_a_function_sees_codes_and_holes():
    seen = []

    def look(x, generator):
        seen.append(x.clone())
        x[:, 0] = torch.nan
        return x

    X = with_categories(200)
    ae = AutoencoderTransformer(2, augmentation=look, categorical_features=[2, 3])
    ae.set_params(max_iter=1, batch_size=200, random_state=0).fit(X)
    assert np.isfinite(ae.history_["loss"]).all()
    assert np.isnan(seen[-1][:, 3].numpy()).any()
    assert set(seen[-1][:, 2].tolist()) == {0.0, 1.0, 2.0, 3.0}

"""The border between the user's columns and the matrix of the modules."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import median_abs_deviation

from skrepr import AutoencoderTransformer
from skrepr._columns._schema import Schema
from skrepr._columns._table import Table
from skrepr._columns._trimming import central_rows


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def make_table(X, standardize=True, original=None):
    schema = Schema.fit(X if original is None else original, "from_dtype", "Test")
    return Table.fit(X, standardize=standardize, schema=schema)


def timestamps(n=300):
    """Columns with an offset that float32 cannot hold beside their signal."""
    rng = np.random.default_rng(0)
    dates = pd.date_range("2024-01-01", periods=n, freq="D")
    return {
        "unix milliseconds of an hour": 1.7e12 + rng.uniform(0, 3.6e6, n),
        "unix nanoseconds of a minute": 1.7e18 + rng.uniform(0, 6e10, n).round(-3),
        "YYYYMMDD": dates.strftime("%Y%m%d").to_numpy(float),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardised_columns_have_mean_0_and_variance_1(rng, dtype):
    X = (rng.normal(size=(500, 3)) * [1e-6, 1.0, 1e6] + [0, 3, 1e6]).astype(dtype)
    matrix = make_table(X).to_matrix(X)
    assert matrix.dtype == dtype
    assert_allclose(matrix.mean(axis=0, dtype=float), 0, atol=1e-5)
    assert_allclose(matrix.std(axis=0, dtype=float), 1, atol=1e-5)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_the_way_there_and_back_is_the_identity(rng, standardize, dtype, rtol):
    X = (rng.normal(size=(70, 4)) * [1e-3, 1, 1e3, 0] + [0, 1, -5, 7]).astype(dtype)
    table = make_table(X, standardize)
    back = table.from_matrix(table.to_matrix(X))
    assert (np.abs(back - X) <= rtol * np.abs(X).max(axis=0)).all()


def test_many_rows_are_scaled_as_few_are(rng):
    X = rng.normal(size=(70_000, 2))
    table = make_table(X)
    last = table.to_matrix(X[-10:])
    assert_array_equal(table.to_matrix(X)[-10:], last)


@pytest.mark.parametrize("kind", timestamps())
def test_a_large_offset_does_not_drown_the_signal(kind):
    x = timestamps()[kind]
    X = x[:, None]
    table = make_table(X)
    matrix = table.to_matrix(X, np.float32)
    exact = (x - x.mean()) / x.std()
    assert_allclose(matrix[:, 0], exact, atol=1e-4)
    back = table.from_matrix(matrix)[:, 0]
    assert np.abs(back - x).max() < 1e-5 * x.std() + np.spacing(x.max())


def test_an_autoencoder_tells_rows_apart_that_differ_little_beside_the_offset():
    columns = timestamps()
    X = np.column_stack(list(columns.values()))
    ae = AutoencoderTransformer(3, augmentation=None, random_state=0).fit(X)
    residual = ae.inverse_transform(ae.transform(X)) - X
    assert (residual.std(axis=0) < 0.1 * X.std(axis=0)).all()
    one_minute_later = X + np.array([60_000, 0, 0])
    moved = np.abs(ae.transform(one_minute_later) - ae.transform(X)).max(axis=1)
    assert (moved > 0.01 * ae.transform(X).std(axis=0).max()).all()


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e-300, -7e15, 1e300])
def test_a_constant_column_is_0_in_the_matrix_and_comes_back_exactly(
    rng, standardize, value
):
    X = np.column_stack([np.full(99, value), rng.normal(size=99)])
    table = make_table(X, standardize)
    assert table.varies.tolist() == [False, True]
    new = np.array([[value + 5, 0.0], [3.0, 1.0]])
    assert_array_equal(table.to_matrix(new)[:, 0], 0)
    assert_array_equal(table.from_matrix(rng.normal(size=(4, 2)))[:, 0], value)


def test_the_spread_of_rounding_is_no_signal():
    X = np.array([[0.1 + 0.2, 1.0], [0.3, 2.0], [0.3, 3.0]])
    assert make_table(X).varies.tolist() == [False, True]


def test_a_small_spread_beside_a_large_offset_is_signal():
    X = 1e9 + np.arange(5.0)[:, None] * 1e-3
    assert make_table(X).varies.all()


@pytest.mark.parametrize("names", [None, ["small", "huge"]])
def test_values_too_large_for_a_variance_are_an_error_that_names_the_column(names):
    X = np.column_stack([np.arange(4.0), [1e200, -1e200, 3e200, 0.0]])
    original = X if names is None else pd.DataFrame(X, columns=names)
    shown = 1 if names is None else "'huge'"
    with pytest.raises(ValueError, match=rf"Column {shown} holds values up to 3\.0e\+"):
        make_table(X, original=original)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("value", [1e200, -1.7e308])
def test_too_large_says_what_to_do(standardize, value):
    X = np.column_stack([np.arange(4.0), [value, 1.0, 2.0, 3.0]])
    message = r"Column 1 .*too large to compute with\. .*Rescale the column or take"
    with pytest.raises(ValueError, match=message) as error:
        make_table(X, standardize)
    assert ("or standardize=True" in str(error.value)) is not standardize


@pytest.mark.parametrize("sign", [1, -1])
def test_raw_values_must_have_squares_in_float32(sign):
    X = sign * np.array([[0.0, 7e25], [1.8e19, 7e25]])  # a constant is excepted
    assert make_table(X, standardize=False).varies.tolist() == [True, False]
    X[0, 0] = sign * 1.9e19
    with pytest.raises(ValueError, match=r"Column 0 .*too large to compute with"):
        make_table(X, standardize=False)
    assert make_table(X).varies.tolist() == [True, False]


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_are_at_most_a_million_standard_deviations_from_the_mean(
    rng, standardize, dtype
):
    X = rng.normal(size=(50, 3)) * [1, 1e3, 0] + [0, 1e5, 3]
    table = make_table(X, standardize)
    largest = np.finfo(dtype).max
    new = np.array([[largest] * 3, [-largest] * 3, X[0]], dtype)
    matrix = table.to_matrix(new)
    assert matrix.dtype == dtype
    expected = X.mean(axis=0) + [[1e6], [-1e6]] * X.std(axis=0)
    if standardize:
        expected = np.array([[1e6], [-1e6]]) * np.ones(3)
    assert_allclose(matrix[:2, :2], expected[:, :2], rtol=1e-5)
    assert_array_equal(matrix[:, 2], 0)
    assert_array_equal(matrix[2], table.to_matrix(new[2:])[0])
    near = X + 0.99e6 * X.std(axis=0)  # not clipped
    back = table.from_matrix(table.to_matrix(near))
    assert_allclose(back, near, rtol=1e-12)


def test_a_column_that_did_not_vary_differs_beyond_rounding(rng):
    X = np.column_stack([np.full(9, 0.3), rng.normal(size=9), np.zeros(9)])
    table = make_table(X)
    new = np.array([[0.1 + 0.2, 5, 0], [0.3 * (1 + 1e-14), 5, 1e-300], [-0.3, 5, -0.0]])
    expected = [[False, False, False], [True, False, True], [True, False, False]]
    assert table.differs(new).tolist() == expected


class Frame(pd.DataFrame):
    """A subclass, as GeoDataFrame is one."""

    @property
    def _constructor(self):
        return Frame


def test_a_subclass_of_a_data_frame_counts_as_pandas(rng):
    X = rng.normal(size=(20, 2))
    frame = Frame(X, columns=["a", "b"], index=range(5, 25))
    table = make_table(X, original=frame)
    back = table.schema.write(X, like=frame)
    assert isinstance(back, pd.DataFrame)
    assert back.columns.tolist() == ["a", "b"]
    assert back.index.tolist() == list(range(5, 25))
    ae = AutoencoderTransformer(2, max_iter=1).fit(frame)
    codes = Frame(ae.transform(frame), index=frame.index)
    decoded = ae.inverse_transform(codes)
    assert isinstance(decoded, pd.DataFrame)
    assert decoded.columns.tolist() == ["a", "b"]
    assert decoded.index.tolist() == frame.index.tolist()


def test_the_layout_tells_the_parts_the_moments_in_units_of_the_matrix(rng):
    X = rng.normal(size=(50, 2)) * [2, 0] + [5, 3]
    raw, scaled = (make_table(X, flag).columns for flag in (False, True))
    assert len(raw) == len(scaled) == 2
    assert_allclose(raw.mean, [X[:, 0].mean(), 0])
    assert_allclose(raw.std, [X[:, 0].std(), 0])
    assert_allclose(scaled.mean, 0, atol=1e-15)
    assert_allclose(scaled.std, [1, 0])
    assert_allclose(scaled.scale, [X[:, 0].std(), 1])
    assert scaled.names == [0, 1]


@pytest.mark.parametrize(
    "original",
    [
        lambda X: X,
        lambda X: pd.DataFrame(X, columns=["a", "b", "c"]),
        lambda X: pd.DataFrame(X),
        lambda X: pl.DataFrame(X, schema=["a", "b", "c"]),
    ],
    ids=["array", "pandas", "pandas with a range of columns", "polars"],
)
@pytest.mark.parametrize("standardize", [True, False])
def test_the_state_survives_json(rng, original, standardize):
    X = rng.normal(size=(30, 3)) * [1 / 3, 1e-9, 0] + [0.1, 1e9, 1 / 7]
    table = make_table(X, standardize, original(X))
    rebuilt = Table.from_state(json.loads(json.dumps(table.get_state())))
    assert_array_equal(rebuilt.to_matrix(X), table.to_matrix(X))
    assert_array_equal(rebuilt.from_matrix(X), table.from_matrix(X))
    assert rebuilt.get_state() == table.get_state()
    assert type(rebuilt.schema.write(X)) is type(table.schema.write(X))


def test_rows_come_back_in_the_container_they_came_in(rng):
    X = rng.normal(size=(3, 2))
    frame = pd.DataFrame(X, columns=["a", "b"])
    assert type(make_table(X).schema.write(X)) is np.ndarray
    pd.testing.assert_frame_equal(make_table(X, original=frame).schema.write(X), frame)
    frame = pl.DataFrame(X, schema=["a", "b"])
    assert make_table(X, original=frame).schema.write(X).equals(frame)


def test_pandas_rows_take_the_index_of_what_they_were_made_from(rng):
    X = rng.normal(size=(3, 2))
    table = make_table(X, original=pd.DataFrame(X, columns=["a", "b"]))
    codes = pd.DataFrame(X, index=[7, 3, 5])
    assert table.schema.write(X, like=codes).index.tolist() == [7, 3, 5]
    assert table.schema.write(X, like=X).index.tolist() == [0, 1, 2]


# What is missing, and categories.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("standardize", [True, False])
def test_moments_are_those_of_the_observed_cells(rng, dtype, standardize):
    X = (rng.normal(size=(30_000, 4)) * [1, 1e3, 0, 1] + [0, 7, 3, 5]).astype(dtype)
    X[rng.random(X.shape) < [0.3, 0.01, 0.5, 0]] = np.nan
    table = make_table(X, standardize)
    assert table.missing.tolist() == [True, True, True, False]
    exact = X.astype(float)
    assert_allclose(table.mean, np.nanmean(exact, axis=0), rtol=1e-9, atol=1e-12)
    assert_allclose(table.std, np.nanstd(exact, axis=0), rtol=1e-9)
    matrix = table.to_matrix(X)
    assert_array_equal(np.isnan(matrix), np.isnan(X))
    if standardize:
        observed = matrix[:, [0, 1, 3]].astype(float)
        assert_allclose(np.nanstd(observed, axis=0), 1, rtol=1e-5)
    assert_array_equal(matrix[~np.isnan(X[:, 2]), 2], 0)
    back = table.from_matrix(matrix)
    assert_allclose(back[:, [0, 1, 3]], X[:, [0, 1, 3]], rtol=1e-4, atol=1e-4)
    assert_array_equal(back[:, 2], 3)


def test_a_hole_changes_nothing_in_the_other_columns(rng):
    X = rng.normal(size=(300, 3)) * 1e3 + 1e6
    holed = np.c_[X, np.where(np.arange(300) % 3, 1.0, np.nan)]
    table, other = make_table(X), make_table(holed)
    assert_allclose(other.mean[:3], table.mean, rtol=1e-15)
    assert_allclose(other.std[:3], table.std, rtol=1e-12)


def test_far_values_are_clipped_beside_holes(rng):
    X = rng.normal(size=(50, 2))
    matrix = make_table(X).to_matrix(np.array([[1e300, np.nan], [np.nan, -1e300]]))
    assert_allclose(matrix, [[1e6, np.nan], [np.nan, -1e6]])


def test_a_hole_is_no_other_value_than_a_constant():
    table = make_table(np.array([[3.0, 1], [np.nan, 2]]))
    assert table.varies.tolist() == [False, True]
    assert table.differs(np.array([[np.nan, np.nan], [4, 4]])).tolist() == [
        [False, False],
        [True, False],
    ]


@pytest.mark.parametrize("names", [None, ["full", "empty"]])
def test_a_column_without_a_value_is_named(rng, names):
    X = np.c_[rng.normal(size=5), np.full(5, np.nan)]
    original = X if names is None else pd.DataFrame(X, columns=names)
    shown = 1 if names is None else "'empty'"
    with pytest.raises(ValueError, match=f"Column {shown} holds no value: all of its"):
        make_table(X, original=original)


def test_the_standard_deviation_to_divide_by_is_1_where_nothing_varies(rng):
    X = np.column_stack([7 * rng.normal(size=50), np.full(50, 7.0)])
    columns = make_table(X, standardize=False).columns
    assert columns.std[1] == 0
    assert_array_equal(columns.safe_std, [columns.std[0], 1.0])


def test_every_column_of_a_table_is_a_unit_also_among_some_of_them(rng):
    columns = make_table(rng.normal(size=(5, 3))).columns
    assert columns.units.tolist() == [0, 1, 2]
    assert columns[[2, 0]].units.tolist() == [0, 1]


def frame_of_categories():
    return pd.DataFrame(
        {
            "kind": pd.Categorical(["b", "a", None, "b"], ["a", "never", "b"]),
            "size": [1.0, 2.0, 3.0, None],
            "same": pd.Categorical(["z", "z", "z", "z"], ["y", "z"]),
        }
    )


@pytest.mark.parametrize("standardize", [True, False])
def test_codes_stay_codes_in_the_matrix(standardize):
    frame = frame_of_categories()
    schema = Schema.fit(frame, "from_dtype", "Test")
    X = schema.read(frame, "Test")
    table = Table.fit(X, standardize=standardize, schema=schema)
    columns = table.columns
    assert columns.n_levels.tolist() == [3, 0, 2]
    assert columns.numeric.tolist() == [False, True, False]
    assert columns.categorical.tolist() == [True, False, True]
    assert len(columns[columns.categorical]) == 2
    assert columns.missing.tolist() == [True, True, False]
    assert columns.varies.tolist() == [True, True, False]
    assert_allclose(columns.frequencies[0], [1 / 3, 0, 2 / 3])
    assert columns.frequencies[1].shape == (0,)
    assert_array_equal(columns.frequencies[2], [0, 1])
    for values, expected in [
        (columns.center, 0),
        (columns.scale, 1),
        (columns.mean, 0),
        (columns.std, 1),
    ]:
        assert values[[0, 2]].tolist() == [expected] * 2
    assert not columns.is_plain
    matrix = table.to_matrix(X)
    assert_array_equal(matrix[:, 0], X[:, 0])
    assert_array_equal(matrix[:, 2], 0)
    back = table.from_matrix(matrix)
    assert_allclose(back, X)
    pd.testing.assert_frame_equal(schema.write(back), frame)
    other = X.copy()
    other[0, 2] = 0.0
    assert np.argwhere(table.differs(other)).tolist() == [[0, 2]]
    state = json.loads(json.dumps(table.get_state()))
    rebuilt = Table.from_state(state)
    assert rebuilt.get_state() == state
    assert_array_equal(rebuilt.to_matrix(X), matrix)
    pd.testing.assert_frame_equal(rebuilt.schema.write(back), frame)
    assert_array_equal(rebuilt.columns.frequencies[0], columns.frequencies[0])


def test_codes_are_not_clipped():
    n = 2_000_000
    X = np.arange(n, dtype=float)[:, None]
    schema = Schema.fit(X, [0], "Test")
    table = Table.fit(X, standardize=True, schema=schema)
    assert_array_equal(table.to_matrix(X[-5:]), X[-5:])


# Trimming.


def test_central_rows_are_nearest_to_the_medians():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)) * [1, 1e3, 1e-3] + [0, 7, 0]
    deviations = np.abs(X - np.median(X, axis=0))
    distances = np.square(deviations / median_abs_deviation(X, scale="normal")).sum(1)
    for trim in 0.1, 0.25, 0.5:
        kept = central_rows(X, trim)
        assert kept.sum() == np.ceil((1 - trim) * 50)
        assert distances[kept].max() < distances[~kept].min()


def test_outliers_do_not_shape_what_is_central():
    X = np.random.default_rng(0).normal(size=(100, 2))
    X[:40] = [1e6, 5.0]
    assert not central_rows(X, 0.4)[:40].any()


def test_rare_values_are_far_and_constant_columns_do_not_count():
    rare = np.arange(100) >= 95
    X = np.c_[rare, np.full(100, 3.0)]
    assert_array_equal(central_rows(X, 0.05), ~rare)
    assert central_rows(np.ones((9, 2)), 0.5).all()
    assert central_rows(np.arange(2.0)[:, None], 0.5).sum() == 2


def test_ties_do_not_depend_on_the_order_of_the_rows():
    X = np.repeat([0.0, 1.0], 50)[:, None]
    assert central_rows(X, 0.2).all()
    rounded = np.where(np.arange(100) % 2, 0.3, 0.1 + 0.2)
    X = np.random.default_rng(0).normal(size=(100, 2))
    assert_array_equal(central_rows(np.c_[X, rounded], 0.2), central_rows(X, 0.2))


def test_huge_values_are_trimmed_without_a_warning():
    X = np.random.default_rng(0).normal(size=(20, 2))
    X[3, 0], X[5, 1] = 1.7e308, -1.7e308
    assert_array_equal(np.flatnonzero(~central_rows(X, 0.1)), [3, 5])


def test_a_cell_that_is_missing_is_as_far_as_the_others_of_its_row():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    X[:20] = [9.0, 9.0, 9.0, 9.0]
    X[rng.random(X.shape) < 0.3] = np.nan
    some = ~np.isnan(X).all(axis=1)
    kept = central_rows(X, 0.1)
    assert_array_equal(kept[some], (np.arange(200) >= 20)[some])
    deviations = np.abs(X - np.nanmedian(X, axis=0))
    scale = 1.4826 * np.nanmedian(deviations, axis=0)
    distances = np.nanmean(np.square(deviations / scale)[some], axis=1)
    kept = central_rows(X[some], 0.3)
    assert distances[kept].max() < distances[~kept].min()


def test_categories_and_empty_columns_have_no_distance():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 2))
    codes = rng.integers(5, size=(100, 1)).astype(float)
    numeric = np.array([True, False, True])
    wide = np.c_[X[:, :1], codes, X[:, 1:]]
    assert_array_equal(central_rows(wide, 0.2, numeric), central_rows(X, 0.2))
    empty = np.c_[X, np.full(100, np.nan)]
    assert_array_equal(central_rows(empty, 0.2), central_rows(X, 0.2))
    assert central_rows(codes, 0.2, np.array([False])).all()

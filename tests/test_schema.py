"""Tables of the user to arrays of numbers, and back."""

import json
import sys
import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from skrepr._columns._schema import Schema


def fit(X, categorical_features="from_dtype"):
    return Schema.fit(X, categorical_features, "Test")


def read(schema, X):
    return schema.read(X, "Test")


PANDAS = {
    "int64": ([3, 1, 2], "int64"),
    "uint8": ([3, 255, 2], "uint8"),
    "float32": ([0.1, None, 2], "float32"),
    "float64": ([0.1, None, 2], "float64"),
    "bool": ([True, False, True], "bool"),
    "Int64": ([3, None, 2], "Int64"),
    "Float32": ([0.5, None, 2], "Float32"),
    "boolean": ([True, None, False], "boolean"),
    "object of strings": (["b", "a", "b"], "object"),
    "object of flags": ([True, False, True], "object"),
    "string": (["b", None, "a"], "string"),
    "string in Python": (["b", None, "a"], "string[python]"),
    "int32 of Arrow": ([3, None, 2], "int32[pyarrow]"),
    "string of Arrow": (["b", None, "a"], pd.ArrowDtype(pa.string())),
    "bool of Arrow": ([True, None, False], "bool[pyarrow]"),
    "categories": (["b", None, "a"], pd.CategoricalDtype(["c", "b", "a"])),
    "ordered": (["b", None, "a"], pd.CategoricalDtype(["b", "c", "a"], True)),
    "numbers as categories": ([5, None, 7], pd.CategoricalDtype([7, 9, 5])),
    "intervals": (
        pd.cut([1.0, 2.0, np.nan, 3.0], 2)[:3],
        pd.CategoricalDtype(pd.cut([1.0, 2.0, 3.0], 2).categories, True),
    ),
    "times": (
        pd.to_datetime(["2020-02-03", None, "2020-01-02"]),
        pd.CategoricalDtype(pd.to_datetime(["2020-02-03", "2020-01-02"])),
    ),
}
POLARS = {
    "Int64": ([3, None, 2], pl.Int64),
    "UInt8": ([3, None, 255], pl.UInt8),
    "Float32": ([0.5, None, 2.0], pl.Float32),
    "Float64": ([0.1, None, 2.0], pl.Float64),
    "Boolean": ([True, None, False], pl.Boolean),
    "String": (["b", None, "a"], pl.String),
    "Categorical": (["b", None, "a"], pl.Categorical),
    "Enum": (["b", None, "a"], pl.Enum(["c", "b", "a"])),
}


def pandas_frames():
    for name, (values, dtype) in PANDAS.items():
        frame = pd.DataFrame({"x": pd.Series(values).astype(dtype)})
        frame.index = [7, 3, 5]
        yield pytest.param(frame, id=name)


def polars_frames():
    for name, (values, dtype) in POLARS.items():
        yield pytest.param(pl.DataFrame({"x": pl.Series(values, dtype=dtype)}), id=name)


def assert_same_frame(this, that):
    if isinstance(that, pd.DataFrame):
        pd.testing.assert_frame_equal(this, that)
    else:
        assert this.schema == that.schema
        # Old versions of polars tell equal categories apart by their codes.
        this, that = (frame.cast({pl.Categorical: pl.String}) for frame in (this, that))
        assert this.equals(that, null_equal=True)


every_frame = pytest.mark.parametrize("frame", [*pandas_frames(), *polars_frames()])


@every_frame
@pytest.mark.parametrize("through_json", [False, True])
def test_columns_come_back_as_they_were(frame, through_json):
    schema = fit(frame)
    rows = read(schema, frame)
    if through_json:
        state = json.loads(json.dumps(schema.get_state()))
        schema = Schema.from_state(state)
        assert schema.get_state() == state
        assert_array_equal(read(schema, frame), rows)
    missing = (
        frame["x"].is_null() if isinstance(frame, pl.DataFrame) else frame.x.isna()
    )
    assert_array_equal(np.isnan(rows[:, 0]), missing)
    assert_same_frame(schema.write(rows, like=frame), frame)


@every_frame
def test_only_what_is_missing_is_filled(frame):
    schema = fit(frame)
    rows = read(schema, frame)
    first = np.repeat(rows[:1], 3, axis=0)
    filled = schema.fill(frame, first)
    assert_array_equal(read(schema, filled), np.where(np.isnan(rows), first, rows))
    assert type(filled) is type(frame)
    assert filled["x"].dtype == frame["x"].dtype
    if isinstance(frame, pd.DataFrame):
        assert_array_equal(filled.index, frame.index)


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_a_stored_schema_names_the_library_it_lacks(library, monkeypatch):
    schema = fit(library.DataFrame({"x": [1.0, 2.0], "kind": ["a", "b"]}))
    rows = np.array([[1.5, 0.0], [np.nan, 1.0]])
    monkeypatch.setitem(sys.modules, library.__name__, None)
    install = f"pip install {library.__name__}"
    with pytest.raises(ImportError, match=install):
        schema.write(rows)
    with pytest.raises(ImportError, match=install):
        schema.fill(np.array([[1.5, "a"], [None, "b"]], object), rows)


def test_strings_that_are_objects_may_be_missing():
    frame = pd.DataFrame({"x": ["b", None, "a"]}, dtype=object)
    schema = fit(frame)
    assert_array_equal(read(schema, frame), [[1], [np.nan], [0]])
    back = schema.write(read(schema, frame))
    assert back["x"].dtype == object
    assert back["x"].isna().tolist() == [False, True, False]
    filled = schema.fill(frame, np.ones((3, 1)))
    assert filled["x"].tolist() == ["b", "b", "a"]
    numpys = pd.DataFrame({"x": [np.str_("b"), None, "a"]}, dtype=object)
    assert_array_equal(read(fit(numpys), numpys), read(schema, frame))


def test_numbers_that_are_objects_may_be_missing_in_any_way():
    frame = pd.DataFrame({"x": [1, None, pd.NA, np.nan], "y": 2.0}, dtype=object)
    schema = fit(frame)
    expected = [[1, 2], [np.nan, 2], [np.nan, 2], [np.nan, 2]]
    assert_array_equal(read(schema, frame), expected)
    assert_array_equal(schema.fill(frame, np.full((4, 2), 9.0))["x"], [1, 9, 9, 9])
    with_text = frame.assign(z=list("abca"))
    assert_array_equal(read(fit(with_text), with_text)[:, :2], expected)


def test_levels_are_sorted_or_in_the_order_of_the_dtype():
    frame = pd.DataFrame(
        {
            "text": ["b", "c", "a"],
            "flag": [True, False, True],
            "kind": pd.Categorical(["b", "c", "a"], ["c", "unseen", "a", "b"]),
        }
    )
    assert_array_equal(read(fit(frame), frame), [[1, 1, 3], [2, 0, 0], [0, 1, 2]])
    assert fit(frame).n_levels.tolist() == [3, 2, 4]
    enum = pl.Series(["b", "c", "a"], dtype=pl.Enum(["c", "unseen", "a", "b"]))
    frame = pl.from_pandas(frame).with_columns(kind=enum)
    assert_array_equal(read(fit(frame), frame), [[1, 1, 3], [2, 0, 0], [0, 1, 2]])


def test_an_unknown_level_is_missing_but_not_filled():
    frame = pd.DataFrame({"x": ["a", "b"], "y": [1.0, 2.0]})
    schema = fit(frame)
    new = pd.DataFrame({"x": ["c", None, "b"], "y": [1.0, np.nan, 3.0]})
    assert_array_equal(read(schema, new), [[np.nan, 1], [np.nan, np.nan], [1, 3]])
    filled = schema.fill(new, np.zeros((3, 2)))
    pd.testing.assert_frame_equal(filled, new.fillna({"x": "a", "y": 0.0}))
    other = new.assign(x=new["x"].astype("category"))
    assert_array_equal(read(schema, other), read(schema, new))
    filled = schema.fill(other, np.zeros((3, 2)))
    assert filled["x"].tolist() == ["c", "a", "b"]


def test_frames_of_another_library_hold_the_same_levels():
    frame = pd.DataFrame(
        {"x": ["b", np.nan, "a"], "y": [1, 2, 3], "z": [True, False, True]}
    )
    polars = pl.from_pandas(frame)
    for one, other in [(frame, polars), (polars, frame)]:
        schema = fit(one)
        rows = read(schema, other)
        assert_array_equal(rows, read(schema, one))
        assert_same_frame(schema.write(rows), one)
        filled = schema.fill(other, np.zeros((3, 3)))
        assert type(filled) is type(other)
        assert list(filled["x"]) == ["b", "a", "a"]


def test_a_frame_with_categories_may_come_as_an_array_of_objects():
    frame = pd.DataFrame({"x": ["b", None, "a"], "y": [1.5, 2, None]})
    schema = fit(frame)
    rows = frame.to_numpy(object)
    assert_array_equal(read(schema, rows), read(schema, frame))
    filled = schema.fill(rows, np.zeros((3, 2)))
    assert filled.tolist() == [["b", 1.5], ["a", 2], ["a", 0.0]]
    flags = pd.DataFrame({"x": [True, False]})
    assert_array_equal(read(fit(flags), np.array([[1.0], [0.0]])), [[1], [0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_of_numbers_pass_as_they_are(dtype):
    X = np.array([[1, np.nan], [0.1, 3]], dtype)
    schema = fit(X)
    assert read(schema, X) is X
    assert schema.write(X) is X
    assert schema.n_levels.tolist() == [0, 0]
    filled = schema.fill(X, np.full((2, 2), 7.0))
    assert filled.dtype == dtype
    assert_array_equal(filled, np.array([[1, 7], [0.1, 3]], dtype))
    assert np.isnan(X[0, 1])


def test_columns_of_an_array_may_be_categories():
    X = np.array([[30.0, 1], [-1, 2], [np.nan, 3], [30, 4]])
    schema = fit(X, [0])
    rows = read(schema, X)
    assert_array_equal(rows, [[1, 1], [0, 2], [np.nan, 3], [1, 4]])
    assert_array_equal(schema.write(rows), X)
    assert_array_equal(read(schema, np.array([[31.0, 1]])), [[np.nan, 1]])
    filled = schema.fill(X.tolist(), np.zeros((4, 2)))
    assert_array_equal(filled, [[30, 1], [-1, 2], [-1, 3], [30, 4]])
    state = json.loads(json.dumps(schema.get_state()))
    assert_array_equal(Schema.from_state(state).write(rows), X)


def test_a_mask_positions_and_names_choose_the_same_columns():
    frame = pd.DataFrame({"zip": [70, 10, 70], "size": [1, 2, 3], "kind": list("aba")})
    for chosen in [[True, False, True], [0, 2], ["zip", "kind"], np.array([2, 0])]:
        schema = fit(frame, chosen)
        assert schema.n_levels.tolist() == [2, 0, 2]
        assert_array_equal(read(schema, frame), [[1, 1, 0], [0, 2, 1], [1, 3, 0]])
        assert_same_frame(schema.write(read(schema, frame)), frame)
        polars = pl.from_pandas(frame)
        schema = fit(polars, chosen)
        assert_array_equal(read(schema, polars), [[1, 1, 0], [0, 2, 1], [1, 3, 0]])
        assert_same_frame(schema.write(read(schema, polars)), polars)


@pytest.mark.parametrize("nothing", [None, [], [False, False]])
def test_no_column_need_be_categorical(nothing):
    flags = pd.DataFrame({"x": [True, False], "y": [1.0, 2.0]})
    schema = fit(flags, nothing)
    assert schema.n_levels.tolist() == [0, 0]
    assert_array_equal(read(schema, flags), [[1, 1], [0, 2]])
    assert_same_frame(schema.write(np.array([[0.7, 1], [0.2, 2]])), flags)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([True], "mask of 1 flags, but X has 2 columns"),
        ([-1], "positions from -1 to -1, but X has 2 columns.*from 0 to 1"),
        ([0, 2], "positions from 0 to 2, but X has 2 columns"),
        (["z"], r"'z', which is no column of X.*\['x', 'y'\]"),
        ([0.5], r"list of flags, positions or names. Got \[0.5\]"),
        ([[0, 1]], "list of flags, positions or names"),
    ],
)
def test_columns_that_are_not_there_are_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        fit(pd.DataFrame({"x": [1, 2], "y": [3, 4]}), chosen)


def test_names_need_a_frame():
    with pytest.raises(ValueError, match="names, but X is no DataFrame"):
        fit(np.zeros((2, 2)), ["x"])


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
@pytest.mark.parametrize("chosen", [None, ["y"]])
def test_a_column_that_is_not_chosen_must_hold_numbers(library, chosen):
    frame = library.DataFrame({"x": ["a", "b"], "y": [1, 2]})
    with pytest.raises(ValueError, match=r"'x' has dtype .*, but Test needs numbers"):
        fit(frame, chosen)


def test_dates_are_neither_numbers_nor_categories():
    frame = pd.DataFrame({"x": pd.date_range("2024", periods=3)})
    with pytest.raises(
        ValueError, match=r"'x' has dtype datetime.*Turn dates into num"
    ):
        fit(frame)


def test_levels_of_several_types_are_refused():
    frame = pd.DataFrame({"x": ["a", 1]}, dtype=object)
    with pytest.raises(
        ValueError, match=r"'x' holds values of several types: int, str"
    ):
        fit(frame, ["x"])
    for values in (["a", 1], [[1], [2]]):
        frame = pd.DataFrame({"x": pd.Series(values, dtype=object)})
        with pytest.raises(ValueError, match=r"'x' has dtype object.* of one type"):
            fit(frame)


@pytest.mark.parametrize("dtype", ["object", "category", "float64"])
def test_a_categorical_column_all_missing_is_refused(dtype):
    frame = pd.DataFrame({"x": pd.Series([None, None], dtype=dtype)})
    with pytest.raises(ValueError, match="'x' holds no value: all of its cells"):
        fit(frame, ["x"])


@pytest.mark.parametrize("chosen", [None, [0]])
def test_infinity_is_refused(chosen):
    frame = pd.DataFrame({"x": [1.0, np.inf], "y": [True, False]})
    with pytest.raises(ValueError, match="contains infinity"):
        read(fit(frame, chosen), frame)
    schema = fit(pd.DataFrame({"x": [1.0, 2.0], "y": list("ab")}))
    with pytest.raises(ValueError, match="contains infinity"):
        read(schema, pd.DataFrame({"x": [1.0, -np.inf], "y": list("ab")}))


def test_numbers_in_the_place_of_strings_are_refused():
    strings = pd.DataFrame({"x": ["1", "2"], "y": [1.0, 2.0]})
    numbers = pd.DataFrame({"x": [1, 2], "y": [1.0, 2.0]})
    message = "'x' holds values such as 1(.0)?, but in training it held .* such as '1'"
    for rows in (numbers, pl.from_pandas(numbers), numbers.to_numpy()):
        with pytest.raises(ValueError, match=message):
            read(fit(strings), rows)
    message = "'x' holds values such as '1', but in training it held .* such as 1"
    with pytest.raises(ValueError, match=message):
        read(fit(numbers, [0]), strings)
    holes = numbers.assign(x=np.nan)  # as a file without a single value is read
    assert np.isnan(read(fit(strings), holes)[:, 0]).all()
    assert fit(strings).fill(holes, np.ones((2, 2)))["x"].tolist() == ["2", "2"]


def test_names_may_be_anything_and_occur_twice():
    frame = pd.DataFrame([["a", 1, 0.5], ["b", 2, None]], columns=["x", "x", ("y", 1)])
    schema = fit(frame)
    pd.testing.assert_frame_equal(schema.write(read(schema, frame)), frame)
    filled = schema.fill(frame, np.zeros((2, 3)))
    assert filled.iloc[:, 2].tolist() == [0.5, 0.0]


def test_numbers_are_rounded_into_the_range_of_their_dtype():
    frame = pd.DataFrame({"x": [1, 2], "y": [1, 2]}).astype({"x": "int64", "y": "int8"})
    values = np.array([[1.6, 300.0], [1e300, -1e300]])
    written = fit(frame).write(values)
    assert written.dtypes.tolist() == frame.dtypes.tolist()
    assert written["y"].tolist() == [127, -128]
    assert written["x"][0] == 2
    assert 2**63 - 2**11 < written["x"][1] < 2**63
    polars = fit(pl.from_pandas(frame)).write(values)
    assert polars.rows() == list(written.itertuples(index=False, name=None))
    single = pd.DataFrame({"x": np.float32([1, 2])})
    assert np.isfinite(fit(single).write(np.array([[1e300]]))["x"][0])


def test_integers_with_holes_are_floats_where_the_dtype_has_none():
    frame = pd.DataFrame({"x": [1, 2], "y": [True, False], "z": [1, 2]})
    frame = frame.astype({"z": "Int64"})
    written = fit(frame).write(np.array([[1.2, 0, 1], [np.nan, np.nan, np.nan]]))
    assert written["x"].dtype == float
    assert written["x"][0] == 1
    assert written.isna().to_numpy().tolist() == [[False] * 3, [True] * 3]
    assert written["z"].dtype == "Int64"


def test_a_filled_column_takes_its_dtype_unless_a_cell_would_change():
    schema = fit(pd.DataFrame({"x": [1, 2]}))
    holes = pd.DataFrame({"x": [1.0, np.nan]})
    filled = schema.fill(holes, np.array([[9.0], [3.4]]))
    assert filled["x"].dtype == np.int64
    assert filled["x"].tolist() == [1, 3]
    holes = pd.DataFrame({"x": [1.5, np.nan]})
    filled = schema.fill(holes, np.array([[9.0], [3.4]]))
    assert filled["x"].tolist() == [1.5, 3.0]
    polars = fit(pl.DataFrame({"x": [1, 2]}))
    filled = polars.fill(pl.DataFrame({"x": [1.0, None]}), np.array([[9.0], [3.4]]))
    assert filled.equals(pl.DataFrame({"x": [1, 3]}))
    filled = polars.fill(pl.DataFrame({"x": [1.5, None]}), np.array([[9.0], [3.4]]))
    assert filled.equals(pl.DataFrame({"x": [1.5, 3.0]}))


def test_an_index_may_be_anything():
    index = pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 2)])
    frame = pd.DataFrame({"x": [1.0, None, 2.0], "y": ["u", "v", np.nan]}, index=index)
    schema = fit(frame)
    pd.testing.assert_frame_equal(schema.write(read(schema, frame), frame), frame)
    filled = schema.fill(frame, np.zeros((3, 2)))
    pd.testing.assert_frame_equal(filled, frame.fillna({"x": 0.0, "y": "u"}))


def test_a_type_that_json_cannot_hold_is_named():
    frame = pd.DataFrame({"x": pd.Categorical([(1, 2), (3, 4)])})
    schema = fit(frame)
    assert_same_frame(schema.write(read(schema, frame)), frame)
    with pytest.raises(TypeError, match=r"\(1, 2\) is a category of the type tuple"):
        schema.get_state()


@pytest.mark.parametrize("library", ["pandas", "polars", "array"])
def test_ten_thousand_levels_come_back_exactly_and_take_little_memory(library):
    codes = np.random.default_rng(0).integers(10_000, size=100_000)
    names = np.char.add("level ", codes.astype(str))
    table = {
        "pandas": lambda: pd.DataFrame({"x": names, "y": pd.Categorical(names)}),
        "polars": lambda: pl.DataFrame({"x": names}),
        "array": lambda: codes[:, None].astype(float),
    }[library]()
    tracemalloc.start()
    schema = fit(table, [0] if library == "array" else "from_dtype")
    rows = read(schema, table)
    back = schema.write(rows)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert schema.n_levels[0] == 10_000
    assert len(np.unique(rows[:, 0])) == 10_000
    assert most < 2e8
    if library == "array":
        assert_array_equal(back, table)
    else:
        assert_same_frame(back, table)

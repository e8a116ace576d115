"""Labels of every type, some of them missing."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_array_equal

from skrepr._columns._labels import check_labels, encode_classes

LABELS = [
    ([2, None, 1, 2], [2, 1, 2]),
    ([2.0, np.nan, 1.0, 2.0], [2, 1, 2]),
    (["b", None, "a", "b"], ["b", "a", "b"]),
    (["b", np.nan, "a", "b"], ["b", "a", "b"]),
    ([True, None, False, True], [True, False, True]),
    (np.array([2, np.nan, 1, 2]), [2, 1, 2]),
    (np.array(["b", None, "a", "b"], object), ["b", "a", "b"]),
    (np.array([["b"], [np.nan], ["a"], ["b"]], object)[:, 0], ["b", "a", "b"]),
    (pd.Series([2, None, 1, 2], dtype="Int64"), [2, 1, 2]),
    (pd.Series(["b", None, "a", "b"]), ["b", "a", "b"]),
    (pd.Series(["b", None, "a", "b"], dtype="category"), ["b", "a", "b"]),
    (pd.Series(["b", pd.NA, "a", "b"], dtype="string"), ["b", "a", "b"]),
    (pd.Series([True, pd.NA, False, True], dtype="boolean"), [True, False, True]),
    (pl.Series([2, None, 1, 2]), [2, 1, 2]),
    (pl.Series(["b", None, "a", "b"]), ["b", "a", "b"]),
    (pl.Series([True, None, False, True]), [True, False, True]),
]


@pytest.mark.parametrize(("y", "expected"), LABELS, ids=lambda y: repr(y)[:40])
def test_labels_of_any_type_may_be_missing(y, expected):
    labels, missing = check_labels(np.zeros((4, 1)), y)
    assert_array_equal(missing, [False, True, False, False])
    assert_array_equal(labels, expected)
    classes, ids = encode_classes(labels)
    assert_array_equal(classes, sorted(set(expected)))
    assert_array_equal(classes[ids], expected)


@pytest.mark.parametrize("y", [[1, -1, 0, -1], [1.0, -1.0, 0.0, np.nan]])
def test_minus_1_is_a_label_unless_the_user_says_otherwise(y):
    X = np.zeros((4, 1))
    assert -1 in check_labels(X, y)[0]
    labels, missing = check_labels(X, y, unlabelled=-1)
    assert_array_equal(labels, [1, 0])
    assert_array_equal(missing, [False, True, False, True])
    labels, missing = check_labels(X, ["a", "?", None, "b"], unlabelled="?")
    assert_array_equal(labels, ["a", "b"])
    assert_array_equal(missing, [False, True, True, False])


@pytest.mark.parametrize("y", [[None, None], [np.nan, np.nan], ["?", None]])
def test_only_missing_labels_are_an_error(y):
    with pytest.raises(ValueError, match=r"All of the 2 labels in y are missing.*'\?'"):
        check_labels(np.zeros((2, 1)), y, unlabelled="?")


def test_one_label_a_row_is_expected():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        check_labels(np.zeros((3, 1)), [1, 2])
    with pytest.raises(ValueError, match="y should be a 1d array"):
        check_labels(np.zeros((2, 1)), [[1, 2], [3, 4]])


def test_labels_that_are_not_of_classes_are_an_error():
    labels, _ = check_labels(np.zeros((3, 1)), [0.5, 1.5, None])
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        encode_classes(labels)


@pytest.mark.parametrize("y", [["a", 1, 2], ["a", None, 2]])
def test_labels_of_several_types_are_an_error(y):
    with pytest.raises(ValueError, match="Some labels in y are strings and some are"):
        check_labels(np.zeros((3, 1)), y)

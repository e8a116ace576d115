"""Rows in blocks."""

import numpy as np
import pytest

from skrepr._blocks import blocks


@pytest.mark.parametrize(
    ("n_rows", "cells_per_row", "size"), [(10, 4, 3), (9, 4, 3), (2, 4, 3), (3, 99, 1)]
)
def test_every_row_is_in_one_block_of_no_more_cells_or_one_row(
    n_rows, cells_per_row, size
):
    slices = blocks(n_rows, cells_per_row, max_cells=12)
    rows = [np.arange(n_rows)[block] for block in slices]
    assert np.concatenate(rows).tolist() == list(range(n_rows))
    assert max(map(len, rows)) == min(size, n_rows)


def test_no_rows_are_no_blocks_and_rows_without_cells_are_many():
    assert blocks(0, 5, 10) == []
    assert blocks(7, 0, 10) == [slice(0, 7)]

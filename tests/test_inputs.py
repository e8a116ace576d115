"""What networks read of the columns: numbers, categories and holes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skrepr import AutoencoderTransformer, ContrastiveTransformer, VAETransformer
from skrepr._columns._inputs import ColumnEncoder, Inputs
from skrepr._columns._schema import Schema
from skrepr._columns._table import Table
from skrepr._training._stacks import find_stacks
from skrepr.backbones import MLP
from skrepr.objectives import NTXent, Objective


def layout(X, categorical=None, standardize=True):
    """Return the column layout of rows, and their matrix."""
    schema = Schema.fit(X, categorical, "")
    encoded = schema.read(X, "")
    table = Table.fit(encoded, standardize=standardize, schema=schema)
    return table.columns, torch.from_numpy(table.to_matrix(encoded, np.float32))


def rows(n=800):
    """Return a number, three levels, a number with holes, thirty levels with holes."""
    rng = np.random.default_rng(0)
    X = np.column_stack(
        [
            rng.normal(5, 2, n),
            np.arange(n) % 3,
            rng.normal(-1, 4, n),
            np.arange(n) % 30,
        ]
    )
    X[::4, 2] = X[1::4, 3] = np.nan
    return X


@pytest.mark.parametrize("standardize", [True, False])
def test_numbers_levels_and_indicators_are_read_as_they_are(standardize):
    columns, x = layout(rows()[:, :3], [1], standardize)
    inputs = Inputs(columns)
    assert inputs.width == 2 + 3 + 1
    read = inputs(x).numpy()
    missing = np.isnan(rows()[:, 2])
    assert_allclose(read[:, 0], x[:, 0])
    expected = np.where(missing, columns.mean[2], x[:, 2])
    assert_allclose(read[:, 1], expected, rtol=1e-6)
    assert_array_equal(read[:, 2:5], np.eye(3)[np.arange(800) % 3])
    assert_array_equal(read[:, 5], missing)
    assert list(inputs.parameters()) == []


def test_a_category_that_is_missing_has_no_level():
    columns, x = layout(rows(), [1, 3])
    inputs = Inputs(columns)
    x[0, 1] = torch.nan  # though none was in training
    read = inputs(x).detach()
    assert (read[0, 2:5] == 0).all()
    vectors = read[:, 5:-2]
    missing = np.isnan(rows()[:, 3])
    assert vectors.shape[1] == round(1.6 * 30**0.56)
    assert (vectors[missing] == 0).all()
    assert (vectors[~missing].abs().sum(1) > 0).all()
    codes = rows()[:, 3]
    assert torch.equal(vectors[2], vectors[32]) == (codes[2] == codes[32])
    assert len(np.unique(vectors[~missing], axis=0)) == len(np.unique(codes[~missing]))


def test_a_level_that_never_occurred_reads_like_a_missing_one():
    columns, x = layout(rows(), [1, 3])
    columns.counts[3][8] = 9  # with which it would share a class
    for j, code in (1, 2), (3, 7):
        columns.counts[j][code] = 0
    inputs = Inputs(columns)
    for j, code in (1, 2), (3, 7):
        unseen, missing = x[2:3].clone(), x[2:3].clone()
        unseen[0, j], missing[0, j] = code, torch.nan
        width = inputs.width - 1  # the last is the indicator of column 3
        assert torch.equal(inputs(unseen)[:, :width], inputs(missing)[:, :width])


def test_a_thousand_levels_are_a_vector_of_fifty():
    columns, x = layout(np.arange(10_000.0)[:, None] % 1000, [0])
    inputs = Inputs(columns)
    assert inputs.width == 50
    assert inputs(x).shape == (10_000, 50)
    assert inputs(x).square().sum(1).mean().item() == pytest.approx(1, rel=0.05)


def test_rare_levels_of_many_are_read_alike():
    codes = np.concatenate([np.arange(20).repeat(10), 20 + np.arange(30) % 15])
    columns, x = layout(codes[:, None].astype(float), [0])
    read = Inputs(columns)(x).detach()
    assert len(read[200:].unique(dim=0)) == 1
    assert len(read.unique(dim=0)) == 21
    few, y = layout(np.array([[0.0], [1], [1], [2], [3]]), [0])
    assert len(Inputs(few)(y).unique(dim=0)) == 4


@pytest.mark.parametrize("n_occurring", [3, 16, 17])
def test_levels_that_are_only_declared_do_not_make_others_rare(n_occurring):
    codes = np.arange(n_occurring)[:, None].astype(float)
    columns, x = layout(codes, [0])
    counts = np.append(columns.counts[0], np.zeros(30, int))
    columns = replace(columns, counts=[counts], n_levels=np.array([len(counts)]))
    read = Inputs(columns)(x)
    expected = np.eye(n_occurring) if n_occurring <= 16 else np.ones((17, 1))
    assert_array_equal(read, expected)


def test_no_more_than_a_thousand_levels_are_told_apart():
    columns, _ = layout(
        np.repeat(np.arange(1500.0), [4] * 700 + [5] * 800)[:, None], [0]
    )
    classes = columns.classes[0]
    assert_array_equal(classes[700:], np.arange(800))
    assert (classes[:700] == 800).all()
    columns, _ = layout(np.repeat(np.arange(1000.0), 4)[:, None], [0])
    assert_array_equal(columns.classes[0], np.arange(1000))


def test_a_plain_table_goes_to_the_network_and_its_holes_become_means():
    X = rows()[:, [0, 1]]
    columns, x = layout(X, standardize=False)
    encoder = ColumnEncoder(columns, MLP((8,)), 3)
    assert encoder.inputs is None
    assert torch.equal(encoder(x), encoder.network(x))
    holes = x.clone()
    holes[:, 0] = torch.nan
    means = x.clone()
    means[:, 0] = torch.tensor(columns.mean[0])
    assert torch.equal(encoder(holes), encoder(means))


@pytest.mark.parametrize("categorical", [None, [1, 3]])
def test_gradients_are_finite_where_cells_are_missing(categorical):
    columns, x = layout(rows(), categorical)
    encoder = ColumnEncoder(columns, MLP((8,)), 3)
    encoder(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    assert all((p.grad != 0).any() for p in encoder.parameters())


@pytest.mark.parametrize(
    "kind", [AutoencoderTransformer, VAETransformer, ContrastiveTransformer]
)
def test_the_networks_behind_categories_are_stacks(kind):
    # Embeddings are the package's own: they do not leave the network to autograd.
    fitted = kind(2, categorical_features=[1, 3], max_iter=2).fit(rows())
    assert len(find_stacks(fitted.module_)) == 2


class _UsesEncoder(Objective):
    """An objective of the user that calls the encoder it was built with."""

    def build(self, encoder, head, n_components):
        module = NTXent().build(encoder, head, n_components)
        self.seen = encoder
        return module


def test_an_objective_is_given_the_encoder_of_rows_with_holes():
    objective = _UsesEncoder()
    fitted = ContrastiveTransformer(
        2, objective=objective, categorical_features=[1, 3], max_iter=2
    ).fit(rows())
    assert isinstance(objective.seen, ColumnEncoder)
    assert np.isfinite(fitted.transform(rows())).all()

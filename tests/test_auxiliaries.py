"""Auxiliary tasks on the codes of contrastive learning."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional as F

from skrepr import ContrastiveTransformer
from skrepr._columns._schema import Schema
from skrepr._columns._table import Table
from skrepr.augmentations import FeatureCorruption
from skrepr.auxiliaries import Auxiliary, SelfPrediction
from skrepr.backbones import MLP
from skrepr.objectives import Views


def rows(n=200):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2)) @ rng.normal(size=(2, 5)) + 0.1 * rng.normal(
        size=(n, 5)
    )
    X = X * [1, 10, 0.1, 5, 1]
    X[:, 4] = 7  # constant
    return X


def views(X, standardize, k=3):
    table = Table.fit(X, standardize=standardize, schema=Schema.fit(X, None, ""))
    originals = torch.from_numpy(table.to_matrix(X, np.float32))
    generator = torch.Generator().manual_seed(0)
    changed = FeatureCorruption(0.4).build(table.columns)(originals, generator)
    codes = torch.randn(len(X), k, generator=generator)
    ids = torch.arange(len(X))
    return table, Views(changed, originals, codes, ids, True, torch.tensor(0.0))


@pytest.mark.parametrize("standardize", [True, False])
def test_the_terms_are_means_over_the_cells_that_vary(standardize):
    table, seen = views(rows(20), standardize)
    task = SelfPrediction(reconstruction_weight=2.0, mask_weight=0.5)
    module = task.build(table.columns, 3)
    terms = module(seen)
    errors = module.reconstruct(seen.codes) - seen.originals
    errors = (errors / torch.from_numpy(table.columns.std).float())[:, :4]
    assert_allclose(
        terms["reconstruction"].item(), 2 * errors.square().mean().item(), rtol=1e-5
    )
    changed = (seen.rows != seen.originals).float()[:, :4]
    logits = module.find_mask(seen.codes)[:, :4]
    expected = 0.5 * F.binary_cross_entropy_with_logits(logits, changed)
    assert_allclose(terms["mask"].item(), expected.item(), rtol=1e-5)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((1, 0), ["reconstruction"]), ((0, 1), ["mask"]), ((0, 0), [])],
)
def test_a_task_of_weight_0_is_left_out(weights, expected):
    table, seen = views(rows(20), True)
    module = SelfPrediction(*weights).build(table.columns, 3)
    assert list(module(seen)) == expected
    assert bool(list(module.parameters())) == bool(expected)


def test_codes_learn_what_the_task_asks_for():
    X = rows()
    params = {"backbone": MLP((32,)), "learning_rate": 2e-2, "random_state": 0}
    params |= {"max_iter": 200}
    task = SelfPrediction(reconstruction_weight=1.0, mask_weight=1.0)
    contrastive = ContrastiveTransformer(4, auxiliary=task, **params).fit(X)
    history = contrastive.history_
    assert set(history) == {"loss", "nt_xent", "reconstruction", "mask"}
    assert_allclose(
        history["loss"],
        np.sum([history[k] for k in ("nt_xent", "reconstruction", "mask")], axis=0),
    )
    assert history["reconstruction"][-1] < 0.6 < 0.9 < history["reconstruction"][0]
    share = 0.3 * 0.995  # a cell may be replaced by its own value
    chance = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert history["mask"][-1] < chance - 0.05
    assert contrastive.transform(X).shape == (200, 4)


def test_a_grid_reaches_the_weights():
    contrastive = ContrastiveTransformer(auxiliary="self_prediction")
    contrastive.set_params(auxiliary__mask_weight=0.3)
    assert contrastive.auxiliary.mask_weight == 0.3
    with pytest.raises(ValueError, match=r"'auxiliary' parameter.*'self_prediction'"):
        ContrastiveTransformer(auxiliary="guess").fit(rows(20))
    with pytest.raises(ValueError, match=r"'mask_weight' parameter of SelfPrediction"):
        ContrastiveTransformer(auxiliary=SelfPrediction(mask_weight=-1)).fit(rows(20))


class Norm(Auxiliary):
    """A task of the user: codes of unit length."""

    def build(self, columns, n_components):
        return _Norm()


class _Norm(torch.nn.Module):
    def forward(self, views):
        return {"norm": (views.codes.norm(dim=1) - 1).square().mean()}


def test_a_task_of_the_user():
    contrastive = ContrastiveTransformer(
        4, auxiliary=Norm(), max_iter=100, random_state=0
    ).fit(rows())
    lengths = np.linalg.norm(contrastive.transform(rows()), axis=1)
    assert lengths.mean() == pytest.approx(1, abs=0.2)
    assert contrastive.history_["norm"][-1] < 0.1 * contrastive.history_["norm"][0]


def test_categories_and_holes_count_as_they_should():
    X = np.column_stack([rows(40), np.arange(40) % 3])
    X[::3, 0] = X[1::4, 5] = np.nan
    schema = Schema.fit(X, [5], "")
    table = Table.fit(X, standardize=True, schema=schema)
    originals = torch.from_numpy(table.to_matrix(X, np.float32))
    changed = originals.clone()
    changed[0, :] = torch.nan  # one of its six cells was missing before
    changed[1, 5] = 2.0  # from a hole
    ids = torch.arange(40)
    codes = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    seen = Views(changed, originals, codes, ids, True, torch.tensor(0.0))
    module = SelfPrediction(1.0, 1.0).build(table.columns, 3)
    terms = module(seen)
    output = module.reconstruct(codes)
    x = originals.numpy()
    costs = np.square(output[:, :6].detach().numpy() - x)
    log_p = output[:, 6:].log_softmax(1).detach().numpy()
    f = table.columns.frequencies[5]
    observed = ~np.isnan(x[:, 5])
    picked = log_p[np.flatnonzero(observed), x[observed, 5].astype(int)]
    costs[:, 5] = np.nan
    costs[observed, 5] = -picked / -(f * np.log(f)).sum()
    costs = np.delete(costs, 4, axis=1)  # which does not vary
    assert_allclose(terms["reconstruction"].item(), np.nanmean(costs), rtol=1e-5)
    found = np.zeros((40, 6))
    found[0, 1:] = found[1, 5] = 1
    expected = F.binary_cross_entropy_with_logits(
        module.find_mask(codes)[:, [0, 1, 2, 3, 5]],
        torch.from_numpy(np.delete(found, 4, axis=1)).float(),
    )
    assert_allclose(terms["mask"].item(), expected.item(), rtol=1e-5)
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())

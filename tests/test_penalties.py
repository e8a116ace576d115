"""Penalties on the code."""

import numpy as np
import pytest
import torch
from torch import nn

from skrepr import AutoencoderTransformer, FineTunedClassifier
from skrepr.backbones import MLP
from skrepr.penalties import L1, Contractive, EncodedBatch, Penalty, TopK


def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 3)) @ rng.normal(size=(3, 8))


def make(penalty, **options):
    params = {"backbone": MLP((16,)), "learning_rate": 0.01, "random_state": 0}
    params |= {"max_iter": 200} | options
    return AutoencoderTransformer(6, penalty=penalty, **params)


def test_l1_is_the_weighted_mean_absolute_value():
    z = torch.tensor([[1.0, -2.0], [0.0, 5.0]])
    penalty = L1(weight=0.1).build(2)
    assert isinstance(penalty, nn.Module)
    value = penalty(EncodedBatch(z, z, nn.Identity(), torch.Generator()))
    assert value.shape == ()
    assert value.item() == pytest.approx(0.2)


def test_a_larger_weight_gives_smaller_codes():
    X = rows()
    codes = [make(L1(weight)).fit(X).transform(X) for weight in (0.0, 0.05, 0.5)]
    sizes = [np.abs(code).mean() for code in codes]
    assert sizes[0] > 1.5 * sizes[1] > 1.5 * 1.5 * sizes[2]


def test_l1_finds_sparse_sources():
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(1000, 8)) * (rng.uniform(size=(1000, 8)) < 0.25)
    X = sources @ rng.normal(size=(8, 16))
    shares = []
    for penalty in None, L1(0.5):
        ae = AutoencoderTransformer(8, backbone=MLP((64,)), augmentation=None)
        ae.set_params(penalty=penalty, learning_rate=0.01, max_iter=250)
        codes = ae.set_params(random_state=0).fit(X).transform(X)
        # Whatever the scale of the codes: small beside their root mean square.
        size = np.sqrt(np.square(codes).mean(axis=0))
        shares.append((np.abs(codes) < 0.1 * size).mean())
    assert shares[1] > 2 * shares[0]


def test_a_weight_of_0_is_no_penalty():
    X = rows()
    none, zero = make(None, max_iter=3).fit(X), make(L1(0.0), max_iter=3).fit(X)
    np.testing.assert_array_equal(none.transform(X), zero.transform(X))
    assert zero.history_["penalty"] == [0, 0, 0]
    assert "penalty" not in none.history_


class Bias(Penalty):
    """A penalty of the user: codes should be near 5."""

    def build(self, n_components):
        return _Bias(n_components)


class _Bias(nn.Module):
    def __init__(self, n_components):
        super().__init__()
        self.register_buffer("target", torch.full((n_components,), 5.0))
        self.weight = nn.Parameter(torch.tensor(0.0))

    def forward(self, encoded):
        excess = encoded.codes - self.target
        return 10 * excess.square().mean() + (self.weight - 1).square()


def test_a_penalty_of_the_user_moves_the_codes_and_may_learn():
    X = rows()
    ae = make(Bias()).fit(X)
    assert ae.transform(X).mean() > 4
    assert ae.module_.penalty.target.shape == (6,)
    assert ae.module_.penalty.weight.item() > 0.5
    assert ae.history_["penalty"][0] > 100


# Contractive


def jacobian_norms(ae, X):
    """Return the squared Frobenius norm of the encoder's Jacobian at every row."""
    x = torch.from_numpy(ae.table_.to_matrix(X, np.float32))
    jacobian = torch.func.jacrev(ae.module_.encoder.network)
    return torch.stack([jacobian(row).square().sum() for row in x]).numpy()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_contraction_is_the_squared_norm_of_the_jacobian(activation):
    X = rows()[:20]
    ae = make(None, backbone=MLP((16,), activation=activation), max_iter=20).fit(X)
    x = torch.from_numpy(ae.table_.to_matrix(X, np.float32)).repeat(2000, 1)
    network = ae.module_.encoder.network
    penalty = Contractive(0.5).build(6)
    with torch.no_grad():
        draws = torch.Generator().manual_seed(0)
        found = penalty(EncodedBatch(network(x), x, network, draws))
    assert found.shape == ()
    expected = 0.5 * jacobian_norms(ae, X).mean()
    assert found.item() == pytest.approx(expected, rel=0.05)


def test_a_contractive_penalty_contracts():
    X = rows()
    free, bound = (make(p, augmentation=None).fit(X) for p in (None, Contractive(0.1)))
    assert jacobian_norms(bound, X).mean() < 0.3 * jacobian_norms(free, X).mean()
    assert bound.score(X) > -0.5
    assert bound.history_["penalty"][-1] == pytest.approx(
        0.1 * jacobian_norms(bound, X).mean(), rel=0.2
    )


def test_contraction_sees_categories_and_holes():
    X = np.column_stack([rows(), np.arange(200) % 20])
    X[::7, 2] = X[::5, 8] = np.nan
    options = {"categorical_features": [8], "max_iter": 3}
    ae = make("contractive", **options).fit(X)
    assert np.isfinite(ae.history_["penalty"]).all()
    assert np.isfinite(ae.transform(X)).all()


def test_contraction_and_dropout_exclude_each_other():
    backbone = MLP((16,), dropout=0.1)
    with pytest.raises(ValueError, match=r"contractive penalty.*set dropout to 0"):
        make(Contractive(), backbone=backbone, max_iter=1).fit(rows())


# Top k


def test_the_k_largest_components_stay():
    z = torch.tensor([[1.0, -3.0, 2.0], [0.5, 0.1, -0.2]], requires_grad=True)
    kept = TopK(2).constraint(3)(z)
    assert kept.tolist() == [[0.0, -3.0, 2.0], [0.5, 0.0, pytest.approx(-0.2)]]
    kept.sum().backward()
    assert z.grad.tolist() == [[0, 1, 1], [1, 0, 1]]
    assert torch.equal(TopK(5).constraint(3)(z), z)


def test_codes_of_top_k_are_sparse_in_training_and_afterwards():
    X = rows()
    sparse, free = make(TopK(2)).fit(X), make(None).fit(X)
    assert ((sparse.transform(X) != 0).sum(axis=1) == 2).all()
    assert "penalty" not in sparse.history_
    assert sparse.history_["loss"][-1] > free.history_["loss"][-1]
    # What it learned is to reconstruct from such codes.
    dense = make(None).fit(X)
    dense.module_.encoder.constraint = TopK(2).constraint(6)
    assert sparse.score(X) > dense.score(X)


def test_fine_tuning_keeps_the_constraint():
    X = rows()
    y = np.where(X[:, 0] > 0, "a", "b")
    tuned = FineTunedClassifier(make("top_k", max_iter=3), max_iter=3, random_state=0)
    tuned.set_params(transformer__penalty__k=1).fit(X, y)
    x = torch.from_numpy(tuned.transformer_.table_.to_matrix(X, np.float32))
    assert ((tuned.module_.encoder(x) != 0).sum(1) == 1).all()

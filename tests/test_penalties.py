"""Penalties on the code."""

import numpy as np
import pytest
import torch
from torch import nn

from skrepr import AutoencoderTransformer
from skrepr.backbones import MLP
from skrepr.penalties import L1, Penalty


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
    value = penalty(z)
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

    def forward(self, z):
        return 10 * (z - self.target).square().mean() + (self.weight - 1).square()


def test_a_penalty_of_the_user_moves_the_codes_and_may_learn():
    X = rows()
    ae = make(Bias()).fit(X)
    assert ae.transform(X).mean() > 4
    assert ae.module_.penalty.target.shape == (6,)
    assert ae.module_.penalty.weight.item() > 0.5
    assert ae.history_["penalty"][0] > 100

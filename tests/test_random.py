"""Random numbers come from explicit generators, a user's layers' too."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn
from torch.utils import _python_dispatch

from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    VAETransformer,
)
from skrepr._training._random import Seeded, generators, may_draw
from skrepr.backbones import MLP, Backbone
from skrepr.penalties import Penalty

x = torch.linspace(0.1, 0.9, 24).reshape(4, 6)

# Every way to random numbers that takes no generator.
DRAWS = {
    "rand": lambda: torch.rand(3),
    "randn": lambda: torch.randn(3),
    "randint": lambda: torch.randint(1000, (4,)),
    "randint from low": lambda: torch.randint(5, 1000, (4,)),
    "randperm": lambda: torch.randperm(100),
    "rand_like": lambda: torch.rand_like(x),
    "randn_like": lambda: torch.randn_like(x),
    "normal_": lambda: torch.empty(3).normal_(),
    "normal of tensors": lambda: torch.normal(x, x),
    "bernoulli": lambda: torch.bernoulli(x),
    "multinomial": lambda: torch.multinomial(x, 3),
    "distribution": lambda: torch.distributions.Gamma(x, 1.0).sample(),
    "linear layer": lambda: nn.Linear(3, 3).weight,
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(3, 3)),
    "trunc_normal": lambda: nn.init.trunc_normal_(torch.empty(3, 3)),
    "dropout": lambda: nn.Dropout(0.5)(x),
    "attention": lambda: nn.MultiheadAttention(6, 2, dropout=0.5)(x, x, x)[0],
    "GRU": lambda: nn.GRU(6, 4, num_layers=2, dropout=0.5)(x)[0],
    "native_dropout": lambda: torch.ops.aten.native_dropout(x, 0.5, True)[0],
}


def seeded(seed, draw):
    with Seeded(torch.Generator().manual_seed(seed)):
        return draw()


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_seeded_draws_follow_the_generator_alone(draw):
    before = torch.get_rng_state()
    first = seeded(0, draw)
    assert torch.equal(first, seeded(0, draw))
    assert not torch.equal(first, seeded(1, draw))
    assert torch.equal(before, torch.get_rng_state())


def test_seeded_draws_what_an_explicit_generator_draws():
    expected = torch.randn(5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(seeded(3, lambda: torch.randn(5)), expected)


def test_seeded_leaves_explicit_generators_alone_wherever_they_stand():
    rates = torch.full((20,), 3.0)
    explicit = torch.poisson(rates, torch.Generator().manual_seed(5))
    with Seeded(torch.Generator().manual_seed(6)):
        again = torch.poisson(rates, torch.Generator().manual_seed(5))
    assert torch.equal(again, explicit)


def test_seeded_leaves_the_generators_of_others_alone():
    own = torch.Generator().manual_seed(7)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(7))
    drawn = seeded(0, lambda: torch.rand(3, generator=own))
    assert torch.equal(drawn, expected)


def test_seeded_does_not_change_operations_without_random_numbers():
    result = seeded(0, lambda: (x @ x.T).softmax(dim=1))
    assert torch.equal(result, (x @ x.T).softmax(dim=1))


def test_seeded_ends_with_its_block():
    torch_state = torch.get_rng_state()
    seeded(0, lambda: torch.rand(3))
    torch.rand(3)
    assert not torch.equal(torch_state, torch.get_rng_state())


def test_seeded_is_of_its_own_thread_only():
    generator = torch.Generator().manual_seed(0)
    with ThreadPoolExecutor(1) as pool, torch.random.fork_rng():
        torch.manual_seed(5)
        expected = torch.rand(4)
        torch.manual_seed(5)
        with Seeded(generator):
            mine = torch.rand(4)
            others = pool.submit(torch.rand, 4).result()
    assert torch.equal(others, expected)
    assert torch.equal(mine, seeded(0, lambda: torch.rand(4)))


def dispatch_flags():
    """Return what torch keeps of modes for the whole process and for this thread."""
    flags = {
        name: getattr(_python_dispatch, name)
        for name in dir(_python_dispatch)
        if name.startswith("_is_in_")
    }
    assert "_is_in_torch_dispatch_mode" in flags
    return flags, _python_dispatch._get_current_dispatch_mode()


def test_seeded_leaves_the_flags_of_the_process_alone_when_threads_overlap():
    before = dispatch_flags()
    one, other = (Seeded(torch.Generator().manual_seed(0)) for _ in range(2))
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        first.submit(one.__enter__).result()
        second.submit(other.__enter__).result()
        drawn = [pool.submit(torch.rand, 3).result() for pool in (first, second)]
        first.submit(one.__exit__, None, None, None).result()
        still = second.submit(torch.rand, 2).result()
        second.submit(other.__exit__, None, None, None).result()
    assert dispatch_flags() == before
    assert torch.equal(*drawn)
    draws = torch.Generator().manual_seed(0)
    torch.rand(3, generator=draws)
    assert torch.equal(still, torch.rand(2, generator=draws))


def test_seeded_ends_with_its_block_when_that_fails():
    before = dispatch_flags()
    with pytest.raises(KeyError), Seeded(torch.Generator()):
        raise KeyError
    assert dispatch_flags() == before


def test_seeded_blocks_nest():
    inner, outer = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    with Seeded(outer):
        a = torch.rand(2)
        with Seeded(inner):
            b = torch.rand(2)
        c = torch.rand(2)
    assert torch.equal(b, seeded(1, lambda: torch.rand(2)))
    assert torch.equal(torch.cat([a, c]), seeded(2, lambda: torch.rand(4)))


@pytest.mark.parametrize("p", [0.0, 0.25, 0.9, 1.0])
def test_fused_dropout_keeps_the_expectation(p):
    ones = torch.ones(200_000)
    kept, mask = seeded(0, lambda: torch.ops.aten.native_dropout(ones, p, True))
    assert mask.float().mean() == pytest.approx(1 - p, abs=0.01)
    assert torch.equal(kept != 0, mask)
    assert kept.mean() == pytest.approx(1.0 if p < 1 else 0.0, rel=0.02)


def test_fused_dropout_does_nothing_in_evaluation():
    kept, mask = seeded(0, lambda: torch.ops.aten.native_dropout(x, 0.5, False))
    assert torch.equal(kept, x)
    assert mask.all()


class Recurrent(Backbone):
    """Reads the columns as a sequence; draws in its initialisation and in training."""

    def encoder(self, n_inputs, n_outputs):
        return _Recurrent(n_outputs)

    def decoder(self, n_inputs, n_outputs):
        return nn.Sequential(nn.Linear(n_inputs, n_outputs), nn.Dropout(0.2))


class _Recurrent(nn.Module):
    def __init__(self, n_outputs):
        super().__init__()
        self.gru = nn.GRU(1, 5, num_layers=2, dropout=0.3, batch_first=True)
        self.out = nn.Linear(5, n_outputs)

    def forward(self, x):
        return self.out(self.gru(x[:, :, None])[0][:, -1])


def test_layers_that_draw_by_themselves_follow_random_state():
    X = np.random.default_rng(0).normal(size=(40, 3))
    before = torch.get_rng_state()
    a, b, c = (
        AutoencoderTransformer(2, backbone=Recurrent(), max_iter=4, random_state=seed)
        .fit(X)
        .transform(X)
        for seed in (0, 0, 1)
    )
    assert_array_equal(a, b)
    assert not np.allclose(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_the_streams_of_a_fit_are_independent():
    initial, training, split = generators(0, torch.device("cpu"))
    draws = [torch.rand(2000, generator=g).numpy() for g in (initial, training)]
    correlations = np.corrcoef([*draws, split.random(2000)])
    assert np.abs(correlations[np.triu_indices(3, 1)]).max() < 0.1
    again = generators(0, torch.device("cpu"))
    assert_array_equal(draws[0], torch.rand(2000, generator=again[0]).numpy())
    other = generators(1, torch.device("cpu"))
    assert not np.allclose(draws[1], torch.rand(2000, generator=other[1]).numpy())


def test_only_layers_known_not_to_draw_go_without_interception():
    class OfTheUser(nn.Linear):
        pass

    assert not may_draw(MLP((4,), norm="batch").encoder(3, 2))
    assert may_draw(MLP((4,), dropout=0.1).encoder(3, 2))
    assert may_draw(nn.Sequential(nn.Linear(2, 2), OfTheUser(2, 2)))
    assert may_draw(nn.RReLU())


def test_the_modules_of_this_package_go_without_interception_and_a_users_do_not():
    X = np.random.default_rng(0).normal(size=(20, 3))
    ours = [
        AutoencoderTransformer(2, penalty="l1", max_iter=1),
        VAETransformer(2, max_iter=1),
        ContrastiveTransformer(2, max_iter=1),
    ]
    assert not any(may_draw(estimator.fit(X).module_) for estimator in ours)
    ae = AutoencoderTransformer(2, penalty=UsersPenalty(), max_iter=1).fit(X)
    assert may_draw(ae.module_)


class UsersPenalty(Penalty):
    def build(self, n_components):
        return _UsersPenalty()


class _UsersPenalty(nn.Module):
    def forward(self, encoded):
        return encoded.codes.square().mean()

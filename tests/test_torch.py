"""The border between NumPy and torch: devices, random numbers, batched evaluation."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.utils import _python_dispatch

from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    VAETransformer,
)
from skrepr._training import _inference
from skrepr._training._inference import (
    Evaluator,
    for_inference,
    resolve_device,
    run,
    to_tensor,
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


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_best_device(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_a_device_that_is_there_is_taken(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda:7", "mps", "meta"])
def test_a_missing_device_is_an_error_that_names_the_way_out(monkeypatch, name):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=rf"device='{name}' .* Use device='auto'"):
        resolve_device(name)


def test_the_name_of_no_device_is_an_error_that_lists_names():
    with pytest.raises(ValueError, match=r"'gpu' is not the name of a device.*'cuda'"):
        resolve_device("gpu")


@pytest.mark.parametrize("device", ["cpu", "cuda:7"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inference_runs_on_a_copy_in_the_precision_of_the_input(device, dtype):
    module = nn.Linear(3, 2).eval()
    weight = module.weight.clone()
    copy = for_inference(module, device, np.dtype(dtype)).module
    assert copy.weight.dtype == torch.from_numpy(np.empty(0, dtype)).dtype
    assert copy.weight.device.type == "cpu"
    copy.weight.data.zero_()
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, weight)


@pytest.mark.parametrize("size", [1, 2, 10**6])
def test_batches_give_what_one_go_gives(size, monkeypatch):
    monkeypatch.setattr(_inference, "_CELLS_CPU", 33 * size)
    with Seeded(torch.Generator().manual_seed(0)):
        module = nn.Sequential(nn.Linear(5, 33), nn.ReLU(), nn.Linear(33, 2)).double()
    matrix = np.random.default_rng(0).normal(size=(101, 5))
    sizes = []

    def evaluate(rows):
        sizes.append(len(rows))
        return module(rows)

    result = Evaluator(module, "cpu", torch.float64).apply(evaluate, matrix)
    expected = module(torch.from_numpy(matrix)).detach().numpy()
    assert_allclose(result, expected, atol=1e-14)
    assert max(sizes) == min(101, size)


def test_a_batch_is_bounded_by_the_cells_a_row_needs(monkeypatch):
    monkeypatch.setattr(_inference, "_CELLS_CPU", 12)
    module, sizes = nn.Linear(2, 2), []

    def evaluate(rows):
        sizes.append(len(rows))
        return rows

    evaluator = Evaluator(module, "cpu", torch.float32)
    evaluator.apply(evaluate, np.ones((10, 2)), cells_per_row=3)
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_come_back_in_the_dtype_of_the_input(dtype):
    evaluator = for_inference(nn.Linear(4, 2), "cpu", dtype)
    assert evaluator.apply(evaluator.module, np.ones((3, 4), dtype)).dtype == dtype


CHANGES = {
    "a weight in place": lambda m: m[0].weight.mul_(2),
    "another tensor": lambda m: setattr(m[0].weight, "data", 2 * m[0].weight),
    "another parameter": lambda m: setattr(m[0], "weight", frozen(torch.eye(3))),
    "another layer": lambda m: m.__setitem__(1, nn.Tanh()),
    "a hook": lambda m: m[1].register_forward_hook(lambda *args: args[2] + 1),
    "the state": lambda m: m.load_state_dict({k: v + 1 for k, v in state(m)}),
    "the mode": lambda m: m.train(),
}


def frozen(tensor):
    return nn.Parameter(tensor, requires_grad=False)


def state(module):
    return module.state_dict().items()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("change", CHANGES)
def test_a_module_is_copied_once_and_again_when_it_has_changed(dtype, change):
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2), nn.Dropout(1.0))
    module.eval().requires_grad_(False)
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(dtype)
    before = run(module, "forward", rows, "cpu")
    evaluator = for_inference(module, "cpu", dtype)
    assert_array_equal(run(module, "forward", rows, "cpu"), before)
    assert for_inference(module, "cpu", dtype) is evaluator
    CHANGES[change](module)
    expected = module.to(torch.from_numpy(rows).dtype)(torch.from_numpy(rows))
    module.float()
    assert_allclose(run(module, "forward", rows, "cpu"), expected, rtol=1e-5)
    assert not np.allclose(expected, before)


def test_copies_are_gone_with_their_module():
    module = nn.Linear(2, 2)
    copy = weakref.ref(for_inference(module, "cpu", np.float64).module)
    assert copy() is not None
    del module
    gc.collect()
    assert copy() is None


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -2)])
def test_read_only_and_strided_arrays_reach_torch_without_a_warning(order, request):
    torch.set_warn_always(True)  # otherwise torch warns once in a process
    request.addfinalizer(lambda: torch.set_warn_always(False))
    matrix = np.arange(12.0).reshape(3, 4)[:, order]
    matrix.flags.writeable = False
    assert to_tensor(matrix, torch.empty(0)).tolist() == matrix.tolist()


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

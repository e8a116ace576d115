"""The border between NumPy and torch: devices, and batched evaluation."""

import gc
import weakref

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skrepr._training import _inference
from skrepr._training._inference import (
    Evaluator,
    for_inference,
    resolve_device,
    run,
    to_tensor,
)
from skrepr._training._random import Seeded

x = torch.linspace(0.1, 0.9, 24).reshape(4, 6)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_best_device(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
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


def test_a_forked_process_has_no_gpu_that_its_parent_has_used(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"'cuda' .* forked .* Use device='auto'"):
        resolve_device("cuda")
    evaluator = for_inference(nn.Linear(3, 2).eval(), "cuda", np.dtype(np.float32))
    assert evaluator.like.device.type == "cpu"


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

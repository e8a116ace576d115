"""Devices, and batched evaluation: the border between NumPy and torch."""

import copy
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import torch

from skrepr._blocks import blocks
from skrepr._training._stacks import for_evaluation, has_stacks
from skrepr._training._threads import one_thread

# Intermediate values of a batch: few enough for the cache of a core, enough for a GPU.
_CELLS_CPU, _CELLS_GPU = 2**18, 2**24


def resolve_device(device):
    """Turn the ``device`` parameter of an estimator into a ``torch.device``.

    Parameters
    ----------
    device : str
        "auto" (CUDA, else MPS, else the CPU) or the name of a torch device.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the name is unknown or there is no such device on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not the name of a device. Use 'auto', 'cpu', "
            "'cuda', 'cuda:1' (a second GPU) or 'mps'."
        ) from error
    if not _is_present(resolved):
        raise ValueError(
            f"device={device!r} was asked for, but torch finds no such device on this "
            "machine. Use device='auto' to take the best one there is, or "
            "device='cpu'."
        )
    return resolved


def _is_present(device):
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


def for_inference(module, device, dtype):
    """Copy a fitted module to where, and to the precision in which, it is evaluated.

    Parameters
    ----------
    module : torch.nn.Module
        At rest: on the CPU, float32, in eval mode. It is not touched.
    device : str
        The device of the fit. The CPU takes its place where it is missing.
    dtype : numpy.dtype
        Of the input. float64 falls back to float32 where a device has no float64.

    Returns
    -------
    torch.nn.Module
    """
    device = torch.device(device)
    if not _is_present(device):
        device = torch.device("cpu")
    precise = np.dtype(dtype) == np.float64 and device.type != "mps"
    module = copy.deepcopy(module)
    module.to(device, torch.float64 if precise else torch.float32)
    for_evaluation(module)
    return module


@contextmanager
def evaluation(module):
    """Do without gradients, and with one thread if stacks compute the module.

    Parameters
    ----------
    module : torch.nn.Module
        As `for_inference` returns it.
    """
    with torch.inference_mode(), one_thread() if has_stacks(module) else nullcontext():
        yield


def run(
    module,
    verb,
    rows,
    device,
    *,
    to_matrix=None,
    generator=None,
    cells_per_row=1,
):
    """Evaluate a method of a fitted module on rows, on a copy of the module.

    Parameters
    ----------
    module : torch.nn.Module
        At rest, see `for_inference`.
    verb : str
        The name of the method, as `function` of `apply`.
    rows : ndarray of shape (n_samples, n_columns)
        Their dtype is the precision.
    device : str
        The device of the fit.
    to_matrix : callable, optional
        As of `apply`.
    generator : torch.Generator, optional
        Passed to the method, which is then evaluated where the generator is.
    cells_per_row : int, default=1
        As of `apply`.

    Returns
    -------
    ndarray of the dtype of `rows`
    """
    if generator is not None:
        device = generator.device
    module = for_inference(module, device, rows.dtype)
    function = getattr(module, verb)
    if generator is not None:
        function = partial(function, generator=generator)
    return apply(
        module, function, rows, to_matrix=to_matrix, cells_per_row=cells_per_row
    )


def apply(module, function, rows, *, to_matrix=None, cells_per_row=1):
    """Evaluate a function of a module on the rows of an array, a batch at a time.

    Parameters
    ----------
    module : torch.nn.Module
        As `for_inference` returns it.
    function : callable
        Maps a tensor (n, n_columns) to a tensor whose first axis has length n.
    rows : ndarray of shape (n_samples, n_columns)
    to_matrix : callable, optional
        Makes of a block of rows what the module sees.
    cells_per_row : int, default=1
        Intermediate values a row needs at its widest, if that is more than the widest
        weight matrix of the module says.

    Returns
    -------
    ndarray of the dtype of `rows`
    """
    weight = next(module.parameters())
    widest = max(max(p.shape, default=1) for p in module.parameters())
    n_cells = _CELLS_CPU if weight.device.type == "cpu" else _CELLS_GPU
    result = None
    with evaluation(module):
        for block in blocks(len(rows), max(cells_per_row, widest), n_cells):
            matrix = rows[block] if to_matrix is None else to_matrix(rows[block])
            values = function(to_tensor(matrix, weight)).cpu().numpy()
            if result is None:
                result = np.empty((len(rows), *values.shape[1:]), rows.dtype)
            result[block] = values
    return result


def to_tensor(matrix, like):
    """Copy a NumPy matrix to the device and precision of the tensor `like`."""
    # torch.tensor copies: torch warns of sharing the memory of a read-only array.
    return torch.tensor(
        np.ascontiguousarray(matrix), dtype=like.dtype, device=like.device
    )

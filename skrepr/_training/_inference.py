"""Devices, and batched evaluation: the border between NumPy and torch."""

import copy
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch

from skrepr._blocks import blocks
from skrepr._training._stacks import for_evaluation
from skrepr._training._threads import ProcessLock, one_thread, threads_for

# Intermediate values of a batch: few enough for the cache of a core, enough for a GPU.
_CELLS_CPU, _CELLS_GPU = 2**18, 2**24

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")  # of a module
_PLAIN = (int, float, str)  # attributes of a user's module that may be settings

_MAX_ROWS_KEPT = 256  # for so many rows intermediate values keep their memory


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
        return next(filter(_is_present, map(torch.device, ("cuda", "mps", "cpu"))))
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not the name of a device. Use 'auto', 'cpu', "
            "'cuda', 'cuda:1' (a second GPU) or 'mps'."
        ) from error
    if not _is_present(resolved):
        where = "on this machine"
        is_there = resolved.type == "cuda" and torch.cuda.device_count() > 0
        if is_there and torch.cuda._is_in_bad_fork():
            where = "in a process forked from one that has used it"
        raise ValueError(
            f"device={device!r} was asked for, but torch finds no such device {where}. "
            "Use device='auto' to take the best one there is, or device='cpu'."
        )
    return resolved


def _is_present(device):
    if device.type == "cuda":
        # Torch cannot use a GPU in a process forked from one that has used it.
        is_usable = not torch.cuda._is_in_bad_fork()
        return is_usable and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


def made_on(device):
    """Return a context in which new tensors lie on a device, whatever the user has set.

    It costs every operation a call, so it does nothing where the user has set nothing:
    tensors that do not say their device are single numbers, which the CPU may hold.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    context manager
    """
    is_set = torch.empty(0).device.type != "cpu"
    return device if is_set else nullcontext()


class Evaluator:
    """A copy of a fitted module, in the precision and on the device of its inputs.

    Parameters
    ----------
    module : torch.nn.Module
        It is copied.
    device : torch.device
    dtype : torch.dtype

    Attributes
    ----------
    like : torch.Tensor
        Of the device and the precision of the inputs.
    """

    def __init__(self, module, device, dtype):
        self.module = copy.deepcopy(module).to(device, dtype)
        parameters = list(self.module.parameters())
        self._widest = max(max(p.shape, default=1) for p in parameters)
        self._size = sum(p.numel() for p in parameters)
        self._largest = max(p.numel() for p in parameters)
        self._stacks = for_evaluation(self.module)
        self.like = torch.empty(0, dtype=dtype, device=device)

    @contextmanager
    def at_work(self, n_rows):
        """Do without gradients, and with as many threads as are good for a batch.

        Parameters
        ----------
        n_rows : int
            Of a batch.
        """
        size, largest = n_rows * self._size, n_rows * self._largest
        by_numpy = bool(self._stacks)
        kind = self.like.device.type
        in_full: AbstractContextManager = nullcontext()
        if torch.is_autocast_enabled(kind):  # by the user, for other networks
            in_full = torch.autocast(kind, enabled=False)
        with (
            torch.inference_mode(),
            in_full,
            threads_for(size, largest, by_numpy=by_numpy),
        ):
            yield
        if n_rows > _MAX_ROWS_KEPT:
            for stack in self._stacks:
                stack.forget()

    def apply(self, function, rows, *, to_matrix=None, cells_per_row=1):
        """Evaluate a function of the module on the rows of an array, in batches.

        Parameters
        ----------
        function : callable
            Maps a tensor (n, n_columns) to a tensor whose first axis has length n.
        rows : ndarray of shape (n_samples, n_columns)
        to_matrix : callable, optional
            Makes of a block of rows what the module sees.
        cells_per_row : int, default=1
            Intermediate values a row needs at its widest, if that is more than the
            widest weight matrix of the module says.

        Returns
        -------
        ndarray of the dtype of `rows`
        """
        n_cells = _CELLS_CPU if self.like.device.type == "cpu" else _CELLS_GPU
        slices = blocks(len(rows), max(cells_per_row, self._widest), n_cells)
        result = None
        with self.at_work(slices[0].stop):
            for block in slices:
                matrix = rows[block] if to_matrix is None else to_matrix(rows[block])
                values = function(to_tensor(matrix, self.like)).cpu().numpy()
                if result is None:
                    result = np.empty((len(rows), *values.shape[1:]), rows.dtype)
                result[block] = values
        return result


# Copies live as long as their modules, but apart from them: verbs change nothing of an
# estimator, and neither clones nor pickles know of copies.
_evaluators: WeakKeyDictionary = WeakKeyDictionary()
_lock = ProcessLock()


def for_inference(module, device, dtype):
    """Return what evaluates a fitted module, the same at every call.

    Parameters
    ----------
    module : torch.nn.Module
        At rest: on the CPU, float32, in eval mode. It is not touched. Once it has been
        changed, a new copy is made; torch does not tell of changes to the memory of
        ``tensor.data``.
    device : str
        The device of the fit. The CPU takes its place where it is missing.
    dtype : numpy.dtype
        Of the input. float64 falls back to float32 where a device has no float64.

    Returns
    -------
    Evaluator
    """
    device = torch.device(device)
    if not _is_present(device):
        device = torch.device("cpu")
    precise = dtype == np.float64 and device.type != "mps"
    dtype = torch.float64 if precise else torch.float32
    with _lock:
        content, tensors = _content(module)
        known = _evaluators.setdefault(module, {})
        last, _, evaluator = known.get((device, dtype), (None, None, None))
        if last != content:
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.device("cpu"),
                one_thread(),
            ):
                evaluator = Evaluator(module, device, dtype)
            # The tensors are kept: another one cannot have the identity of one that
            # lives.
            known[device, dtype] = content, tensors, evaluator
    return evaluator


def _content(module):
    """Tell what a module is made of at the moment: equal as long as it stays so."""
    content: list[object] = []
    tensors: list[torch.Tensor] = []
    todo = [module]
    for part in todo:  # which grows meanwhile
        inside = vars(part)
        content += id(part), inside["training"], id(inside.get("forward"))
        for name in _HOOKS:
            content += map(id, inside[name].values())
        if not type(part).__module__.startswith(("skrepr.", "torch.nn.")):
            content += (value for value in inside.values() if isinstance(value, _PLAIN))
        for tensor in (*inside["_parameters"].values(), *inside["_buffers"].values()):
            if tensor is not None:
                version = 0 if tensor.is_inference() else tensor._version
                content += id(tensor), version, tensor.data_ptr()
                tensors.append(tensor)
        todo += [child for child in inside["_modules"].values() if child is not None]
    return content, tensors


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
        The name of the method, as `function` of `Evaluator.apply`.
    rows : ndarray of shape (n_samples, n_columns)
        Their dtype is the precision.
    device : str
        The device of the fit.
    to_matrix : callable, optional
        As of `Evaluator.apply`.
    generator : torch.Generator, optional
        Passed to the method, which is then evaluated where the generator is.
    cells_per_row : int, default=1
        As of `Evaluator.apply`.

    Returns
    -------
    ndarray of the dtype of `rows`
    """
    if generator is not None:
        device = generator.device
    evaluator = for_inference(module, device, rows.dtype)
    function = getattr(evaluator.module, verb)
    if generator is not None:
        function = partial(function, generator=generator)
    return evaluator.apply(
        function, rows, to_matrix=to_matrix, cells_per_row=cells_per_row
    )


def to_tensor(matrix, like):
    """Copy a NumPy matrix to the device and precision of the tensor `like`."""
    # torch.tensor copies: torch warns of sharing the memory of a read-only array.
    return torch.tensor(
        np.ascontiguousarray(matrix), dtype=like.dtype, device=like.device
    )

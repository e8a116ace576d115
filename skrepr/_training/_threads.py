"""How many threads torch uses, and matrix products that keep to one."""

import threading
from contextlib import contextmanager

import numpy as np
import torch

_lock = threading.Lock()
_limited = threading.local()  # whether this thread is inside a block of `one_thread`
_n_limited = 0  # threads that are
_threads_outside = 1  # torch's threads before the first of them was


@contextmanager
def one_thread():
    """Let torch use one thread, in this thread, until the end of the block.

    NumPy's matrix products do not warn of overflow meanwhile, nor do torch's ever.

    Torch's count is each thread's own, but a thread that meets torch for the first time
    takes over the count that was set last, wherever that was. Such a thread gets the
    count from before the blocks that were under way then.
    """
    global _n_limited, _threads_outside
    if getattr(_limited, "inside", False):
        yield
        return
    with _lock:
        before = torch.get_num_threads()
        if _n_limited == 0:
            _threads_outside = before
        elif before == 1:
            before = _threads_outside
        _n_limited += 1
        torch.set_num_threads(1)
    _limited.inside = True
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _limited.inside = False
        with _lock:
            torch.set_num_threads(before)
            _n_limited -= 1


def matmul(a, b):
    """Multiply matrices outside of autograd, inside `one_thread` with NumPy's BLAS.

    Parameters
    ----------
    a : torch.Tensor of shape (n, k)
    b : torch.Tensor of shape (k, m)

    Returns
    -------
    torch.Tensor of shape (n, m)
    """
    is_numpys = a.device.type == "cpu" and a.dtype in (torch.float32, torch.float64)
    if not is_numpys or torch.get_num_threads() > 1:
        return a @ b
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))

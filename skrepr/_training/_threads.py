"""How many threads torch and NumPy's BLAS use, and matrix products that keep to one.

A second thread gives small matrix products nothing, and where other work is on the
cores each product waits for it. How many are used follows from the sizes and the user's
settings alone, never from the time that something took: other numbers of threads give
other last digits.
"""

import os
import threading
import weakref
from contextlib import contextmanager, nullcontext
from functools import cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController  # scikit-learn's own dependency

# Multiplications of a pass of a batch through a network from which on a second thread
# gives more than it costs.
_WORTH_THREADS = 2**24

# The same of a single product from which on OpenBLAS uses a second thread.
_BLAS_USES_THREADS = 2**18

_locks: weakref.WeakSet = weakref.WeakSet()


class ProcessLock:
    """A lock that a forked process finds free, whichever thread held it."""

    def __init__(self):
        self.renew()
        _locks.add(self)

    def renew(self):
        """Forget who holds it."""
        self._lock = threading.RLock()

    def __enter__(self):
        self._lock.acquire()

    def __exit__(self, *exc_info):
        self._lock.release()


_lock = ProcessLock()
_limited = threading.local()  # `inside` a block of `one_thread`, with `before` outside
_n_limited = 0  # threads that are
_threads_outside = 1  # torch's threads before the first of them was
_n_limits = 0  # blocks of `one_blas_thread`
_limits = None  # what restores the number of BLAS threads after the last of them

# A process that was forked from one that has used several threads of OpenMP waits for
# ever when it uses them itself.
_is_forked = False


def _set_forked():
    global _is_forked, _n_limited, _n_limits
    _is_forked = True
    for lock in list(_locks):
        lock.renew()
    # Of all threads only this one lives on.
    _n_limited = int(getattr(_limited, "inside", False))
    _n_limits = min(_n_limits, _n_limited)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_set_forked)


@contextmanager
def subnormals_flushed():
    """Let this thread take numbers below 1e-38 for 0, until the end of the block.

    A processor needs many times as long for them, and training comes to them: as slopes
    of what is certain, and as moments of weights that have no gradient any more.
    """
    small = torch.tensor(1e-38, dtype=torch.float32, device="cpu")
    was_on = float(small * 0.1) == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_on)


@contextmanager
def one_thread():
    """Let torch use one thread, in this thread, until the end of the block.

    NumPy's matrix products do not warn of overflow meanwhile, nor do torch's ever. In a
    process that was forked all libraries use one thread.

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
        elif before == 1 and not hasattr(_limited, "before"):
            before = _threads_outside
        _n_limited += 1
        torch.set_num_threads(1)
    _limited.inside, _limited.before = True, before
    try:
        limits = _everything().limit(limits=1) if _is_forked else nullcontext()
        with np.errstate(all="ignore"), limits:
            yield
    finally:
        _limited.inside = False
        with _lock:
            torch.set_num_threads(before)
            _n_limited -= 1


@contextmanager
def threads_for(n_multiplications, largest_product, *, by_numpy):
    """Choose the number of threads for passes through a network on the CPU.

    Parameters
    ----------
    n_multiplications : float
        Of a pass of a batch.
    largest_product : float
        Those of the largest matrix product in it.
    by_numpy : bool
        Whether NumPy multiplies the matrices. Torch keeps to one thread then: its
        threads and those of NumPy's BLAS would wait for each other's cores.
    """
    with one_thread():
        if n_multiplications < _WORTH_THREADS or _is_forked:
            small = largest_product < _BLAS_USES_THREADS or not by_numpy
            with nullcontext() if small else one_blas_thread():
                yield
        elif by_numpy:
            yield
        else:
            with _lock:
                torch.set_num_threads(_limited.before)
            try:
                yield
            finally:
                with _lock:
                    torch.set_num_threads(1)


@contextmanager
def one_blas_thread():
    """Let BLAS use one thread, in the whole process, until the end of the block."""
    global _n_limits, _limits
    with _lock:
        if _n_limits == 0:
            _take_control()
            _limits = _blas().limit(limits=1)
        _n_limits += 1
    try:
        yield
    finally:
        with _lock:
            _n_limits -= 1
            if _n_limits == 0:
                _take_control()
                _limits.restore_original_limits()
                _take_control()


def _take_control():
    """Let this thread set the count, or the next: threadpoolctl heeds but one of them.

    The counting here is what keeps them from each other's way.
    """
    for library in _blas().lib_controllers:
        release = getattr(library, "clear_controlling_thread", None)
        if release is not None:  # before threadpoolctl 3.8 every thread was heeded
            release(force=True)


@cache
def _blas():
    """Return what limits the threads of the libraries for linear algebra."""
    return _everything().select(user_api="blas")


@cache
def _everything():
    """Return what limits the threads of all libraries that are loaded."""
    return ThreadpoolController()


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

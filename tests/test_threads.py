"""Threads: how many are used, what is left of that afterwards, and after a fork."""

import os
import subprocess
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from skrepr import AutoencoderTransformer, ContrastiveTransformer, VAETransformer
from skrepr._training._optimizer import Parameters
from skrepr._training._threads import one_thread, subnormals_flushed, threads_for
from skrepr.backbones import MLP

ESTIMATORS = [AutoencoderTransformer, VAETransformer, ContrastiveTransformer]


def rows():
    return np.random.default_rng(0).normal(size=(150, 6))


def is_flushing():
    return (torch.tensor(1e-38) * 0.1).item() == 0


@pytest.mark.parametrize("before", [True, False])
def test_training_flushes_what_a_processor_is_slow_with_and_nothing_else_does(before):
    if not torch.set_flush_denormal(before):
        assert not is_flushing()  # a processor that cannot
        return
    try:
        found = []

        class Watched(nn.Module):
            def forward(self, x, generator, ids=None):
                found.append(is_flushing())
                return x

        AutoencoderTransformer(
            2, augmentation=lambda x, g: Watched()(x, g), max_iter=1
        ).fit(rows())
        assert found
        assert found[-1]
        assert is_flushing() == before
        with pytest.raises(KeyError), subnormals_flushed():
            raise KeyError
        assert is_flushing() == before
        torch.set_default_dtype(torch.float64)  # in which 1e-39 is no such number
        with subnormals_flushed():
            pass
        torch.set_default_dtype(torch.float32)
        assert is_flushing() == before
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_flush_denormal(False)


def mlp(*sizes):
    layers = [layer for ab in pairwise(sizes) for layer in (nn.Linear(*ab), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def in_a_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def three_threads():
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


def test_one_thread_is_of_its_block_and_its_thread_only(three_threads):
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    assert in_a_thread(torch.get_num_threads) == 3


def test_one_thread_ends_with_its_block_when_that_fails(three_threads):
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert torch.get_num_threads() == 3


def test_blocks_of_several_threads_leave_the_count_as_it_was(three_threads):
    inside, leave = threading.Event(), threading.Event()

    def outlast():
        with one_thread():
            inside.set()
            leave.wait()
        return torch.get_num_threads()

    found = []
    with one_thread():
        thread = threading.Thread(target=lambda: found.append(outlast()))
        thread.start()
        inside.wait()
    assert torch.get_num_threads() == 3
    leave.set()
    thread.join()
    assert found == [3]
    assert in_a_thread(torch.get_num_threads) == 3


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_fit_and_inference_leave_the_count_as_it_was(estimator, three_threads):
    fitted = estimator(2, max_iter=1).fit(rows())
    fitted.transform(rows())
    fitted.score(rows())
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("n_rows", "expected"), [(10, 1), (10**6, 3)])
def test_plain_steps_use_threads_when_they_are_worth_it(
    n_rows, expected, three_threads
):
    parameters = Parameters(mlp(3, 8, 2), [], 0.0)
    with parameters.at_work(n_rows):
        assert torch.get_num_threads() == expected


def blas_threads():
    return {
        lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"
    }


SMALL, MIDDLE, LARGE = 1e3, 1e6, 1e9  # multiplications


@pytest.mark.parametrize("by_numpy", [True, False])
@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
def test_threads_follow_from_sizes(by_numpy, size, three_threads):
    with threadpool_limits(2, user_api="blas"):
        with threads_for(size, size, by_numpy=by_numpy):
            expected = 3 if size == LARGE and not by_numpy else 1
            assert torch.get_num_threads() == expected
            # What is so small that BLAS takes one thread by itself is not slowed down.
            assert blas_threads() == ({1} if size == MIDDLE and by_numpy else {2})
        assert torch.get_num_threads() == 3
        assert blas_threads() == {2}


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
def test_the_users_own_limit_is_kept(size):
    torch.set_num_threads(1)
    with threadpool_limits(1), threads_for(size, size, by_numpy=True):
        assert torch.get_num_threads() == 1
        assert blas_threads() == {1}


def test_blas_is_given_back_by_the_last_of_several_threads():
    inside, leave = threading.Event(), threading.Event()

    def outlast():
        with threads_for(MIDDLE, MIDDLE, by_numpy=True):
            inside.set()
            leave.wait()

    with threadpool_limits(2, user_api="blas"):
        with threads_for(MIDDLE, MIDDLE, by_numpy=True):
            thread = threading.Thread(target=outlast)
            thread.start()
            inside.wait()
        assert blas_threads() == {1}  # the other one has begun with that
        leave.set()
        thread.join()
        assert blas_threads() == {2}


def test_equal_fits_are_equal_whatever_number_of_threads_is_set(three_threads):
    """Below the size at which it matters, also where BLAS would use two by itself."""
    X = np.random.default_rng(0).normal(size=(256, 32))
    codes = []
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        with threadpool_limits(n_threads, user_api="blas"):
            fitted = AutoencoderTransformer(
                8, backbone=MLP((64,)), max_iter=2, random_state=0
            ).fit(X)
            codes.append(fitted.transform(X))
    assert np.array_equal(*codes)


# After a fork libgomp waits for ever for the threads of the parent.
FORK = """
import os, signal, sys
import numpy as np
import torch
from threadpoolctl import threadpool_limits
from skrepr import *
from skrepr.backbones import MLP

torch.set_num_threads(2)
rng = np.random.default_rng(0)
X = rng.normal(size=(600, 20))
y = (X[:, 0] > 0).astype(int)
X[rng.random(X.shape) < 0.05] = np.nan
few = X[:9]
torch.randn(1000, 1000) @ torch.randn(1000, 1000)
with threadpool_limits(2):
    rng.normal(size=(1000, 1000)) @ rng.normal(size=(1000, 1000))


def in_a_child(name, function):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # a child that hangs is ended
        try:
            function()
        except BaseException as error:
            print(name, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return name, pid


def verbs(fitted):
    names = "transform score_samples feature_contributions impute sample interpolate"
    arguments = {"sample": (5000,), "interpolate": (few, few), "transform": (X,)}
    for name in names.split():
        if hasattr(fitted, name):
            yield name, lambda name=name: getattr(fitted, name)(
                *arguments.get(name, (few,))
            )
    yield "fit", lambda: fitted.fit(X, y)
    if hasattr(fitted, "predict"):
        yield "predict", lambda: fitted.predict(X)
    else:
        yield "score", lambda: fitted.score(few)


def wide(norm=None):
    return {"backbone": MLP((512, 512), norm=norm), "max_iter": 1, "random_state": 0}


estimators = [
    AutoencoderTransformer(8, **wide()),
    VAETransformer(8, n_importance_samples=4, **wide("batch")),
    ContrastiveTransformer(8, objective="byol", **wide("batch")),
    FineTunedClassifier(AutoencoderTransformer(8, **wide()), max_iter=1),
    FineTunedRegressor(VAETransformer(8, **wide()), max_iter=1),
    OutlierDetector(AutoencoderTransformer(8, **wide()), contamination=0.1),
]
failed = 0
for estimator in estimators:
    estimator.fit(X, y)
    if hasattr(estimator, "sample"):
        estimator.sample(5000)  # the parent's own parallel regions
    children = [in_a_child(*item) for item in verbs(estimator)]
    for name, pid in children:
        status = os.waitpid(pid, 0)[1]
        if status:
            failed += 1
            print(type(estimator).__name__, name, "ended with", status, flush=True)
sys.exit(failed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="There is no fork on Windows.")
def test_every_verb_comes_to_an_end_in_a_child_of_a_process_with_two_threads():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr

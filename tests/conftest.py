"""One thread, scikit-learn's array API checks, and small data for every test."""

import copy
import functools
import os

# Before scipy and torch are imported, here and in joblib's workers.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Old versions of polars warn of the fork that starts a worker of joblib's.
os.environ.setdefault("POLARS_ALLOW_FORKING_THREAD", "1")

import numpy as np
import pandas as pd
import pytest
import torch

from skrepr import AutoencoderTransformer, ContrastiveTransformer, VAETransformer
from skrepr._estimators import _base

torch.set_num_threads(1)


def five_columns():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 5))
    return (Z + 0.1 * rng.normal(size=Z.shape)) * [1, 10, 0.1, 1e3, 1] + [
        0,
        5,
        1,
        1e4,
        0,
    ]


@pytest.fixture
def X():
    """Sixty rows of five correlated columns in different units."""
    return five_columns()


@pytest.fixture(
    params=[AutoencoderTransformer, VAETransformer, ContrastiveTransformer],
    ids=["ae", "vae", "contrastive"],
)
def transformer(request):
    """Each of the three transformers, unfitted, for a fit of twelve quick steps."""
    return quick(request.param)


def quick(kind):
    return kind(n_components=3, max_iter=3, batch_size=16, random_state=0)


@functools.cache
def fitted_once(kind):
    return quick(kind).fit(five_columns())


@pytest.fixture
def fitted(transformer):
    """The transformer, fitted to X: a copy of what is fitted once for all tests."""
    return copy.deepcopy(fitted_once(type(transformer)))


@pytest.fixture
def asked_epochs(monkeypatch):
    """A list of how many epochs each fit asks for; each trains for one."""
    asked, train = [], _base.train

    def one_epoch(*args, max_iter, **params):
        asked.append(max_iter)
        return train(*args, max_iter=1, **params)

    monkeypatch.setattr(_base, "train", one_epoch)
    return asked


@pytest.fixture
def mixed():
    """Ninety rows of a DataFrame with holes, of numbers, categories and flags."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=90)
    frame = pd.DataFrame(
        {
            "size": 10 + 3 * z + 0.1 * rng.normal(size=90),
            "count": np.rint(5 * z + 50).astype(int),
            "weight": (2 * z + 0.1 * rng.normal(size=90)).astype(np.float32),
            "kind": np.where(z > 0.5, "large", np.where(z < -0.5, "small", "medium")),
            "grade": pd.Categorical(
                np.digitize(z, [-1, 0, 1]) + 1, [1, 2, 3, 4, 5], ordered=True
            ),
            "positive": z > 0,
        },
        index=np.arange(90) + 1000,
    )
    holes = rng.random((90, 4)) < 0.15
    for name, missing in zip(["size", "weight", "kind", "grade"], holes.T, strict=True):
        frame[name] = frame[name].mask(missing)
    return frame

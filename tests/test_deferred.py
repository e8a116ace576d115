"""What fit puts off: not done before it is asked for, and the same whenever it is."""

import copy
import os
import pickle
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as SklearnMixture

from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    FineTunedClassifier,
    FineTunedRegressor,
    VAETransformer,
)
from skrepr._estimators import _decoding
from skrepr._estimators._deferred import Deferred
from skrepr.error_models import Covariance
from skrepr.latent_densities import KernelDensity, LatentDensity

DECODING = [AutoencoderTransformer, VAETransformer]


@pytest.fixture
def X():
    """Rows with holes, whole numbers and a constant."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 2)) @ rng.normal(size=(2, 6))
    X += 0.1 * rng.normal(size=X.shape)
    X[:, 1] = np.rint(10 * X[:, 1])
    X[:, 2] = 5.0
    X[rng.random(X.shape) < 0.05] = np.nan
    return X


def make(kind, **params):
    return kind(2, max_iter=2, batch_size=16, random_state=0).set_params(**params)


VERBS = {
    "scores": lambda fitted, X: fitted.score_samples(X),
    "rows": lambda fitted, X: fitted.sample(20, random_state=0),
    "conditions": lambda fitted, X: fitted.sample(
        3, given={1: (-20, None)}, random_state=0
    ),
    "codes": lambda fitted, X: fitted.transform(X),
}


def outputs(fitted, X, names=tuple(VERBS)):
    return {name: VERBS[name](fitted, X) for name in names}


def assert_equal(found, expected):
    for name, values in expected.items():
        assert_array_equal(found[name], values, strict=True)


@pytest.fixture
def counts(monkeypatch):
    """How often what is costly has been done."""
    counts = dict.fromkeys(["scorer", "generator", "quantiles", "density", "copy"], 0)

    def count(name, target, attribute):
        original = getattr(target, attribute)

        def counted(*args, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(target, attribute, counted)

    from skrepr._columns._quantiles import Quantiles
    from skrepr._estimators._row_generator import RowGenerator
    from skrepr._estimators._scorer import Scorer
    from skrepr._training._inference import Evaluator

    count("scorer", Scorer, "__init__")
    count("generator", RowGenerator, "__init__")
    count("quantiles", Quantiles, "fit")
    count("density", KernelDensity, "build")
    count("copy", Evaluator, "__init__")
    return counts


@pytest.mark.parametrize(
    "kind", [AutoencoderTransformer, VAETransformer, ContrastiveTransformer]
)
def test_fit_and_transform_do_nothing_for_other_verbs(kind, X, counts):
    standardize = True  # normal scores need quantiles in training
    fitted = make(kind, standardize=standardize).fit(X)
    fitted.transform(X)
    fitted.transform(X[:1])
    assert counts == dict.fromkeys(counts, 0) | {"copy": 1}


@pytest.mark.parametrize("kind", [FineTunedClassifier, FineTunedRegressor])
@pytest.mark.parametrize("source", DECODING)
def test_fine_tuning_does_nothing_for_other_verbs(kind, source, X, counts):
    y = (np.arange(len(X)) % 2).astype(float)
    model = kind(make(source, standardize=True), max_iter=2, random_state=0)
    model.fit(X, y).predict(X)
    model.predict(X)
    # Of the tuned network, and of the transformer for the codes that start the head
    # and, of the VAE, for what tells of a collapse.
    assert counts.pop("copy") == (3 if source is VAETransformer else 2)
    assert not any(counts.values())


@pytest.mark.parametrize("kind", DECODING)
def test_every_order_of_asking_gives_the_same_to_the_bit(kind, X):
    expected = outputs(make(kind).fit(X), X)
    for names in permutations(["scores", "rows", "conditions"]):
        found = outputs(make(kind).fit(X), X, names)
        assert_equal(found, {name: expected[name] for name in names})


@pytest.mark.parametrize("kind", DECODING)
@pytest.mark.parametrize("again", [pickle.dumps, copy.deepcopy, copy.copy])
def test_copies_give_the_same_to_the_bit(kind, again, X):
    fitted = make(kind).fit(X)
    other = again(fitted)
    if again is pickle.dumps:
        other = pickle.loads(other)
    assert_equal(outputs(other, X), outputs(fitted, X))
    assert_equal(outputs(other, X), outputs(make(kind).fit(X), X))


def spoil_rows(fitted, X):
    X[:] = 0.0


def change_parameters(fitted, X):
    fitted.set_params(
        latent_density="prior",
        standardize=False,
        n_components=1,
        random_state=7,
        trim=0.2,
    )
    if hasattr(fitted, "error_model"):
        fitted.set_params(error_model="mean_squared")


def change_parts(fitted, X):
    fitted.latent_density.set_params(bandwidth=1.0)
    if hasattr(fitted, "error_model"):
        fitted.error_model.set_params(shrinkage=1.0)


@pytest.mark.parametrize("kind", DECODING)
@pytest.mark.parametrize(
    ("change", "dtype", "order"),
    [
        *product([spoil_rows], [np.float32, np.float64], ["C", "F"]),
        (change_parameters, np.float64, "C"),
        (change_parts, np.float64, "C"),
    ],
)
def test_what_changes_after_the_fit_is_no_matter(kind, change, dtype, order, X):
    X = np.asarray(X, dtype, order=order)
    if change is change_parts:
        params = {"latent_density": KernelDensity(0.3)}
        if kind is AutoencoderTransformer:
            params["error_model"] = Covariance(0.3)
    else:
        params = {}
    expected = outputs(make(kind, **params).fit(X), X)
    given = X.copy(order="K")
    changed = make(kind, **params).fit(given)
    change(changed, given)
    assert_equal(outputs(changed, X), expected)


@pytest.mark.parametrize("kind", DECODING)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_the_mode_of_torch_is_no_matter(kind, mode, X):
    fitted = make(kind).fit(X)
    with mode():
        found = outputs(fitted, X)
    assert_equal(found, outputs(make(kind).fit(X), X))
    assert_equal(outputs(pickle.loads(pickle.dumps(fitted)), X), found)


@pytest.mark.parametrize("kind", DECODING)
def test_threads_that_ask_at_once_get_the_same_and_one_does_the_work(kind, X, counts):
    expected = outputs(make(kind).fit(X), X)
    fitted = make(kind).fit(X)
    counts.update(dict.fromkeys(counts, 0))
    gate = threading.Barrier(4)

    def ask(_):
        gate.wait()
        return outputs(fitted, X)

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(ask, range(4)):
            assert_equal(found, expected)
    assert counts["generator"] == 1
    assert counts["scorer"] == (kind is AutoencoderTransformer)


@pytest.mark.parametrize("kind", DECODING)
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_changes_what_an_estimator_shows(kind, verb, X):
    fitted = make(kind).fit(X)
    before, params = dict(vars(fitted)), fitted.get_params()
    VERBS[verb](fitted, X)
    assert vars(fitted) == before
    assert fitted.get_params() == params
    assert not hasattr(clone(fitted), "row_generator_")


@pytest.mark.parametrize("kind", [*DECODING, ContrastiveTransformer])
@pytest.mark.parametrize("asked", [True, False])
def test_no_row_is_in_a_pickle(kind, asked, X):
    rng = np.random.default_rng(1)
    secret = rng.normal(size=(200, 4))
    fitted = make(kind, standardize=True).fit(secret)
    if asked and kind in DECODING:
        outputs(fitted, secret)
    content = pickle.dumps(fitted)
    for row in secret:  # cells of a column may be quantiles, but whole rows are none
        assert row.tobytes() not in content
        assert row.astype(np.float32).tobytes() not in content
    assert len(content) < 40_000 + 4 * 3 * 8 * 202 + 8 * count_numbers(fitted)


def count_numbers(fitted):
    modules = [fitted.module_]
    modules += [getattr(fitted, name, torch.nn.Module()) for name in
                ("error_model_", "row_generator_")]  # fmt: skip
    return sum(
        value.numel()
        for module in modules
        for value in module.state_dict().values()
        if isinstance(value, torch.Tensor)
    )


@pytest.mark.parametrize("kind", DECODING)
def test_more_rows_than_are_kept(kind, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 3))
    monkeypatch.setattr(_decoding, "_MAX_KEPT_BYTES", 500 * 3 * 8)
    one, other = (make(kind, batch_size=200).fit(X) for _ in range(2))
    assert_equal(outputs(one, X, ["scores"]), outputs(other, X, ["scores"]))
    new = one.sample(4000, random_state=0)
    assert (new.min(axis=0) >= X.min(axis=0)).all()
    assert (new.max(axis=0) <= X.max(axis=0)).all()
    # The range is that of all rows, though most of these have not been kept.
    quantiles = one.row_generator_.quantiles
    assert [q.values[0] for q in quantiles] == X.min(axis=0).tolist()
    assert [q.values[-1] for q in quantiles] == X.max(axis=0).tolist()


def test_names_of_columns_and_their_dtypes_are_those_of_the_fit(X):
    frame = pd.DataFrame(X, columns=list("abcdef"))
    fitted = make(VAETransformer).fit(frame)
    frame["a"] = "text"
    assert fitted.sample(5, random_state=0).dtypes.tolist() == [np.float64] * 6


def test_what_fails_fails_when_it_is_asked_for_and_works_later(X):
    class Moody(BayesianGaussianMixture):
        works = False

        def fit(self, X, y=None):
            if not self.works:
                raise ValueError("Not today.")
            return super().fit(X, y)

    fitted = make(AutoencoderTransformer, latent_density=Moody(random_state=0)).fit(X)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Not today\."):
            fitted.sample(3)
    assert np.isfinite(fitted.score_samples(X)).all()
    Moody.works = True
    assert fitted.sample(3, random_state=0).shape == (3, 6)


def test_what_cannot_be_learned_does_not_keep_a_model_from_being_stored(X):
    fitted = make(AutoencoderTransformer, latent_density=SklearnMixture(500)).fit(X)
    restored = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(restored.transform(X), fitted.transform(X))
    assert_array_equal(restored.score_samples(X), fitted.score_samples(X))
    for model in (fitted, restored):
        with pytest.raises(ValueError, match="n_components"):
            model.sample(3)


def test_a_part_may_train_something_when_it_is_asked_for(X):
    class Trained(LatentDensity):
        def build(self, codes, seed):
            weight = torch.ones((), requires_grad=True)
            (weight * torch.as_tensor(codes)).square().sum().backward()
            assert weight.grad is not None
            return KernelDensity().build(codes, seed)

    fitted = make(AutoencoderTransformer, latent_density=Trained()).fit(X)
    with torch.no_grad():
        assert fitted.sample(3, random_state=0).shape == (3, 6)


@pytest.mark.parametrize("kind", DECODING)
def test_the_settings_of_the_first_call_do_not_stay(kind, X, request):
    expected = outputs(make(kind).fit(X), X)
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    fitted = [make(kind).fit(X) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(outputs(fitted[0], X), expected)
    torch.set_default_dtype(torch.float16)
    outputs(fitted[1], X, ["scores"])
    torch.set_default_dtype(torch.float32)
    assert_equal(outputs(fitted[1], X), expected)
    with torch.device("meta"):
        assert_equal(outputs(fitted[2], X, ["rows"]), {"rows": expected["rows"]})


@pytest.mark.parametrize("kind", DECODING)
def test_a_column_of_which_no_row_is_kept(kind, monkeypatch):
    X = np.random.default_rng(0).normal(size=(3000, 3)).astype(np.float32)
    X[:, 1] = np.nan
    X[[5, 77, 1500], 1] = 1.0, 2.0, 3.0
    monkeypatch.setattr(_decoding, "_MAX_KEPT_ROWS", 20)
    fitted = make(kind, batch_size=500).fit(X)
    assert np.isfinite(fitted.sample(5, random_state=0)).all()
    assert pickle.loads(pickle.dumps(fitted)).sample(3).shape == (3, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="There is no fork on Windows.")
def test_a_forked_child_need_not_wait_for_other_threads():
    locked, leave = threading.Event(), threading.Event()

    def wait():
        locked.set()
        leave.wait()
        return 1

    deferred = Deferred(wait)
    thread = threading.Thread(target=deferred.get)
    thread.start()
    locked.wait()
    deferred._function = lambda: 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        os._exit(0 if deferred.get() == 2 else 1)
    status = os.waitpid(pid, 0)[1]
    leave.set()
    thread.join()
    assert status == 0


def test_a_deferred_result_is_computed_once():
    calls = []
    deferred = Deferred(lambda: calls.append(1) or len(calls))
    assert [deferred.get(), deferred.get()] == [1, 1]
    assert copy.deepcopy(deferred).get() == 1
    assert pickle.loads(pickle.dumps(deferred)).get() == 1
    assert calls == [1]

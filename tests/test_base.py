import copy
import io
import json
import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.utils import check_random_state
from torch import nn

from skrepr import AutoencoderTransformer, ContrastiveTransformer, VAETransformer
from skrepr._columns._table import Table
from skrepr._estimators._deferred import Deferred
from skrepr._estimators._row_generator import RowGenerator
from skrepr._estimators._scorer import Scorer
from skrepr.augmentations import Compose, FeatureMasking, GaussianNoise
from skrepr.backbones import MLP, Backbone
from skrepr.latent_densities import GaussianMixture
from skrepr.likelihoods import Gaussian
from skrepr.objectives import NTXent
from skrepr.penalties import L1, Penalty

decoders = pytest.mark.parametrize(
    "kind", [AutoencoderTransformer, VAETransformer], ids=["ae", "vae"]
)
quick = {"n_components": 3, "max_iter": 3, "batch_size": 16, "random_state": 0}


VERBS = ["transform", "score_samples", "score", "reconstruction_error"]


def verbs(estimator):
    """List the methods that take rows."""
    return [getattr(estimator, name) for name in VERBS if hasattr(estimator, name)]


def outputs(estimator, X):
    return [np.asarray(verb(X)) for verb in verbs(estimator)]


def assert_same(these, those):
    for this, that in zip(these, those, strict=True):
        assert_array_equal(this, that)


def assert_close(these, those):
    for this, that in zip(these, those, strict=True):
        assert_allclose(this, that, rtol=1e-5, atol=1e-7)


@contextmanager
def unchanged(estimator):
    """Hold that the block leaves every attribute as it is, to the last byte."""
    before, content = vars(estimator).copy(), pickle.dumps(estimator)
    yield
    assert vars(estimator).keys() == before.keys()
    assert all(vars(estimator)[name] is before[name] for name in before)
    assert pickle.dumps(estimator) == content


@contextmanager
def refused(estimator, match, error=ValueError):
    """Hold that the block raises and changes nothing."""
    with unchanged(estimator), pytest.raises(error, match=match):
        yield


class Trip(nn.Module):
    def __init__(self, step, event):
        super().__init__()
        self.steps_left = step
        self.event = event

    def forward(self, x):
        self.steps_left -= self.training
        if self.steps_left != 0 or not self.training:
            return x
        if self.event == "nan":
            return x * torch.nan
        raise self.event


class Tripping(Backbone):
    """A linear network that, at one training step, raises or turns to NaN."""

    def __init__(self, step, event=KeyboardInterrupt):
        self.step = step
        self.event = event

    def encoder(self, n_inputs, n_outputs):
        return nn.Sequential(
            nn.Linear(n_inputs, n_outputs), Trip(self.step, self.event)
        )

    def decoder(self, n_inputs, n_outputs):
        return nn.Linear(n_inputs, n_outputs)


class Jitter(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(n))

    def forward(self, x):
        return x + self.shift + (torch.randn_like(x) if self.training else 0)


class Drawing(Backbone):
    """Draws from the global generator wherever it can, as users' networks do."""

    def encoder(self, n_inputs, n_outputs):
        return nn.Sequential(
            nn.Linear(n_inputs, 8),
            nn.Dropout(0.5),
            nn.Linear(8, n_outputs),
            Jitter(n_outputs),
        )

    def decoder(self, n_inputs, n_outputs):
        return nn.Sequential(nn.Dropout(0.1), nn.Linear(n_inputs, n_outputs))


class DrawingPenalty(Penalty):
    """The squared distance of the codes to as many draws from a normal distribution."""

    def build(self, n_components):
        return _DrawingPenalty()


class _DrawingPenalty(nn.Module):
    def forward(self, encoded):
        z = encoded.codes
        return (z - torch.randn_like(z)).square().mean()


# Parameters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_components", 0),
        ("n_components", -2),
        ("n_components", "8"),
        ("n_components", 2.5),
        ("n_components", None),
        ("backbone", "cnn"),
        ("backbone", None),
        ("backbone", MLP),
        ("backbone", NTXent()),
        ("standardize", "yes"),
        ("max_iter", 0),
        ("max_iter", "always"),
        ("max_iter", 1.5),
        ("batch_size", 1),
        ("batch_size", "auto"),
        ("learning_rate", 0.0),
        ("learning_rate", "fast"),
        ("weight_decay", -0.1),
        ("early_stopping", "auto"),
        ("validation_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("n_iter_no_change", 0),
        ("n_iter_no_change", "never"),
        ("tol", -1e-3),
        ("device", None),
        ("device", torch.device("cpu")),
        ("random_state", "seed"),
        ("random_state", -1),
        ("verbose", -1),
        ("verbose", "loud"),
    ],
)
def test_parameter_is_validated_in_fit(transformer, X, name, value):
    transformer.set_params(**{name: value})
    with refused(
        transformer, f"The '{name}' parameter of {type(transformer).__name__}"
    ):
        transformer.fit(X)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (AutoencoderTransformer, "likelihood", "cauchy"),
        (AutoencoderTransformer, "likelihood", GaussianNoise()),
        (AutoencoderTransformer, "augmentation", "cutmix"),
        (AutoencoderTransformer, "augmentation", Gaussian()),
        (AutoencoderTransformer, "penalty", "l2"),
        (AutoencoderTransformer, "penalty", 0.1),
        (VAETransformer, "likelihood", "cauchy"),
        (VAETransformer, "likelihood", None),
        (VAETransformer, "beta", -1.0),
        (VAETransformer, "kl_warmup", 1.5),
        (VAETransformer, "n_importance_samples", 0),
        (ContrastiveTransformer, "objective", "simclr"),
        (ContrastiveTransformer, "objective", MLP()),
        (ContrastiveTransformer, "augmentation", None),
    ],
)
def test_own_parameter_is_validated_in_fit(X, kind, name, value):
    estimator = kind(**{name: value})
    with refused(estimator, f"The '{name}' parameter of {kind.__name__}"):
        estimator.fit(X)


@pytest.mark.parametrize(
    ("kind", "name", "part", "message"),
    [
        (AutoencoderTransformer, "backbone", MLP((0,)), "'hidden_layer_sizes'.* MLP"),
        (AutoencoderTransformer, "backbone", MLP(8), "'hidden_layer_sizes'.* MLP"),
        (AutoencoderTransformer, "backbone", MLP(activation="x"), "'activation'.* MLP"),
        (VAETransformer, "backbone", MLP(norm="group"), "'norm'.* MLP"),
        (VAETransformer, "backbone", MLP(dropout=1.0), "'dropout'.* MLP"),
        (VAETransformer, "likelihood", Gaussian(0.0), "'scale'.* Gaussian"),
        (AutoencoderTransformer, "penalty", L1(-1.0), "'weight'.* L1"),
        (
            AutoencoderTransformer,
            "augmentation",
            GaussianNoise(-1.0),
            "'scale'.* Gauss",
        ),
        (ContrastiveTransformer, "augmentation", FeatureMasking(2.0), "'rate'.* Feat"),
        (
            ContrastiveTransformer,
            "augmentation",
            Compose("gaussian_noise", "cutmix"),
            "'second'.* Compose .*'feature_corruption'",
        ),
        (ContrastiveTransformer, "objective", NTXent(0.0), "'temperature'.* NTXent"),
    ],
)
def test_parameter_of_a_part_is_validated_in_fit(X, kind, name, part, message):
    estimator = kind(**{name: part})
    with refused(estimator, message):
        estimator.fit(X)


@pytest.mark.parametrize(
    ("kind", "name", "known"),
    [
        (AutoencoderTransformer, "backbone", {"mlp"}),
        (VAETransformer, "likelihood", {"gaussian", "bernoulli"}),
        (AutoencoderTransformer, "penalty", {"l1"}),
        (ContrastiveTransformer, "objective", {"nt_xent"}),
        (
            ContrastiveTransformer,
            "augmentation",
            {"feature_corruption", "feature_masking", "gaussian_noise", "mixup"},
        ),
    ],
)
def test_unknown_part_name_lists_the_known_ones(X, kind, name, known):
    estimator = kind(**{name: "unheard_of"})
    with pytest.raises(ValueError, match="'unheard_of'") as error:
        estimator.fit(X)
    assert all(repr(word) in str(error.value) for word in known)
    with refused(estimator, "'unheard_of'") as error:
        estimator.set_params(**{f"{name}__size": 3})


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "no such device.*device='auto'"),
        ("cuda:7", "no such device.*device='auto'"),
        ("mps", "no such device.*device='auto'"),
        ("meta", "no such device.*device='auto'"),
        ("nonsense", "'nonsense' is not the name of a device.*'cpu'"),
    ],
)
def test_device_that_is_not_there_is_refused(
    transformer, X, device, message, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    transformer.set_params(device=device)
    with refused(transformer, message):
        transformer.fit(X)


# Bad rows


def with_cell(X, value):
    X = X.copy()
    X[3, 1] = value
    return X


BAD_ROWS = {
    "infinity": (lambda X: with_cell(X, np.inf), "contains infinity"),
    "strings": (lambda X: np.full(X.shape, "a"), "convert string to float: .*'a'"),
    "complex": (lambda X: X + 1j, "Complex data not supported"),
    "1-d": (lambda X: X[:, 0], "Expected 2D array, got 1D"),
    "3-d": (lambda X: X[None], "dim 3"),
    "no rows": (lambda X: X[:0], "0 sample"),
    "no columns": (lambda X: X[:, :0], "0 feature"),
}
BAD_TRAINING_ROWS = {
    **BAD_ROWS,
    "one row": (lambda X: X[:1], "minimum of 2 is required"),
    "a column missing": (
        lambda X: np.where(np.arange(5) == 2, np.nan, X),
        "Column 2 holds no value",
    ),
    "too large": (
        lambda X: with_cell(X, 1e200),
        "Column 1 .*too large to compute with",
    ),
}
BAD_NEW_ROWS = {
    **BAD_ROWS,
    "too few columns": (lambda X: X[:, :-1], "4 features, .* expecting 5"),
    "too many columns": (lambda X: np.c_[X, X], "10 features, .* expecting 5"),
}


@pytest.mark.parametrize(
    ("bad", "message"), BAD_TRAINING_ROWS.values(), ids=BAD_TRAINING_ROWS
)
def test_fit_refuses_bad_rows_and_changes_nothing(transformer, fitted, X, bad, message):
    for estimator in transformer, fitted:
        with refused(estimator, message):
            estimator.fit(bad(X))


@pytest.mark.parametrize(("bad", "message"), BAD_NEW_ROWS.values(), ids=BAD_NEW_ROWS)
def test_fitted_estimator_refuses_bad_rows_and_stays_as_it_is(fitted, X, bad, message):
    for verb in verbs(fitted):
        with refused(fitted, message):
            verb(bad(X))


def test_sparse_rows_are_refused(transformer, fitted, X):
    with refused(transformer, "Sparse data was passed", TypeError):
        transformer.fit(sparse.csr_array(X))
    for verb in verbs(fitted):
        with refused(fitted, "Sparse data was passed", TypeError):
            verb(sparse.csr_matrix(X))


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_other_column_names_are_refused(transformer, X, library):
    frame = library.DataFrame(dict(zip("abcde", X.T, strict=True)))
    transformer.fit(frame)
    for verb in verbs(transformer):
        with refused(transformer, "unseen at fit time:\n- z"):
            verb(library.DataFrame(dict(zip("abcdz", X.T, strict=True))))
        with refused(transformer, "same order"):
            verb(frame[list("bacde")])


@decoders
def test_bernoulli_refuses_values_outside_the_unit_interval(kind, X):
    X = (X - X.min(axis=0)) / np.ptp(X, axis=0).max()
    names = list("abcde")
    estimator = kind(likelihood="bernoulli", **quick)
    for value in (-0.01, 1.01):
        bad = pd.DataFrame(with_cell(X, value), columns=names)
        with refused(estimator, r"\[0, 1\], but column 'b' .*MinMaxScaler"):
            estimator.fit(bad)
    estimator.fit(pd.DataFrame(X, columns=names))
    for verb in verbs(estimator):
        with refused(estimator, r"\[0, 1\], but column 'b' .*MinMaxScaler"):
            verb(bad)


@decoders
def test_inverse_transform_refuses_what_are_no_codes(kind, X):
    estimator = kind(**quick).fit(X)
    for codes, message in [
        (np.zeros((2, 5)), "5 columns.*n_components=3"),
        (np.full((2, 3), np.nan), "contains NaN"),
        (np.zeros(3), "Expected 2D array"),
    ]:
        with refused(estimator, message):
            estimator.inverse_transform(codes)


def test_sample_refuses_a_senseless_number_of_rows(X):
    vae = VAETransformer(**quick).fit(X)
    for n_samples in (0, -1, 2.0, "3", None, True):
        with refused(vae, "n_samples must be a positive integer"):
            vae.sample(n_samples)


def test_early_stopping_refuses_too_few_rows(transformer, X):
    transformer.set_params(early_stopping=True)
    with refused(transformer, "at least 2 rows to train and 2 .*n_samples=3"):
        transformer.fit(X[:3])
    transformer.fit(X[:4])
    transformer.set_params(validation_fraction=0.99)
    with refused(transformer, "validation_fraction=0.99"):
        transformer.fit(X)


# Training that breaks off


@pytest.mark.parametrize("early_stopping", [False, True])
def test_divergence_says_what_to_try_and_changes_nothing(
    transformer, fitted, X, early_stopping
):
    for estimator in transformer, fitted:
        estimator.set_params(learning_rate=1e30, early_stopping=early_stopping)
        with refused(estimator, r"no longer finite.*Lower learning_rate .*1e\+30"):
            estimator.fit(X)


@pytest.mark.parametrize("event", [KeyboardInterrupt, RuntimeError])
def test_interrupted_fit_changes_nothing(transformer, fitted, X, event):
    for estimator in transformer, fitted:
        estimator.set_params(backbone=Tripping(step=6, event=event))
        with refused(estimator, None, event):
            estimator.fit(X)


def test_interrupt_before_the_first_validation_changes_nothing(transformer, X):
    transformer.set_params(backbone=Tripping(step=2), early_stopping=True)
    with refused(transformer, None, KeyboardInterrupt):
        transformer.fit(X)


@pytest.mark.parametrize(
    ("event", "error"),
    [(KeyboardInterrupt, KeyboardInterrupt), ("nan", ValueError)],
    ids=["interrupt", "nan"],
)
def test_early_stopping_keeps_the_best_state_of_a_fit_that_breaks_off(
    transformer, X, event, error
):
    kept = []
    for step in (9, 12):  # the first and the last of the third epoch's four
        estimator = clone(transformer)
        estimator.set_params(backbone=Tripping(step, event), early_stopping=True)
        with pytest.raises(error) as raised:
            estimator.fit(X)
        losses = estimator.history_["validation_loss"]
        assert len(losses) == 2
        message = f"keeps the weights of epoch {np.argmin(losses) + 1}, "
        assert message in str(raised.value)
        kept.append(outputs(estimator, X))
    assert_same(*kept)


def test_early_stopping_ends_with_the_weights_of_the_best_epoch(transformer, X):
    transformer.set_params(max_iter=50, early_stopping=True, n_iter_no_change=3)
    transformer.set_params(learning_rate=0.1, backbone=Tripping(step=10_000)).fit(X)
    best = int(np.argmin(transformer.history_["validation_loss"]))
    assert best + 1 < transformer.n_iter_ < 50
    interrupted = clone(transformer).set_params(backbone__step=4 * (best + 1) + 1)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(X)
    assert_same(outputs(transformer, X), outputs(interrupted, X))


# What simply works


WORKS = {
    "one column": lambda X: X[:, :1],
    "one constant column": lambda X: np.ones((20, 1)),
    "a constant column": lambda X: np.c_[X, np.full(len(X), 7.1)],
    "only constant columns": lambda X: np.full(X.shape, 1e9),
    "two rows": lambda X: X[:2],
    "two equal rows": lambda X: X[[0, 0]],
    "three rows": lambda X: X[:3],
    "more columns than rows": lambda X: X[:10].T,
    "float16": lambda X: (X / 1e3).astype(np.float16),
    "float32": lambda X: X.astype(np.float32),
    "integers": lambda X: X.astype(np.int32),
    "bytes": lambda X: (X % 256).astype(np.uint8),
    "booleans": lambda X: X.mean(axis=0) < X,
    "objects": lambda X: X.astype(object),
    "large values": lambda X: 1e100 * X,
    "small values": lambda X: 1e-100 * X,
}


@pytest.mark.parametrize(("n_components", "early_stopping"), [(1, True), (20, False)])
@pytest.mark.parametrize("rows", WORKS.values(), ids=WORKS)
def test_it_simply_works(transformer, X, rows, n_components, early_stopping):
    X = rows(X)
    if early_stopping and len(X) < 4:
        X = np.concatenate([X, X])
    transformer.set_params(
        n_components=n_components, early_stopping=early_stopping, batch_size=50
    )
    Z = transformer.fit(X).transform(X)
    assert Z.shape == (len(X), n_components)
    assert Z.dtype == (np.float32 if X.dtype == np.float32 else np.float64)
    assert all(np.isfinite(output).all() for output in outputs(transformer, X))
    if hasattr(transformer, "inverse_transform"):
        back = transformer.inverse_transform(Z)
        assert back.shape == X.shape
        constant = np.ptp(X.astype(float), axis=0) == 0
        assert_array_equal(back[:, constant], X[:, constant])


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


ALIKE = {
    "read-only": read_only,
    "Fortran order": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "lists": np.ndarray.tolist,
    "int64": lambda X: X.astype(np.int64),
    "pandas": pd.DataFrame,
    "pandas of ints and floats": lambda X: pd.DataFrame(X).astype({0: int, 3: int}),
    "pandas with missing allowed": lambda X: pd.DataFrame(X).convert_dtypes(),
    "polars": lambda X: pl.DataFrame(X, schema=list("abcde")),
    "polars of ints and floats": lambda X: pl.DataFrame(
        X, schema=list("abcde")
    ).with_columns(pl.col("b").cast(pl.Int64)),
}


def test_the_container_makes_no_difference_but_rounding(transformer, X):
    X = X.round()
    expected = outputs(clone(transformer).fit(X), X)
    for convert in ALIKE.values():
        converted = convert(X)
        assert_close(outputs(transformer.fit(converted), converted), expected)


def test_values_too_large_for_float32_are_refused_unless_standardised(transformer, X):
    transformer.fit(1e100 * X)
    transformer.set_params(standardize=False)
    for unit in 1e100, 1e20:
        with refused(transformer, "too large to compute with.*standardize=True"):
            transformer.fit(unit * X)
    constant = np.where(np.arange(5) == 3, 1e100, X / 100)
    transformer.fit(constant)
    assert all(np.isfinite(output).all() for output in outputs(transformer, constant))


@pytest.mark.parametrize("standardize", [True, False])
def test_a_row_far_off_has_the_lowest_score_and_all_is_finite(
    transformer, X, standardize
):
    X = X / X.std(axis=0)
    transformer.set_params(standardize=standardize).fit(X)
    for value, dtype in [
        (1e20, np.float64),
        (1e100, np.float64),
        (1e200, np.float64),
        (1.7e308, np.float64),
        (1e10, np.float32),
        (1e20, np.float32),
        (3e38, np.float32),
    ]:
        for far_off in (value, -value):
            far = with_cell(X, far_off).astype(dtype)
            found = outputs(transformer, far)
            assert all(np.isfinite(output).all() for output in found)
            if hasattr(transformer, "score_samples"):
                assert np.argmin(transformer.score_samples(far)) == 3
                everywhere = np.full((1, 5), far_off, dtype)
                assert np.isfinite(transformer.score_samples(everywhere)).all()


def test_rows_are_left_as_they_are(transformer, X):
    before = X.copy()
    outputs(transformer.fit(X), X)
    assert_array_equal(X, before)


# Random numbers


def global_generators():
    """Return a hash of the states of the generators of NumPy, Python and torch."""
    numpy_state = check_random_state(None).get_state()
    return joblib.hash((numpy_state, random.getstate(), torch.get_rng_state().tolist()))


def seed_global_generators(seed):
    check_random_state(None).seed(seed)
    random.seed(seed)
    torch.manual_seed(seed)


def draw_globally():
    return (
        check_random_state(None).random_sample(),
        random.random(),
        torch.rand(()).item(),
    )


BACKBONES = [MLP((8,)), MLP((8,), dropout=0.5), Drawing()]
backbones = pytest.mark.parametrize(
    "backbone", BACKBONES, ids=["mlp", "dropout", "own"]
)


@backbones
@pytest.mark.parametrize("early_stopping", [False, True])
def test_random_state_fixes_everything_and_touches_nothing(
    transformer, X, backbone, early_stopping
):
    transformer.set_params(backbone=backbone, early_stopping=early_stopping)
    results = []
    for seed in (1, 2):
        seed_global_generators(seed)
        before = global_generators()
        estimator = clone(transformer).fit(X)
        results.append([*outputs(estimator, X), *estimator.history_.values()])
        if hasattr(estimator, "sample"):
            results[-1].append(estimator.sample(5, random_state=0))
        assert global_generators() == before
    assert_same(*results)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_random_state_fixes_a_penalty_that_draws(X, early_stopping):
    ae = AutoencoderTransformer(
        penalty=DrawingPenalty(), early_stopping=early_stopping, **quick
    )
    results = []
    for seed in (1, 2):
        seed_global_generators(seed)
        before = global_generators()
        results.append([ae.fit_transform(X), *ae.history_.values()])
        assert global_generators() == before
    assert_same(*results)


def test_another_random_state_gives_another_fit(transformer, X):
    Z = transformer.fit_transform(X)
    assert not np.allclose(transformer.set_params(random_state=1).fit_transform(X), Z)


def test_random_state_none_draws_from_numpys_global_generator(transformer, X):
    transformer.set_params(random_state=None)
    seed_global_generators(0)
    first, second = transformer.fit_transform(X), transformer.fit_transform(X)
    assert not np.allclose(first, second)
    seed_global_generators(0)
    assert_array_equal(transformer.fit_transform(X), first)


def test_random_state_instance_is_drawn_from(transformer, X):
    generator = np.random.RandomState(0)
    transformer.set_params(random_state=generator)
    first, second = transformer.fit_transform(X), transformer.fit_transform(X)
    assert not np.allclose(first, second)
    transformer.set_params(random_state=np.random.RandomState(0))
    assert_array_equal(transformer.fit_transform(X), first)


@backbones
def test_another_thread_draws_its_numbers_undisturbed(transformer, X, backbone):
    transformer.set_params(backbone=backbone, max_iter=8)
    expected = transformer.fit_transform(X)
    drawn, done = [], threading.Event()

    def draw():
        while not done.wait(1e-4):
            drawn.append(draw_globally())

    seed_global_generators(0)
    thread = threading.Thread(target=draw)
    thread.start()
    try:
        Z = transformer.fit_transform(X)
    finally:
        done.set()
        thread.join()
    assert_array_equal(Z, expected)
    assert len(drawn) > 10
    seed_global_generators(0)
    assert drawn == [draw_globally() for _ in drawn]


def test_fits_side_by_side_equal_fits_one_by_one(transformer, X):
    def fit(seed):
        estimator = clone(transformer).set_params(
            backbone=BACKBONES[seed % 3], random_state=seed
        )
        return outputs(estimator.fit(X), X)

    with ThreadPoolExecutor(4) as pool:
        side_by_side = list(pool.map(fit, range(6)))
    for seed, result in enumerate(side_by_side):
        assert_same(result, fit(seed))


# Whatever the settings of torch


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS = {
    "default float64": lambda: default_dtype(torch.float64),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "meta device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize(("norm", "early_stopping"), [(None, True), ("batch", False)])
def test_a_fit_does_not_see_the_settings_of_torch(transformer, X, early_stopping, norm):
    backbone = MLP((8,), norm=norm, dropout=0.2)
    transformer.set_params(backbone=backbone, early_stopping=early_stopping)
    expected = clone(transformer).fit(X)
    for name, setting in SETTINGS.items():
        with setting():
            fitted = clone(transformer).fit(X)
            if name == "default float64":  # it draws other initial weights
                expected_here = clone(transformer).fit(X)
            else:
                expected_here = expected
        assert_close(outputs(fitted, X), outputs(expected_here, X))
        assert fitted.history_.keys() == expected.history_.keys()
        losses = fitted.history_["loss"], expected_here.history_["loss"]
        assert_allclose(*losses, rtol=1e-5, err_msg=name)
        known = outputs(fitted, X)
        for tensor in fitted.module_.state_dict().values():
            assert tensor.device.type == "cpu"
            assert not tensor.is_floating_point() or tensor.dtype == torch.float32
        with setting():
            assert_close(outputs(fitted, X), known)
        pickle.loads(pickle.dumps(fitted))


def test_a_fit_to_categories_and_holes_does_not_see_the_default_device(
    transformer, mixed
):
    expected = outputs(clone(transformer).fit(mixed), mixed)
    with torch.device("meta"):
        fitted = transformer.fit(mixed)
        assert_same(outputs(fitted, mixed), expected)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("setting", list(SETTINGS)[:3])
def test_samples_do_not_see_the_settings_of_torch(X, likelihood, setting):
    X = (X - X.min(axis=0)) / np.ptp(X, axis=0)
    vae = VAETransformer(likelihood=likelihood, **quick)
    expected = vae.fit(X).sample(20, random_state=0)
    with SETTINGS[setting]():
        sample = vae.sample(20, random_state=0)
    assert sample.dtype == np.float64
    assert_close([sample], [expected])


# Inference


@pytest.mark.parametrize("width", [32, 512])
def test_output_for_a_row_does_not_depend_on_the_rows_beside_it(transformer, X, width):
    transformer.set_params(backbone=MLP((width, 64))).fit(X)
    many = np.random.default_rng(1).choice(X, 5000) * 1.01
    for verb in verbs(transformer):
        if verb.__name__ == "score":
            continue
        among_many = verb(many)
        for i in (0, 1234, 4999):
            assert_allclose(verb(many[[i]])[0], among_many[i], rtol=1e-7, atol=1e-9)
        assert_allclose(verb(many[::-7]), among_many[::-7], rtol=1e-7, atol=1e-9)


def test_use_leaves_the_fitted_estimator_as_it_is(transformer, X):
    transformer.set_params(backbone=MLP((8,), norm="batch", dropout=0.5)).fit(X)
    with unchanged(transformer):
        first = outputs(transformer, X)
        outputs(transformer, X.astype(np.float32))
        if hasattr(transformer, "sample"):
            transformer.inverse_transform(transformer.sample(5)[:, :3])
        assert_same(outputs(transformer, X), first)


def test_float32_rows_give_float32_codes_close_to_those_of_float64(fitted, X):
    Z = fitted.transform(X.astype(np.float32))
    assert Z.dtype == np.float32
    assert_allclose(Z, fitted.transform(X), rtol=1e-3, atol=1e-4)


def test_a_model_from_a_gpu_works_where_there_is_none(transformer, X, monkeypatch):
    expected = outputs(transformer.set_params(device="cpu").fit(X), X)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    transformer.device_ = "cuda:1"
    assert_same(outputs(transformer, X), expected)


# Containers


@decoders
def test_decoded_rows_are_arrays_for_an_array(kind, X):
    estimator = kind(**quick).fit(X)
    assert type(estimator.inverse_transform(estimator.transform(X))) is np.ndarray
    if kind is VAETransformer:
        assert type(estimator.sample(4, random_state=0)) is np.ndarray


@decoders
def test_decoded_rows_are_pandas_for_pandas_and_keep_the_index(kind, X):
    expected = kind(**quick).fit(X)
    frame = pd.DataFrame(X, columns=list("abcde"), index=np.arange(60) * 3 + 1)
    estimator = kind(**quick).set_output(transform="pandas").fit(frame)
    Z = estimator.transform(frame)
    assert_array_equal(Z.index, frame.index)
    assert list(Z.columns) == [f"{kind.__name__.lower()}{i}" for i in range(3)]
    back = estimator.inverse_transform(Z)
    assert_array_equal(back.index, frame.index)
    assert list(back.columns) == list("abcde")
    assert_allclose(back, expected.inverse_transform(Z.to_numpy()), rtol=1e-6)
    assert list(estimator.inverse_transform(Z.to_numpy()).columns) == list("abcde")
    if kind is VAETransformer:
        new = estimator.sample(4, random_state=0)
        assert list(new.columns) == list("abcde")
        assert_allclose(new, expected.sample(4, random_state=0), rtol=1e-6)


@decoders
def test_read_only_codes_are_decoded_without_a_warning(kind, X, request):
    request.addfinalizer(lambda: torch.set_warn_always(False))
    torch.set_warn_always(True)
    estimator = kind(**quick).fit(X)
    Z = estimator.transform(X)
    expected = estimator.inverse_transform(Z)
    Z.flags.writeable = False
    assert_array_equal(estimator.inverse_transform(Z), expected)


@decoders
def test_decoded_rows_are_polars_for_polars(kind, X):
    expected = kind(**quick).fit(X)
    frame = pl.DataFrame(X, schema=list("abcde"))
    estimator = kind(**quick).set_output(transform="polars").fit(frame)
    Z = estimator.transform(frame)
    assert isinstance(Z, pl.DataFrame)
    back = estimator.inverse_transform(Z)
    assert isinstance(back, pl.DataFrame)
    assert back.columns == list("abcde")
    assert_allclose(back, expected.inverse_transform(Z.to_numpy()), rtol=1e-6)
    if kind is VAETransformer:
        new = estimator.sample(4, random_state=0)
        assert new.columns == list("abcde")
        assert_allclose(new, expected.sample(4, random_state=0), rtol=1e-6)


# Fitted state


def reload_with_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    return joblib.load(file)


@pytest.mark.parametrize(
    "reload", [lambda e: pickle.loads(pickle.dumps(e)), reload_with_joblib]
)
@pytest.mark.parametrize("norm", [None, "batch"])
def test_a_reloaded_estimator_is_the_same(transformer, X, reload, norm):
    transformer.set_params(backbone=MLP((8,), norm=norm)).fit(pd.DataFrame(X))
    again = reload(transformer)
    assert repr(again) == repr(transformer)
    assert_same(outputs(again, X), outputs(transformer, X))


def test_fitted_estimators_hold_no_rows_no_optimiser_and_rest_on_the_cpu(
    transformer, X
):
    if hasattr(transformer, "latent_density"):
        transformer.set_params(latent_density=GaussianMixture(max_components=1))
    X = np.random.default_rng(0).normal(size=(4000, 5))
    transformer.set_params(backbone=MLP((8,)))
    few = clone(transformer).set_params(batch_size=250).fit(X[:1000])
    many = clone(transformer).set_params(batch_size=1000).fit(X)
    assert len(few.history_["loss"]) == len(many.history_["loss"])
    content, of_many = pickle.dumps(few), pickle.dumps(many)
    assert abs(len(content) - len(of_many)) < 2000  # more knots of normal scores
    assert b"torch.optim" not in content
    n_parameters = sum(p.numel() for p in few.module_.parameters())
    n_quantiles = 0
    if hasattr(few, "row_generator_"):  # of the columns, and of generated ones
        n_quantiles = 5 * (3 * 8 * 1001 + 4 * 1000)
    assert len(content) < 4 * n_parameters + n_quantiles + 30_000
    for tensor in few.module_.state_dict().values():
        assert tensor.device.type == "cpu"
        assert not tensor.is_floating_point() or tensor.dtype == torch.float32
    assert not any(
        p.requires_grad or p.grad is not None for p in few.module_.parameters()
    )
    assert not few.module_.training


@pytest.mark.filterwarnings("ignore:The embedding has collapsed")  # columns off centre
@pytest.mark.parametrize("standardize", [False, True])
def test_parameters_table_and_weights_rebuild_the_estimator(
    transformer, X, standardize
):
    frame = pd.DataFrame(X / X.std(axis=0), columns=list("abcde")).assign(f=7.0)
    transformer.set_params(
        backbone=MLP((8,), norm="batch"), standardize=standardize
    ).fit(frame)
    state = json.loads(json.dumps(transformer.table_.get_state()))
    weights = io.BytesIO()
    torch.save(transformer.module_.state_dict(), weights)

    again = type(transformer)(**transformer.get_params(deep=False))
    again.table_ = Table.from_state(state)
    again.module_ = again._build_module(again.table_.columns).eval()
    again.module_.load_state_dict(torch.load(io.BytesIO(weights.getvalue())))
    if hasattr(transformer, "error_model_"):
        error_model = again._part("error_model").build(again.table_.columns)
        for name, tensor in transformer.error_model_.state_dict().items():
            setattr(error_model, name, tensor)
        scorer = Scorer(again.module_, error_model, again.table_, "cpu")
        again._scorer = Deferred.of(scorer)
    if hasattr(transformer, "row_generator_"):
        density = again._part("latent_density").build(np.eye(3), 0)
        generator = RowGenerator(density, [])
        again._row_generator = Deferred.of(generator)
        state_dict = transformer.row_generator_.state_dict()
        extra = json.loads(json.dumps(state_dict.pop("_extra_state")))
        generator.set_extra_state(extra)
        for name, tensor in state_dict.items():
            owner, _, name = name.rpartition(".")
            setattr(generator.get_submodule(owner), name, tensor)
    again.device_ = "cpu"
    again.n_features_in_ = len(again.table_.columns)
    again.feature_names_in_ = np.asarray(state["schema"]["names"], dtype=object)
    assert_same(outputs(again, frame), outputs(transformer, frame))
    if hasattr(transformer, "inverse_transform"):
        Z = transformer.transform(frame)
        pd.testing.assert_frame_equal(
            again.inverse_transform(Z), transformer.inverse_transform(Z)
        )
    if hasattr(transformer, "sample"):
        pd.testing.assert_frame_equal(
            again.sample(9, random_state=0), transformer.sample(9, random_state=0)
        )


def test_max_iter_auto_takes_a_number_of_steps(transformer, X, asked_epochs):
    transformer.set_params(max_iter="auto", batch_size=6).fit(X)
    assert asked_epochs.pop() == (
        300 if isinstance(transformer, VAETransformer) else 100
    )
    X[::3, 1] = np.nan
    transformer.fit(X)  # an autoencoder takes longer to learn to fill holes
    assert (
        asked_epochs.pop()
        == {
            AutoencoderTransformer: 150,
            VAETransformer: 300,
            ContrastiveTransformer: 100,
        }[type(transformer)]
    )


def test_history_holds_the_terms_of_the_loss_of_every_epoch(transformer, X):
    history = transformer.set_params(early_stopping=True).fit(X).history_
    terms = {
        AutoencoderTransformer: {"reconstruction"},
        VAETransformer: {"reconstruction", "kl"},
        ContrastiveTransformer: {"nt_xent"},
    }[type(transformer)]
    names = {"loss", *terms}
    validated = names | {
        ContrastiveTransformer: {
            "alignment",
            "uniformity",
            "effective_rank",
            "normalized_std",
        }
    }.get(type(transformer), set())
    assert history.keys() == names | {f"validation_{name}" for name in validated}
    assert {len(values) for values in history.values()} == {transformer.n_iter_}
    for prefix in ("", "validation_"):
        total = np.sum([history[prefix + term] for term in terms], axis=0)
        assert_allclose(history[prefix + "loss"], total, rtol=1e-6)


def test_verbose_is_silence_a_bar_or_a_line_per_epoch(transformer, X, capfd):
    transformer.fit(X)
    assert capfd.readouterr() == ("", "")
    transformer.set_params(verbose=1).fit(X)
    out, err = capfd.readouterr()
    assert out == ""
    assert "loss=" in err
    transformer.set_params(verbose=2).fit(X)
    out, err = capfd.readouterr()
    assert err == ""
    assert len(out.splitlines()) == 3


@pytest.mark.parametrize(
    "column",
    [
        pd.array(["x", "y", "z"], dtype="string"),
        pd.Categorical([1, 2, 1]),
        pd.date_range("2024", periods=3),
    ],
    ids=["strings", "categories", "dates"],
)
def test_a_column_that_holds_no_numbers_is_named(transformer, column):
    transformer.set_params(categorical_features=None)
    frame = pd.DataFrame({"size": [1.0, 2.0, 3.0], "kind": pd.Series(column)})
    message = rf"Column 'kind' has dtype .*, but {type(transformer).__name__} needs num"
    with pytest.raises(ValueError, match=message):
        transformer.fit(frame)
    assert not hasattr(transformer, "n_features_in_")
    with pytest.raises(ValueError, match=message):
        transformer.fit(frame.assign(kind=[1.0, 2.0, 3.0])).transform(frame)
    polars = pl.DataFrame({"size": [1.0, 2.0], "kind": ["x", "y"]})
    with pytest.raises(ValueError, match=r"Column 'kind' has dtype String"):
        clone(transformer).fit(polars)


def test_flags_and_nullable_integers_are_numbers(transformer):
    frame = pd.DataFrame(
        {"flag": [True, False, True], "count": pd.array([1, 2, 4], dtype="Int64")}
    )
    assert transformer.fit(frame).transform(frame).shape[0] == 3
    assert clone(transformer).fit(pl.from_pandas(frame)).n_features_in_ == 2


# What is missing, and categories


mixed_decoders = pytest.mark.parametrize(
    "kind", [AutoencoderTransformer, VAETransformer], ids=["ae", "vae"]
)


def test_frames_with_holes_and_categories_need_no_preparation(transformer, mixed):
    transformer.fit(mixed)
    assert transformer.table_.columns.n_levels.tolist() == [0, 0, 0, 3, 5, 2]
    Z = transformer.transform(mixed)
    assert Z.shape == (90, 3)
    for output in outputs(transformer, mixed):
        assert np.isfinite(output[~np.isnan(output)]).all()
    assert np.isfinite(Z).all()
    polars = pl.from_pandas(mixed.assign(grade=mixed["grade"].astype("Int64")))
    levels = pl.Enum(["1", "2", "3", "4", "5"])
    polars = polars.with_columns(pl.col("grade").cast(pl.String).cast(levels))
    assert_array_equal(clone(transformer).fit(polars).transform(polars), Z)


def test_arrays_may_have_holes(transformer, fitted, X):
    rng = np.random.default_rng(0)
    holed = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    for trim in (0.0, 0.2) if hasattr(transformer, "trim") else (0.0,):
        if trim:
            transformer.set_params(trim=trim)
        transformer.fit(holed)
        assert np.isfinite(transformer.transform(holed)).all()
        assert np.isfinite(transformer.transform(np.full((1, 5), np.nan))).all()
        as_objects = np.where(np.isnan(holed), None, holed)
        assert_same(outputs(transformer, as_objects), outputs(transformer, holed))
    # Holes in rows unlike any in training.
    for output in outputs(fitted, holed)[:2]:
        assert np.isfinite(output).all()


def test_pandas_missing_values_are_nan(transformer, X):
    rng = np.random.default_rng(0)
    holes = rng.random(X.shape) < 0.2
    frame = pd.DataFrame(X, columns=list("abcde"))
    expected = transformer.fit(frame.mask(holes)).transform(frame.mask(holes))
    for dtype in ("Float64", "float64[pyarrow]", object):
        other = frame.astype(dtype).mask(holes, pd.NA)
        assert_close([clone(transformer).fit(other).transform(other)], [expected])
    other = pl.from_pandas(frame.astype("Float64").mask(holes, pd.NA))
    assert_close([clone(transformer).fit(other).transform(other)], [expected])


@mixed_decoders
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_decoded_rows_have_the_users_dtypes_and_categories(kind, mixed, library):
    if library == "polars":
        grade = pl.Enum(["1", "2", "3", "4", "5"])
        mixed = pl.from_pandas(mixed.assign(grade=mixed["grade"].astype("Int64")))
        mixed = mixed.with_columns(pl.col("grade").cast(pl.String).cast(grade))
    estimator = kind(3, max_iter=30, random_state=0).fit(mixed)
    tables = [estimator.inverse_transform(estimator.transform(mixed))]
    if hasattr(estimator, "sample"):
        tables.append(estimator.sample(50, random_state=0))
    for table in tables:
        assert list(table.columns) == list(mixed.columns)
        assert list(table.dtypes) == list(mixed.dtypes)
        assert set(table["kind"]) <= {"small", "medium", "large"}
        assert set(table["grade"]) <= {1, 2, 3, 4, "1", "2", "3", "4"}  # never 5
        if library == "pandas":
            assert not table.isna().any(axis=None)
        else:
            assert sum(table.null_count().row(0)) == 0


@mixed_decoders
def test_only_missing_cells_are_imputed_and_well(kind, mixed):
    brief = {"backbone": MLP((32,)), "max_iter": 300, "learning_rate": 5e-3}
    estimator = kind(3, random_state=0, **brief).fit(mixed)
    filled = estimator.impute(mixed)
    assert not filled.isna().any(axis=None)
    assert_array_equal(filled.dtypes, mixed.dtypes)
    assert_array_equal(filled.index, mixed.index)
    observed = mixed.notna()
    pd.testing.assert_frame_equal(filled.where(observed), mixed)
    z = (mixed["count"] - 50) / 5  # what all columns are made of
    for name, slope, center in [("size", 3, 10), ("weight", 2, 0)]:
        holes = ~observed[name]
        error = filled[name][holes] - (slope * z + center)[holes]
        assert error.std() < 0.5 * slope
    kinds = np.where(z > 0.5, "large", np.where(z < -0.5, "small", "medium"))
    holes = ~observed["kind"].to_numpy()
    assert np.mean(filled["kind"].to_numpy()[holes] == kinds[holes]) > 0.7


@mixed_decoders
def test_an_array_is_imputed_exactly_where_it_is_nan(kind, X):
    holed = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
    brief = {"backbone": MLP((32,)), "max_iter": 300, "learning_rate": 5e-3}
    for training in (holed, X):
        estimator = kind(3, random_state=0, **brief).fit(training)
        filled = estimator.impute(holed)
        holes = np.isnan(holed)
        assert_array_equal(filled[~holes], holed[~holes])
        errors = (filled - X)[holes] / np.broadcast_to(X.std(axis=0), X.shape)[holes]
        assert np.mean(errors**2) < 0.5
    assert_array_equal(estimator.impute(X), X)
    few = estimator.impute(holed.astype(np.float32))
    assert few.dtype == np.float32
    assert_array_equal(few[~holes], holed.astype(np.float32)[~holes])


@mixed_decoders
def test_reconstruction_errors_are_nan_where_cells_are_missing(kind, mixed):
    estimator = kind(**quick).fit(mixed)
    errors = estimator.reconstruction_error(mixed)
    assert errors.dtype == np.float64
    assert_array_equal(np.isnan(errors), mixed.isna())
    assert (errors[~np.isnan(errors)] >= 0).all()


@mixed_decoders
def test_a_category_never_seen_in_a_constant_column_is_far(kind, mixed):
    same = pd.Categorical(["a"] * 90, ["a", "b"])
    estimator = kind(**quick).fit(mixed.assign(same=same))
    other = mixed.assign(same=pd.Categorical(["b"] * 90, ["a", "b"]))
    assert (estimator.reconstruction_error(mixed.assign(same=same))[:, -1] == 0).all()
    assert (estimator.reconstruction_error(other)[:, -1] == 36).all()
    assert set(estimator.inverse_transform(estimator.transform(other))["same"]) == {"a"}


def test_an_unknown_category_counts_as_missing(transformer, mixed):
    transformer.fit(mixed)
    unknown = mixed.assign(kind="colossal")
    missing = mixed.assign(kind=pd.Series([None] * 90, index=mixed.index, dtype=object))
    assert_same(outputs(transformer, unknown), outputs(transformer, missing))
    if hasattr(transformer, "impute"):
        assert set(transformer.impute(unknown)["kind"]) == {"colossal"}
        kinds = transformer.impute(missing)["kind"]
        assert set(kinds) <= {"small", "medium", "large"}


def test_holes_and_categories_do_not_tie_rows_together(transformer, mixed):
    transformer.fit(mixed)
    for verb in verbs(transformer):
        if verb.__name__ == "score":
            continue
        together = verb(mixed)
        for i in (0, 17, 89):
            alone = verb(mixed.iloc[[i]])[0]
            assert_allclose(alone, together[i], rtol=1e-7, atol=1e-9)


def test_columns_of_an_array_may_be_categories(transformer, X):
    codes = np.digitize(X[:, :1], [0.0]) * 7.0 + 3
    X = np.c_[X, codes]
    transformer.set_params(categorical_features=[5]).fit(X)
    assert transformer.table_.columns.n_levels.tolist() == [0, 0, 0, 0, 0, 2]
    Z = transformer.transform(X)
    transformer.set_params(categorical_features=np.arange(6) == 5).fit(X)
    assert_array_equal(transformer.transform(X), Z)
    if hasattr(transformer, "inverse_transform"):
        assert set(transformer.inverse_transform(Z)[:, 5]) <= {3.0, 10.0}


def test_names_choose_categories(transformer, mixed):
    mixed = mixed[["count", "kind", "size"]]
    transformer.set_params(categorical_features=["kind", "count"]).fit(mixed)
    n_counts = mixed["count"].nunique()
    assert transformer.table_.columns.n_levels.tolist() == [n_counts, 3, 0]
    transformer.set_params(categorical_features=["count"])
    with refused(transformer, r"'kind' has dtype .*, but \w+ needs numbers"):
        transformer.fit(mixed)


@pytest.mark.parametrize("value", ["all", 3, "kind"])
def test_a_senseless_choice_of_categories_is_refused(transformer, mixed, value):
    transformer.set_params(categorical_features=value)
    with refused(transformer, "The 'categorical_features' parameter of"):
        transformer.fit(mixed)


def test_a_column_of_a_frame_all_missing_is_named(transformer, mixed):
    for dtype in ("float64", "object", "category", "Int64"):
        empty = pd.Series([None] * 90, index=mixed.index, dtype=dtype)
        with refused(transformer, "Column 'none' holds no value: all of its cells"):
            transformer.fit(mixed.assign(none=empty))


def test_holes_and_categories_survive_json(transformer, mixed):
    transformer.fit(mixed)
    state = json.loads(json.dumps(transformer.table_.get_state()))
    again = copy.copy(transformer)
    again.table_ = Table.from_state(state)
    again.module_ = again._build_module(again.table_.columns).eval()
    again.module_.load_state_dict(transformer.module_.state_dict())
    assert_same(outputs(again, mixed), outputs(transformer, mixed))
    if hasattr(transformer, "impute"):
        pd.testing.assert_frame_equal(again.impute(mixed), transformer.impute(mixed))

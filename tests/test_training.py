"""The training loop, driven by toy modules that tell what it did with them."""

import math
import re
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from skrepr import AutoencoderTransformer, ContrastiveTransformer, VAETransformer
from skrepr._training import _loop
from skrepr._training._loop import Trainer, one_cycle, train
from skrepr._training._module import TrainableModule
from skrepr._training._samplers import ClassBalanced, EvenSplit
from skrepr._training._sources import ResidentSource
from skrepr.augmentations import GaussianNoise
from skrepr.backbones import MLP
from skrepr.exceptions import TrainingError
from skrepr.penalties import Penalty


class Regression(TrainableModule):
    """Least squares of y on x, which keeps every batch it was given."""

    def __init__(self, n_columns=2, warmup=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_columns, 1))
        self.bias = nn.Parameter(torch.zeros(1))
        self.warmup = warmup
        self.batches = {True: [], False: []}  # by self.training
        self.n_after_step = 0

    def loss(self, batch):
        self.batches[self.training].append(batch)
        residual = batch.y - (batch.x @ self.weight)[:, 0] - self.bias
        return {
            "fit": residual.square().mean(),
            "size": 1e-9 * self.weight.square().sum(),
        }

    def after_step(self):
        self.n_after_step += 1


class Scripted(TrainableModule):
    """Its losses are written down beforehand; its state tells the epoch."""

    def __init__(self, validation=(), training=None, warmup=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.register_buffer("epoch", torch.tensor(-1))
        self.script = {False: validation, True: training}
        self.warmup = warmup

    def loss(self, batch):
        if self.training:
            self.epoch += 1
        script, epoch = self.script[self.training], int(self.epoch)
        value = 1.0 if script is None else script[min(epoch, len(script) - 1)]
        if value is KeyboardInterrupt:
            raise KeyboardInterrupt
        return {"a": value + 0 * self.weight.sum()}


def make_trainer(module, **params):
    params = {"learning_rate": 0.1, "weight_decay": 0.0} | params
    return Trainer(module, torch.Generator().manual_seed(0), **params)


def rows(n=20, n_columns=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_columns))
    y = X @ np.arange(1, n_columns + 1) + 3 + 0.5 * rng.normal(size=n)
    return ResidentSource(torch.tensor(X).float(), torch.tensor(y).float())


def everything(source):
    """Return x and y of all rows of a source."""
    return source.rows(torch.arange(len(source)))


def run(module, *, n=20, batch_size=100, max_iter=5, validation=False, **options):
    """Train a module; return what `train` returned, and the trainer."""
    source, trainer = rows(n), make_trainer(module)
    if validation:
        options["validation"] = rows(8, seed=1), EvenSplit(8, 3)
    sampler = EvenSplit(n, batch_size)
    return train(trainer, source, sampler, max_iter=max_iter, **options), trainer


# Batches.


@pytest.mark.parametrize("batch_size", [2, 3, 7, 64, 1000])
def test_an_epoch_takes_every_row_once_in_batches_of_nearly_equal_size(batch_size):
    generator = torch.Generator().manual_seed(0)
    for n in [*range(2, 70), 127, 128, 129, 1000]:
        sampler = EvenSplit(n, batch_size)
        for batches in sampler.epoch(generator), sampler.in_order("cpu"):
            sizes = [len(batch) for batch in batches]
            assert len(sizes) == len(sampler)
            assert sorted(torch.cat(batches).tolist()) == list(range(n))
            assert max(sizes) - min(sizes) <= 1
            assert min(sizes) >= 2
            assert max(sizes) <= batch_size or (batch_size, n % 2) == (2, 1)
            assert max(sizes) <= max(batch_size, 3)


def test_epochs_differ_in_order_and_validation_does_not():
    sampler, generator = EvenSplit(50, 8), torch.Generator().manual_seed(0)
    first, second = (torch.cat(sampler.epoch(generator)) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.cat(sampler.in_order("cpu")).tolist() == list(range(50))


def test_a_batch_holds_the_rows_of_its_index():
    module = Regression()
    run(module, n=23, batch_size=5, max_iter=2)
    source = rows(23)
    for batch in module.batches[True]:
        x, y = source.rows(batch.index)
        assert torch.equal(batch.x, x)
        assert torch.equal(batch.y, y)
    index = torch.cat([batch.index for batch in module.batches[True]])
    assert index.bincount().tolist() == [2] * 23


def test_rows_without_y():
    x, y = ResidentSource(torch.arange(6.0)[:, None]).rows(torch.tensor([4, 1]))
    assert x.tolist() == [[4.0], [1.0]]
    assert y is None


# Steps.


def test_training_minimises_the_loss():
    module = Regression()
    run(module, n=60, batch_size=20, max_iter=400)
    x, y = everything(rows(60))
    design = np.column_stack([x, np.ones(60)])
    expected = np.linalg.lstsq(design, y, rcond=None)[0]
    found = torch.cat([module.weight[:, 0], module.bias]).detach().numpy()
    assert_allclose(found, expected, atol=1e-3)


def test_after_step_follows_every_step():
    module = Regression()
    run(module, n=20, batch_size=6, max_iter=5, validation=True)
    assert module.n_after_step == 20 == len(module.batches[True])


def test_progress_is_the_share_of_steps_done():
    module = Regression()
    run(module, n=20, batch_size=6, max_iter=5, validation=True)
    progress = [batch.progress for batch in module.batches[True]]
    assert all(p.shape == () for p in progress)
    assert_allclose(torch.stack(progress), np.arange(20) / 20, rtol=1e-6)
    # Validation sees the loss as it is at the end.
    assert {float(batch.progress) for batch in module.batches[False]} == {1.0}


def test_the_learning_rate_rises_for_a_tenth_and_falls_to_0():
    assert one_cycle(0) == 0
    assert one_cycle(0.05) == pytest.approx(0.5)
    assert one_cycle(0.1) == 1
    assert one_cycle(0.55) == pytest.approx(0.5)
    assert one_cycle(1) == pytest.approx(0, abs=1e-12)
    rates = [one_cycle(p) for p in np.linspace(0, 1, 1001)]
    assert all(a < b for a, b in pairwise(rates[:101]))
    assert all(a > b for a, b in pairwise(rates[100:]))


def test_every_step_takes_its_learning_rate():
    module = Regression()
    trainer = make_trainer(module, learning_rate=0.3)
    rates, update = [], trainer.parameters.update
    trainer.parameters.update = lambda rate: (rates.append(rate), update(rate))
    train(trainer, rows(20), EvenSplit(20, 10), max_iter=10)
    assert len(rates) == 20
    assert max(rates) == pytest.approx(0.3, rel=0.02)
    assert 0 < rates[0] < 0.1
    assert 0 < rates[-1] < 0.01


def test_weight_decay_shrinks_matrices_alone():
    module = TrainableModule()
    module.matrix = nn.Parameter(torch.ones(3, 2))
    module.vector = nn.Parameter(torch.ones(3))
    module.scalar = nn.Parameter(torch.ones(()))
    module.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    module.loss = lambda batch: {"a": sum(0 * p.sum() for p in module.parameters())}
    trainer = make_trainer(module, learning_rate=0.5, weight_decay=0.1)
    train(trainer, rows(20), EvenSplit(20, 4), max_iter=4)
    left = math.prod(1 - 0.5 * one_cycle((i + 0.5) / 20) * 0.1 for i in range(20))
    assert_allclose(module.matrix.detach(), left, rtol=1e-5)
    for unchanged in module.vector, module.scalar, module.frozen:
        assert (unchanged == 1).all()


# History.


def test_the_history_holds_the_mean_over_rows_of_every_term():
    module = Regression()
    _, trainer = run(module, n=23, batch_size=5, max_iter=3, validation=True)
    assert list(trainer.history) == [
        *("loss", "fit", "size"),
        *("validation_loss", "validation_fit", "validation_size"),
    ]
    for prefix in "", "validation_":
        loss, *terms = (trainer.history[prefix + k] for k in ("loss", "fit", "size"))
        assert len(loss) == 3
        assert_allclose(loss, np.sum(terms, axis=0))


def test_a_monitor_tells_more_of_the_rows_to_validate_on():
    seen = []

    def monitor(module, source, generator):
        assert not module.training
        seen.append((len(source), torch.rand((), generator=generator).item()))
        return {"bias": module.bias.item()}

    module = Regression()
    _, trainer = run(module, max_iter=3, validation=True, monitor=monitor)
    assert list(trainer.history)[-1] == "validation_bias"
    assert len(set(trainer.history["validation_bias"])) == 3
    assert seen == [(8, seen[0][1])] * 3  # the same draws every time


def test_uneven_batches_weigh_as_many_rows_as_they_have():
    module = Scripted()
    module.loss = lambda batch: {"a": batch.x.mean() + 0 * module.weight.sum()}
    _, trainer = run(module, n=5, batch_size=2, max_iter=1)
    assert_allclose(trainer.history["a"], everything(rows(5))[0].mean(), rtol=1e-6)


def test_the_history_of_an_epoch_is_the_mean_over_the_rows_drawn():
    class Repeating(EvenSplit):  # an epoch of 3 + 1 draws of other rows than its length
        def epoch(self, generator):
            return torch.tensor([0, 1, 1]), torch.tensor([2])

    module = Scripted()
    module.loss = lambda batch: {"a": batch.x[:, 0].mean() + 0 * module.weight.sum()}
    trainer, source = make_trainer(module), rows(20)
    train(trainer, source, Repeating(20, 10), max_iter=1)
    expected = everything(source)[0][[0, 1, 1, 2], 0].mean().item()
    assert trainer.history["a"] == pytest.approx([expected], rel=1e-6)


# Early stopping.


@pytest.mark.parametrize(
    ("losses", "n_epochs", "best"),
    [
        ([5, 4, 3, 3.5, 3.2, 3.1, 0], 6, 2),  # three epochs without improvement
        ([5, 4, 3, 3.5, 3.2, 2.9, 4], 9, 5),  # the patience starts anew
        ([3, math.nan, 2, math.inf, math.nan, 5], 6, 2),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 10, 9),  # stops at max_iter
    ],
)
def test_early_stopping_waits_and_restores_the_best_epoch(losses, n_epochs, best):
    module = Scripted(losses)
    _, trainer = run(module, max_iter=10, validation=True, n_iter_no_change=3)
    assert len(trainer.history["loss"]) == n_epochs
    assert len(trainer.history["validation_loss"]) == n_epochs
    assert module.epoch == best


def test_a_decrease_below_tol_is_kept_but_does_not_renew_the_patience():
    too_slow = Scripted([1 - 0.02 * i for i in range(20)])
    run(too_slow, max_iter=20, validation=True, n_iter_no_change=4, tol=0.1)
    assert too_slow.epoch == 4
    fast_enough = Scripted([1 - 0.04 * i for i in range(20)])
    run(fast_enough, max_iter=20, validation=True, n_iter_no_change=4, tol=0.1)
    assert fast_enough.epoch == 19


@pytest.mark.parametrize(("max_iter", "patience"), [(20, 10), (95, 10), (200, 20)])
def test_the_patience_is_a_tenth_of_the_epochs_and_at_least_10(max_iter, patience):
    module = Scripted([1.0])
    _, trainer = run(module, max_iter=max_iter, validation=True)
    assert len(trainer.history["loss"]) == 1 + patience
    assert module.epoch == 0


def test_the_patience_starts_after_the_warm_up():
    module = Scripted([1.0], warmup=0.5)
    _, trainer = run(module, max_iter=20, validation=True, n_iter_no_change=3)
    assert len(trainer.history["loss"]) == 10 + 3


def test_the_restored_weights_have_the_least_validation_loss():
    module = Regression(n_columns=5)
    source, held_out = rows(8, 5), rows(8, 5, seed=1)  # few rows: it overfits
    trainer = make_trainer(module, learning_rate=0.3)
    validation = held_out, EvenSplit(8, 3)
    train(trainer, source, EvenSplit(8, 4), max_iter=60, validation=validation)
    losses = trainer.history["validation_fit"]
    assert min(losses) < losses[-1]
    x, y = everything(held_out)
    residual = y - (x @ module.weight)[:, 0] - module.bias
    assert residual.square().mean().item() == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize(
    "estimator",
    [
        AutoencoderTransformer(2, backbone=MLP((8,), norm="batch", dropout=0.2)),
        VAETransformer(2, backbone=MLP((8,)), kl_warmup=0.5),
        ContrastiveTransformer(2, backbone=MLP((8,))),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_fitted_estimator_has_the_weights_of_its_best_epoch(monkeypatch, estimator):
    seen = {}

    def spy(trainer, source, sampler, *, validation, **options):
        seen.update(training=source, validation=validation)
        return train(trainer, source, sampler, validation=validation, **options)

    monkeypatch.setattr("skrepr._estimators._base.train", spy)
    X = np.random.default_rng(0).normal(size=(40, 5))
    estimator.set_params(early_stopping=True, validation_fraction=0.25)
    estimator.set_params(max_iter=80, learning_rate=0.03, random_state=0)
    estimator.set_params(n_iter_no_change=8, batch_size=10, device="cpu")
    estimator.fit(X)
    losses = estimator.history_["validation_loss"]
    assert estimator.n_iter_ == len(losses) == len(estimator.history_["loss"])
    assert min(losses) < losses[-1]

    source, sampler = seen["validation"]
    trainer = make_trainer(estimator.module_.requires_grad_(True))
    _loop._validate(trainer, None, source, sampler)
    assert trainer.history["validation_loss"] == pytest.approx([min(losses)], rel=1e-5)
    # The two splits make up the rows, and share none.
    assert (len(seen["training"]), len(source)) == (30, 10)
    matrix = np.concatenate([everything(seen["training"])[0], everything(source)[0]])
    expected = estimator.table_.to_matrix(X, np.float32)
    assert_allclose(np.sort(matrix, axis=0), np.sort(expected, axis=0))


def test_without_steps_the_validation_loss_stays_the_same():
    X = np.random.default_rng(0).normal(size=(60, 3))
    ae = AutoencoderTransformer(
        2, augmentation=GaussianNoise(1.0), backbone=MLP((16,), dropout=0.3)
    ).set_params(early_stopping=True, learning_rate=1e-12, max_iter=5, random_state=0)
    losses = ae.fit(X).history_
    assert np.ptp(losses["validation_loss"]) < 1e-6
    assert np.ptp(losses["loss"]) > 1e-3


# What cuts a training short.


def test_a_loss_that_is_not_finite_says_what_to_try():
    advice = r"epoch 3 \(a=nan\).*Lower learning_rate \(it is 0\.1\), leave standardize"
    with pytest.raises(TrainingError, match=advice):
        run(Scripted(training=[1.0, 2.0, math.nan]))


@pytest.mark.parametrize("failure", [math.nan, math.inf, KeyboardInterrupt])
def test_the_best_state_survives_a_failure(failure):
    module = Scripted([3.0, 2.0, 2.5, 1.0], training=[1.0, 1.0, 1.0, failure])
    stopped, _ = run(module, max_iter=9, validation=True)
    assert module.epoch == 1
    assert "keeps the weights of epoch 2, the best on the validation" in str(stopped)
    if failure is KeyboardInterrupt:
        assert isinstance(stopped, KeyboardInterrupt)
        assert str(stopped).startswith("Training was interrupted. ")
    else:
        assert isinstance(stopped, TrainingError)
        assert "in epoch 4 (" in str(stopped)


@pytest.mark.parametrize("validation", [True, False])
def test_a_failure_without_a_state_worth_keeping_is_raised(validation):
    module = Scripted([math.nan], training=[1.0, KeyboardInterrupt])
    with pytest.raises(KeyboardInterrupt):
        run(module, validation=validation)


class Exploding(Scripted):
    """Its weights, or a running statistic, are no longer finite after a given step."""

    def __init__(self, step, value, name, **scripts):
        super().__init__(**scripts)
        self.register_buffer("running", torch.zeros(3))
        self.step, self.value, self.name = step, value, name

    def after_step(self):
        self.step -= 1
        if self.step == 0:
            with torch.no_grad():
                getattr(self, self.name).view(-1)[1] = self.value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["weight", "running"])
def test_weights_that_are_not_finite_after_the_last_step_are_an_error(name, value):
    with pytest.raises(TrainingError, match=rf"last step .*'{name}'.*learning_rate"):
        run(Exploding(5, value, name), max_iter=5)
    module = Exploding(5, value, name, validation=[3.0, 2.0, 2.5, 4.0, 4.0])
    stopped, _ = run(module, max_iter=5, validation=True)
    assert isinstance(stopped, TrainingError)
    assert "keeps the weights of epoch 2," in str(stopped)
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())


@pytest.mark.parametrize(
    "kind", [AutoencoderTransformer, VAETransformer, ContrastiveTransformer]
)
def test_a_single_step_that_is_far_too_long_is_an_error(kind):
    X = np.random.default_rng(0).normal(size=(30, 3))
    estimator = kind(2, learning_rate=1e38, max_iter=1, random_state=0)
    with pytest.raises(TrainingError, match="Lower learning_rate"):
        estimator.fit(X)
    assert not any(name.endswith("_") for name in vars(estimator))


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(
    "kind", [AutoencoderTransformer, VAETransformer, ContrastiveTransformer]
)
def test_a_fit_leaves_no_gradients(kind, early_stopping):
    X = np.random.default_rng(0).normal(size=(30, 3))
    fitted = kind(2, max_iter=2, early_stopping=early_stopping).fit(X)
    parameters = list(fitted.module_.parameters())
    assert parameters
    assert all(p.grad is None and not p.requires_grad for p in parameters)


def test_a_validation_loss_that_was_never_finite_is_an_error():
    with pytest.raises(TrainingError, match=r"not finite in any epoch.*early_stopping"):
        run(Scripted([math.nan]), validation=True)


class Failing(Penalty):
    """Becomes NaN after a few calls."""

    def __init__(self, after):
        self.after = after

    def build(self, n_components):
        return _Failing(self.after)


class _Failing(nn.Module):
    def __init__(self, left):
        super().__init__()
        self.left = left

    def forward(self, encoded):
        self.left -= 1
        return 0 * encoded.codes.sum() + (math.nan if self.left < 0 else 0.0)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_fit_that_fails_leaves_the_best_epoch_or_nothing(early_stopping):
    X = np.random.default_rng(0).normal(size=(30, 3))
    ae = AutoencoderTransformer(2, penalty=Failing(7), max_iter=20, random_state=0)
    ae.set_params(early_stopping=early_stopping)
    with pytest.raises(TrainingError, match="no longer finite in epoch") as failure:
        ae.fit(X)
    if not early_stopping:
        assert not any(name.endswith("_") for name in vars(ae))
        return
    best = np.nanargmin(ae.history_["validation_loss"]) + 1
    assert f"keeps the weights of epoch {best}," in str(failure.value)
    assert np.isfinite(ae.transform(X)).all()


def test_too_few_rows_to_split_are_an_error_that_counts_them():
    ae = AutoencoderTransformer(1, early_stopping=True, validation_fraction=0.5)
    with pytest.raises(ValueError, match=r"n_samples=3 .* leaves 1 to train on"):
        ae.fit(np.eye(3))
    ae.set_params(max_iter=2).fit(np.eye(4))


# Random numbers.


class Drawing(Scripted):
    """Draws random numbers from no generator, in some of its calls."""

    def __init__(self, draws):
        super().__init__([1.0])
        self.draws = draws
        self.drawn = []

    def loss(self, batch):
        if self.draws(self, batch):
            self.drawn.append(torch.rand(()).item())
        return super().loss(batch)


@pytest.mark.parametrize(
    "draws",
    [
        lambda module, batch: module.training,
        lambda module, batch: module.training and batch.progress > 0.5,
        lambda module, batch: not module.training,
    ],
    ids=["in training", "late in training", "in validation"],
)
def test_what_a_module_draws_leaves_the_global_generator_alone(draws):
    before = torch.get_rng_state()
    modules = Drawing(draws), Drawing(draws)
    for module in modules:
        run(module, max_iter=4, validation=True)
    assert modules[0].drawn == modules[1].drawn != []
    assert torch.equal(before, torch.get_rng_state())


# Steps, epochs and reports of an estimator.


@pytest.mark.parametrize(
    ("n_batches", "batch_size"), [(1, 256), (4, 16), (None, 2)], ids=str
)
def test_auto_takes_the_documented_number_of_steps(n_batches, batch_size):
    documented = re.search(
        r"as many as give (\d+) steps", AutoencoderTransformer.__doc__
    )
    n_steps = int(documented[1])
    if n_batches is None:
        n_batches = n_steps + 1  # more than are asked for: one epoch
    n = 80 if n_batches == 1 else n_batches * batch_size
    X = np.random.default_rng(0).normal(size=(n, 2))
    ae = AutoencoderTransformer(1, backbone=MLP(()), batch_size=batch_size).fit(X)
    assert ae.n_iter_ == math.ceil(n_steps / n_batches) == len(ae.history_["loss"])


@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_history_of_an_estimator(early_stopping):
    X = np.random.default_rng(0).normal(size=(30, 3))
    vae = VAETransformer(2, max_iter=6, early_stopping=early_stopping).fit(X)
    prefixes = ["", "validation_"] if early_stopping else [""]
    terms = ["reconstruction", "kl"]
    assert list(vae.history_) == [p + k for p in prefixes for k in ("loss", *terms)]
    for prefix in prefixes:
        parts = [vae.history_[prefix + term] for term in terms]
        assert_allclose(vae.history_[prefix + "loss"], np.sum(parts, axis=0))


@pytest.fixture
def report(capfd):
    """Fit an estimator at a level of verbosity; return stdout and stderr."""

    def fit(verbose):
        X = np.random.default_rng(0).normal(size=(30, 3))
        ae = AutoencoderTransformer(2, max_iter=3, early_stopping=True)
        ae.set_params(verbose=verbose).fit(X)
        return capfd.readouterr()

    return fit


@pytest.mark.parametrize("verbose", [0, False])
def test_verbose_0_is_silent(report, verbose):
    assert report(verbose) == ("", "")


@pytest.mark.parametrize("verbose", [1, True])
def test_verbose_1_draws_one_bar_with_the_loss_and_the_time_left(report, verbose):
    out, err = report(verbose)
    assert out == ""
    assert err.count("\n") == 0
    last = [line for line in err.split("\r") if line.strip()][-1]
    assert re.search(
        r"^AutoencoderTransformer: 100%.* 3/3 \[.*<.*step.*, "
        r"loss=[\d.]+, validation_loss=",
        last,
    )


def test_verbose_2_prints_a_line_per_epoch(report):
    out, err = report(2)
    assert err == ""
    for i, line in enumerate(out.splitlines(), start=1):
        assert line.startswith(f"AutoencoderTransformer: epoch {i}/3, loss ")
        assert "validation_reconstruction " in line
    assert i == 3


def balanced(counts, n_unlabelled=0, batch_size=20, seed=0):
    """Return the ids, and the batches of three epochs."""
    ids = np.repeat(np.arange(len(counts)), counts)
    ids = np.concatenate([ids, -1 - np.arange(n_unlabelled)])
    ids = torch.from_numpy(np.random.default_rng(seed).permutation(ids))
    sampler = ClassBalanced(ids, batch_size)
    generator = torch.Generator().manual_seed(seed)
    epochs = [sampler.epoch(generator) for _ in range(3)]
    assert all(len(epoch) == len(sampler) for epoch in epochs)
    return ids, epochs


@pytest.mark.parametrize("counts", [(50, 50), (90, 10), (200, 3, 40), (2, 60), (5, 5)])
@pytest.mark.parametrize("n_unlabelled", [0, 7])
def test_every_batch_holds_all_classes_as_often(counts, n_unlabelled):
    ids, epochs = balanced(counts, n_unlabelled)
    for batch in chain(*epochs):
        drawn = ids[batch]
        numbers = torch.bincount(drawn[drawn >= 0], minlength=len(counts))
        assert numbers.max() - numbers.min() <= 4  # rounds cut at both ends
        assert 2 <= len(batch) <= 21
    for epoch in epochs:
        drawn = ids[torch.cat(epoch)]
        numbers = torch.bincount(drawn[drawn >= 0])
        assert (numbers == numbers[0]).all()
        assert abs(len(drawn) - len(ids)) <= 2 * len(counts)
        assert sorted(drawn[drawn < 0]) == sorted(ids[ids < 0])


def test_rows_of_a_class_take_turns():
    ids, epochs = balanced((90, 7))
    drawn = torch.stack([torch.bincount(torch.cat(e), minlength=97) for e in epochs])
    small, large = drawn[:, ids == 1], drawn[:, ids == 0]
    assert (small.max(1).values - small.min(1).values <= 1).all()
    assert large.max() == 1
    assert (large.sum(0) > 0).float().mean() > 0.85  # 1 - (41 / 90) ** 3 = 0.9


def test_a_class_of_several_rows_is_in_a_batch_with_a_pair():
    ids, epochs = balanced([2] * 300, batch_size=16)
    for batch in chain(*epochs):
        _, numbers = ids[batch].unique(return_counts=True)
        assert (numbers == 2).sum() >= len(numbers) - 2  # pairs cut at the ends


def test_the_generator_decides_what_is_drawn():
    same = [torch.cat(balanced((30, 9), 5)[1][0]) for _ in range(2)]
    assert torch.equal(*same)
    first, second, _ = balanced((30, 9), 5)[1]
    assert not torch.equal(torch.cat(first), torch.cat(second))


@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_batches_of_classes_are_never_too_small_for_two_of_them(batch_size):
    for n_first in range(6):
        for n_second in range(2, 9):
            for n_unlabelled in range(8):
                counts = (n_first, n_second)
                n = sum(counts) + n_unlabelled
                if n < 2:
                    continue
                _, epochs = balanced(counts, n_unlabelled, batch_size)
                sizes = [len(batch) for batch in chain(*epochs)]
                assert min(sizes) >= min(n, 4)
                assert max(sizes) <= 8


def test_a_row_alone_in_its_class_is_taken_once():
    ids, epochs = balanced((300, 1, 1), 2)
    for epoch in epochs:
        drawn = ids[torch.cat(epoch)]
        assert [(drawn == i).sum() for i in (1, 2, -1, -2)] == [1, 1, 1, 1]
    ids, [epoch, *_] = balanced((1, 1, 1))
    assert sorted(torch.cat(epoch)) == [0, 1, 2]

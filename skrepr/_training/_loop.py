"""The only optimisation loop: batches, samplers, the step, history, early stopping.

`train` knows a `TrainableModule`, a source, a sampler, and nothing of the estimators.
"""

import copy
import math
from contextlib import nullcontext
from functools import reduce
from operator import add

import torch
from tqdm import tqdm

from skrepr._training._by_hand import find_pass
from skrepr._training._optimizer import Parameters
from skrepr._training._random import Seeded, may_draw
from skrepr._training._sources import Batch
from skrepr._training._stacks import find_stacks
from skrepr._training._threads import subnormals_flushed
from skrepr.exceptions import TrainingError

_WARMUP = 0.1  # share of the steps in which the learning rate rises
_MIN_PATIENCE = 10  # epochs early stopping waits at least


def one_cycle(progress):
    """Return the factor of the learning rate: linear warm-up, then a cosine to 0.

    Parameters
    ----------
    progress : float
        The fraction of training done, in [0, 1].

    Returns
    -------
    float
    """
    if progress < _WARMUP:
        return progress / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP)))


class Trainer:
    """Module, optimiser, generator and history of one training.

    Parameters
    ----------
    module : TrainableModule
        On its device.
    generator : torch.Generator
        On the same device.
    learning_rate, weight_decay : float
        Of AdamW, the former at its peak. Only matrices decay: scales and biases
        do not.

    Attributes
    ----------
    parameters : Parameters
        Of the module, and their update.
    history : dict of str to list of float
        Per epoch: ``loss`` and its terms, ``validation_loss`` and its terms.
    """

    def __init__(self, module, generator, *, learning_rate, weight_decay):
        self.module = module
        self.generator = generator
        self.learning_rate = learning_rate
        self.history: dict[str, list[float]] = {}
        networks = [] if module.shares_weights else find_stacks(module)
        self.parameters = Parameters(module, networks, weight_decay)
        self._may_draw = may_draw(module)
        self._by_hand = find_pass(module, self.parameters.stacks)

    def batches(self, source, indices):
        """Yield what `step` takes of the rows of several index tensors.

        Parameters
        ----------
        source : ResidentSource
        indices : list of torch.Tensor

        Yields
        ------
        tuple (torch.Tensor, torch.Tensor or None, torch.Tensor) or PreparedBatch
        """
        if self._by_hand is None:
            for index in indices:
                yield *source.rows(index), index
            return
        n = self._by_hand.n_batches(len(indices[0]))
        for start in range(0, len(indices), n):
            together = indices[start : start + n]
            x, _ = source.rows(torch.cat(together))
            with self.seeded(self.generator):
                prepared = self._by_hand.prepare(
                    x, list(map(len, together)), self.generator
                )
            yield from prepared

    def step(self, batch, progress, rate):
        """Take one step of the optimiser.

        Parameters
        ----------
        batch : tuple
            One of `batches`.
        progress : torch.Tensor
            A 0-d tensor: the fraction of training done, in [0, 1].
        rate : float
            Factor of the learning rate.

        Returns
        -------
        dict of str to torch.Tensor
            The terms of the loss, detached.
        """
        self.parameters.zero_grad()
        with self.seeded(self.generator):
            if self._by_hand is None:
                x, y, index = batch
                terms = self.module.loss(Batch(x, y, index, progress, self.generator))
                _total(terms).backward()
                terms = {name: term.detach() for name, term in terms.items()}
            else:
                terms = self._by_hand.run(batch, progress)
        self.parameters.update(self.learning_rate * rate)
        self.module.after_step()
        return terms

    @property
    def needs_autograd(self):
        """Whether `step` is to be called with torch's gradients enabled."""
        return self._by_hand is None

    def seeded(self, generator):
        """Return a context in which the layers, too, draw from `generator`.

        Interception costs every operation a call, so it is left out for modules that
        take all their random numbers from the batch's generator.

        Parameters
        ----------
        generator : torch.Generator

        Returns
        -------
        context manager
        """
        return Seeded(generator) if self._may_draw else nullcontext()

    def record(self, prefix, means):
        """Append one epoch's means of the loss terms to the history."""
        self.append(prefix, {"loss": sum(means.values()), **means})

    def append(self, prefix, values):
        """Append named values of one epoch to the history."""
        for name, value in values.items():
            self.history.setdefault(prefix + name, []).append(value)


def train(
    trainer,
    source,
    sampler,
    *,
    max_iter,
    validation=None,
    monitor=None,
    n_iter_no_change=None,
    tol=0.0,
    verbose=0,
    name="",
):
    """Train a module until `max_iter` epochs are done or validation stops improving.

    Parameters
    ----------
    trainer : Trainer
    source : ResidentSource
        The rows to train on. All that is asked of it is ``len`` and ``rows(index)``.
    sampler : EvenSplit
        Cuts an epoch into index tensors.
    max_iter : int
        Number of epochs.
    validation : tuple of (ResidentSource, EvenSplit), optional
        Rows to validate on after every epoch: in eval mode, with the same noise and
        views every time, and with the loss as it is at the end of training.
    monitor : callable, optional
        ``monitor(module, source, generator)`` is called after every validation, with
        the rows to validate on. It returns named numbers that say more of these than
        the loss does: they are added to the history.
    n_iter_no_change : int, optional
        Epochs without an improvement of the validation loss after which to stop.
        By default a tenth of `max_iter`, at least 10.
    tol : float
        What counts as an improvement.
    verbose : int
        1 draws a progress bar, 2 prints a line per epoch.
    name : str
        What to call the training in progress reports.

    Returns
    -------
    BaseException or None
        What cut the training short, a `TrainingError` or KeyboardInterrupt, if
        validation had found a best state before: the module then holds that state.
        Without such a state the exception is raised.
    """
    module = trainer.module
    best = _Best(tol)
    if n_iter_no_change is None:
        n_iter_no_change = max(_MIN_PATIENCE, math.ceil(max_iter / 10))
    n_steps = max_iter * len(sampler)
    module.train()
    stopped: BaseException | None = None
    with (
        trainer.parameters.at_work(len(source) / len(sampler)),
        subnormals_flushed(),
        tqdm(
            total=n_steps, desc=name, unit="step", disable=verbose != 1, leave=False
        ) as bar,
    ):
        try:
            for epoch in range(max_iter):
                _train_epoch(trainer, source, sampler, epoch, n_steps, bar)
                if validation is not None:
                    _validate(trainer, monitor, *validation)
                    best.update(module, trainer.history["validation_loss"][-1], epoch)
                _report(trainer.history, epoch, max_iter, bar, verbose, name)
                if epoch + 1 <= math.ceil(module.warmup * max_iter):
                    best.be_patient(epoch)
                if validation is not None and best.wait(epoch) >= n_iter_no_change:
                    break
            _check_weights(module)
        except (KeyboardInterrupt, TrainingError) as error:
            if best.state is None:
                raise
            stopped = type(error)(
                f"{str(error) or 'Training was interrupted.'} The estimator keeps the "
                f"weights of epoch {best.epoch + 1}, the best on the validation split, "
                "and can be used."
            )
    if validation is None:
        return None
    if best.state is None:
        raise TrainingError(
            "The validation loss was not finite in any epoch. Expected a finite loss. "
            "Look for extreme values in X, or set early_stopping=False."
        )
    module.load_state_dict(best.state)
    return stopped


def _train_epoch(trainer, source, sampler, epoch, n_steps, bar):
    first = epoch * len(sampler)
    device = trainer.generator.device
    steps = torch.arange(first, first + len(sampler), device=device)
    progress = (steps / n_steps).unbind()
    means = _RunningMeans()
    with torch.set_grad_enabled(trainer.needs_autograd):
        indices = sampler.epoch(trainer.generator)
        for i, batch in enumerate(trainer.batches(source, indices)):
            rate = one_cycle((first + i + 0.5) / n_steps)
            terms = trainer.step(batch, progress[i], rate)
            means.add(terms, len(indices[i]))
            bar.update()
    values = means.values()
    if not math.isfinite(sum(values.values())):
        shown = ", ".join(f"{name}={value:.3g}" for name, value in values.items())
        raise TrainingError(
            f"The training loss is no longer finite in epoch {epoch + 1} ({shown}). "
            "Expected a finite loss. Lower learning_rate (it is "
            f"{trainer.learning_rate:g}), leave standardize=True, and look for extreme "
            "values in X, and for NaN from parts of your own."
        )
    trainer.record("", values)


def _total(terms):
    """Add up the terms of a loss, of which one at least must have a derivative."""
    total = reduce(add, terms.values()) if terms else torch.zeros(())
    if not total.requires_grad:
        raise TypeError(
            f"None of the terms {list(terms)} of the loss has a derivative by the "
            "weights. Expected terms that torch can differentiate: neither detached "
            "nor computed outside of torch."
        )
    return total


def _check_weights(module):
    """Raise if the last step made a weight or a running statistic infinite or NaN."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise TrainingError(
                f"The last step of the training made {name!r} of the network infinite "
                "or NaN. Expected finite weights. Lower learning_rate, leave "
                "standardize=True, and look for extreme values in X."
            )


@torch.no_grad()
def _validate(trainer, monitor, source, sampler):
    trainer.module.eval()
    # The same noise in every epoch, so that losses differ by the weights alone.
    device = trainer.generator.device
    generator = torch.Generator(device).manual_seed(0)
    finished = torch.ones((), device=device)
    means = _RunningMeans()
    for index in sampler.in_order(device):
        x, y = source.rows(index)
        with trainer.seeded(generator):
            terms = trainer.module.loss(Batch(x, y, index, finished, generator))
        means.add(terms, len(index))
    trainer.record("validation_", means.values())
    if monitor is not None:
        with trainer.seeded(generator):
            values = monitor(trainer.module, source, generator)
        trainer.append("validation_", values)
    trainer.module.train()


class _RunningMeans:
    """Means of the loss terms over rows, on the device until they are asked for.

    A sum a term, and not a list of what a long epoch adds to it: thousands of small
    tensors keep the memory between them from being used again.
    """

    def __init__(self):
        self.totals: dict[str, torch.Tensor] = {}
        self.n_rows = 0

    def add(self, terms, n_rows):
        self.n_rows += n_rows
        for name, term in terms.items():
            if name not in self.totals:
                self.totals[name] = torch.zeros_like(term)
            self.totals[name].add_(term, alpha=n_rows)

    def values(self):
        values = torch.stack(list(self.totals.values())).tolist()  # one copy
        return {
            name: value / self.n_rows
            for name, value in zip(self.totals, values, strict=True)
        }


class _Best:
    """The best validation loss so far, its weights, and the epochs waited since."""

    def __init__(self, tol):
        self.tol = tol
        self.loss = math.inf
        self.epoch = 0
        self.state: dict | None = None
        self._bar_to_clear = math.inf
        self._last_improvement = 0

    def update(self, module, loss, epoch):
        if loss < self.loss:  # never true of NaN
            self.loss, self.epoch = loss, epoch
            self.state = copy.deepcopy(module.state_dict())
        if loss < self._bar_to_clear - self.tol:
            self._bar_to_clear = loss
            self.be_patient(epoch)

    def be_patient(self, epoch):
        self._last_improvement = epoch

    def wait(self, epoch):
        return epoch - self._last_improvement


def _report(history, epoch, max_iter, bar, verbose, name):
    if verbose == 1:
        bar.set_postfix({k: f"{v[-1]:.4g}" for k, v in history.items() if "loss" in k})
    elif verbose >= 2:
        shown = ", ".join(f"{key} {values[-1]:.5g}" for key, values in history.items())
        print(f"{name}: epoch {epoch + 1}/{max_iter}, {shown}", flush=True)

"""What the estimators share: the one fit, training, and inference.

An estimator adds to `BaseTorchEstimator` its own parameters, ``_build_module``, and its
verbs; a transformer also takes `EncodingMixin`. A module is only ever handed rows of
the matrix of a table.
"""

import math
from collections.abc import Callable
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from skrepr._columns._libraries import is_frame
from skrepr._sklearn import Interval, StrOptions
from skrepr._training._inference import made_on, resolve_device, run
from skrepr._training._loop import Trainer, train
from skrepr._training._random import Seeded, generators
from skrepr._training._samplers import EvenSplit
from skrepr._training._sources import ResidentSource
from skrepr._training._threads import one_thread
from skrepr.parts import TakesParts


class BaseTorchEstimator(TakesParts):
    """Base class of whatever trains a torch module: the one fit, and inference."""

    _parameter_constraints: dict = {
        "max_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "tol": [Interval(Real, 0, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    #: Steps of ``max_iter="auto"``, rounded up to whole epochs.
    _auto_steps = 1000

    #: What tells more of the rows to validate on than their loss, see `train`.
    _monitor: Callable | None = None

    #: The rows passed to ``fit`` that the training does not count.
    _not_counted = ""

    def _fit_or_stay(self, X, y):
        """Call `_fit`. If it fails, the estimator is as it was before."""
        before = vars(self).copy()
        try:
            # Whatever the mode torch is in when fit is called.
            with torch.inference_mode(False), torch.enable_grad(), one_thread():
                stopped = self._fit(X, y)
        except BaseException:
            self.__dict__ = before
            raise
        if stopped is not None:
            raise stopped
        return self

    def _fit(self, X, y):
        """Set every fitted attribute, from parameters and parts that are valid.

        Returns
        -------
        BaseException or None
            What cut the training short after a state worth keeping was found.
        """
        device = resolve_device(self.device)
        all_rows, targets, schema = self._read_training_rows(X, y)
        trusted = self._trusted(all_rows, schema)
        rows, targets = all_rows[trusted], None if targets is None else targets[trusted]
        random = check_random_state(self.random_state)
        seed = random.randint(2**31 - 1)
        initial, generator, split = generators(seed, device)
        self._learn_reader(X, y, rows, schema, random)
        table = self._reader.table_
        matrix = table.to_matrix(rows, np.float32)
        training, validation = self._split(len(rows), targets, split)
        with torch.device("cpu"):
            with Seeded(initial):
                module = self._build_module(table.columns)
            module.check(all_rows)
            self._before_training(module, matrix, targets, training)
        with made_on(device):
            stopped = self._train(
                module, matrix, targets, training, validation, device, generator
            )
        with torch.device("cpu"):
            self._after_training(rows, seed)
        return stopped

    # What an estimator adds or overrides, in the order in which fit asks for it.

    def _read_training_rows(self, X, y):
        """Read X and y.

        Returns
        -------
        rows : ndarray of shape (n_samples, n_features)
            Numbers, codes of categories, and NaN where a cell is missing.
        targets : ndarray of shape (n_samples,) or None
            What the module is to know of y: ids of classes, or numbers.
        schema : Schema
            Of the user's columns.
        """
        raise NotImplementedError

    def _trusted(self, rows, schema):
        """Return a mask or a slice of the rows to learn from."""
        return slice(None)

    def _learn_reader(self, X, y, rows, schema, random):
        """Learn what reads rows: the table; or train the transformer that has it."""
        raise NotImplementedError

    def _shuffled(self, n_samples, targets, rng):
        """Return the numbers of the rows, those to validate on first."""
        return rng.permutation(n_samples)

    def _build_module(self, columns):
        """Build the module for a column layout, with fresh weights."""
        raise NotImplementedError

    def _before_training(self, module, matrix, targets, training):
        """Prepare what depends on the rows to train on, given by their numbers."""

    def _batch_sampler(self, n_samples, targets):
        """Choose how an epoch of training is cut into batches."""
        return EvenSplit(n_samples, self.batch_size)

    def _decay(self, n_samples):
        """Return the weight decay for so many rows."""
        return self.weight_decay

    def _n_auto_steps(self, module):
        """Return the steps that ``max_iter="auto"`` stands for."""
        return self._auto_steps

    def _peak_rate(self, module):
        """Return the largest learning rate."""
        return self.learning_rate

    def _after_training(self, rows, seed):
        """Learn from the trained module and the rows that it was trained on."""

    # The training.

    def _train(self, module, matrix, targets, training, validation, device, generator):
        """Train a module, and set the fitted attributes that tell of the training.

        Parameters
        ----------
        module : torch.nn.Module
            On the CPU.
        matrix : ndarray of shape (n_samples, n_columns), float32
        targets : ndarray of shape (n_samples,) or None
        training, validation : ndarray of int or None
            The numbers of the rows to train and to validate on; None for all and none.
        device : torch.device
        generator : torch.Generator
            On the device.

        Returns
        -------
        BaseException or None
            What cut the training short after a state worth keeping was found.
        """
        module.to(device, torch.float32)
        x, y = _on_device(matrix, targets, training, device)
        source, sampler = ResidentSource(x, y), self._batch_sampler(len(x), y)
        held_out = None
        if validation is not None:
            x, y = _on_device(matrix, targets, validation, device)
            held_out = ResidentSource(x, y), EvenSplit(len(x), self.batch_size)
        trainer = Trainer(
            module,
            generator,
            learning_rate=self._peak_rate(module),
            weight_decay=self._decay(len(source)),
        )
        max_iter = self.max_iter
        if max_iter == "auto":
            max_iter = math.ceil(self._n_auto_steps(module) / len(sampler))
        stopped = train(
            trainer,
            source,
            sampler,
            max_iter=max_iter,
            validation=held_out,
            monitor=self._monitor,
            n_iter_no_change=(
                None if self.n_iter_no_change == "auto" else self.n_iter_no_change
            ),
            tol=self.tol,
            verbose=int(self.verbose),
            name=type(self).__name__,
        )
        trainer.parameters.release()
        self.module_ = module.cpu().eval().requires_grad_(False)
        self.device_ = str(device)
        self.history_ = trainer.history
        self.n_iter_ = len(trainer.history["loss"])
        return stopped

    def _split(self, n_samples, targets, rng):
        """Return the numbers of the rows to train and to validate on."""
        if not self.early_stopping:
            return None, None
        n_validation = max(2, round(self.validation_fraction * n_samples))
        if n_samples - n_validation < 2:
            without = f" (without {self._not_counted})" if self._not_counted else ""
            raise ValueError(
                "early_stopping=True needs at least 2 rows to train and 2 to validate "
                f"on, but n_samples={n_samples}{without} with "
                f"validation_fraction={self.validation_fraction} leaves "
                f"{max(n_samples - n_validation, 0)} to train on. Give more rows, or "
                "set early_stopping=False."
            )
        order = self._shuffled(n_samples, targets, rng)
        return order[n_validation:], order[:n_validation]

    # Inference, on a copy of the module: the fitted one is never changed.

    @property
    def _reader(self):
        """The fitted transformer whose table reads the rows."""
        return self

    def _validate_rows(self, X):
        """Read rows of the user for the fitted estimator."""
        check_is_fitted(self)
        return read_rows(self, X, self._reader)

    def _run(self, verb, rows, generator=None, cells_per_row=1):
        """Evaluate a method of the module, by its name, on rows in the user's units.

        Parameters
        ----------
        verb : str
        rows : ndarray of shape (n_samples, n_features)
            As `_validate_rows` returns them.
        generator : torch.Generator, optional
            On the CPU, for a method that draws random numbers.
        cells_per_row : int
            As of `skrepr._training._inference.apply`.

        Returns
        -------
        ndarray of the dtype of `rows`
        """
        return run(
            self.module_,
            verb,
            rows,
            self.device_,
            to_matrix=self._reader.table_.to_matrix,
            generator=generator,
            cells_per_row=cells_per_row,
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def read_rows(estimator, X, transformer):
    """Read rows of the user as a fitted transformer does.

    Parameters
    ----------
    estimator : BaseTorchEstimator
        Fitted. X must have its features.
    X : array-like or DataFrame of shape (n_samples, n_features)
    transformer : BaseTorchEstimator
        Fitted. Its table and its module say what the columns may hold.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        Numbers, codes of categories, and NaN where a cell is missing.
    """
    schema = transformer.table_.schema
    X = check_container(estimator, X, reset=False, keep=schema.reads_columns)
    rows = schema.read(X, type(estimator).__name__)
    transformer.module_.check(rows)
    return rows


def check_container(estimator, X, *, reset, keep=False, **checks):
    """Check features and their names; turn what is no DataFrame into an array.

    Parameters
    ----------
    estimator : BaseTorchEstimator
    X : array-like or DataFrame of shape (n_samples, n_features)
    reset : bool
        Whether the estimator is to remember the features, or X must have its own.
    keep : bool
        Whether to leave X as it is, whatever it is.
    **checks : dict
        Options of scikit-learn's `check_array`.

    Returns
    -------
    ndarray of floats or DataFrame
    """
    if keep or is_frame(X):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        return X
    return validate_data(
        estimator,
        X,
        reset=reset,
        dtype=[np.float64, np.float32],
        ensure_all_finite="allow-nan",
        **checks,
    )


def _on_device(matrix, targets, index, device):
    """Put rows and their targets, all or those of an index, onto the device."""
    x, y = (
        values if values is None or index is None else values[index]
        for values in (matrix, targets)
    )
    y = None if y is None else torch.from_numpy(y).to(device)
    return torch.from_numpy(x).to(device), y

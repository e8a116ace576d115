"""What the estimators share: validate, tabulate, build, train, store; and inference.

A transformer adds to `BaseTorchTransformer` its own parameters, ``_build_module`` and
its verbs. Its module is only ever handed rows of the matrix of ``table_``.
"""

import math
from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from skrepr._columns._generation import Condition, Sampler, draw_until
from skrepr._columns._libraries import is_frame
from skrepr._columns._schema import Schema
from skrepr._columns._table import Table
from skrepr._columns._trimming import central_rows
from skrepr._sklearn import Interval, StrOptions, fit_context
from skrepr._training._inference import apply, for_inference, resolve_device
from skrepr._training._loop import Trainer, train
from skrepr._training._random import Seeded, generators
from skrepr._training._samplers import EvenSplit
from skrepr._training._sources import ResidentSource
from skrepr.backbones import Backbone
from skrepr.latent_densities import MOST_CODES, LatentDensity
from skrepr.likelihoods import Likelihood
from skrepr.parts import TakesParts

_N_DRAWN = 10_000  # rows, to learn the quantiles of generated columns from


NEVER_SEEN = 36.0  # squared error of another value in a column that was constant


class BaseTorchEstimator(TakesParts):
    """Base class of whatever trains a torch module: fit, training and inference."""

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

    #: The rows passed to ``fit`` that the training does not count.
    _not_counted = ""

    # What an estimator adds or overrides.

    def _fit(self, *args):
        """Set every fitted attribute; return what `_train` returns."""
        raise NotImplementedError

    def _check_rows(self, X, module):
        """Raise if the module cannot take these values (user's units)."""

    def _shuffled(self, n_samples, y, rng):
        """Return the numbers of the rows, those to validate on first."""
        return rng.permutation(n_samples)

    @property
    def _schema(self):
        """What `fit` has learned of the user's columns."""
        raise NotImplementedError

    def _decay(self, n_samples):
        """Return the weight decay for so many rows."""
        return self.weight_decay

    def _n_auto_steps(self, module):
        """Return the steps that ``max_iter="auto"`` stands for."""
        return self._auto_steps

    def _sampler(self, source):
        """Choose how an epoch of training is cut into batches."""
        return EvenSplit(len(source), self.batch_size)

    # The fit.

    def _fit_or_stay(self, *args):
        """Call `_fit`. If it fails, the estimator is as it was before."""
        before = vars(self).copy()
        try:
            # Whatever the mode torch is in when fit is called.
            with torch.inference_mode(False), torch.enable_grad():
                stopped = self._fit(*args)
        except BaseException:
            self.__dict__ = before
            raise
        if stopped is not None:
            raise stopped
        return self

    def _train(self, module, matrix, y, parts, *, device, generator):
        """Train a module, and set the fitted attributes that tell of the training.

        Parameters
        ----------
        module : torch.nn.Module
            On the CPU.
        matrix : ndarray of shape (n_samples, n_columns), float32
        y : ndarray of shape (n_samples,) or None
        parts : tuple
            What `_split` returned for them.
        device : torch.device
        generator : torch.Generator
            On the device.

        Returns
        -------
        BaseException or None
            What cut the training short after a state worth keeping was found.
        """
        module.to(device, torch.float32)
        training, validation = parts
        source = _source(matrix, y, training, device)
        sampler = self._sampler(source)
        if validation is not None:
            held_out = _source(matrix, y, validation, device)
            validation = held_out, EvenSplit(len(held_out), self.batch_size)
        trainer = Trainer(
            module,
            generator,
            learning_rate=self.learning_rate,
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
            validation=validation,
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

    def _split(self, n_samples, y, rng):
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
        order = self._shuffled(n_samples, y, rng)
        return order[n_validation:], order[:n_validation]

    # Inference, on a copy of the module: the fitted one is never changed.

    def _validate_rows(self, X):
        check_is_fitted(self)
        X = self._read(X, self._schema)[1]
        self._check_rows(X, self.module_)
        return X

    def _read(self, X, schema, y="no_validation", **checks):
        """Read rows of the user into an array, in which NaN is missing.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        schema : Schema or callable
            What is known of the columns, or, to learn it from X, a function of X.
        y : object, optional
            None raises an error where y is required.
        **checks : dict
            Options of scikit-learn's `check_array`.

        Returns
        -------
        schema : Schema
        rows : ndarray of shape (n_samples, n_features)
            Categories are codes.
        """
        reset = not isinstance(schema, Schema)
        y = y if y is None else "no_validation"
        if is_frame(X) or (not reset and schema.reads_columns):
            validate_data(self, X, y, reset=reset, skip_check_array=True)
        else:
            X = validate_data(
                self,
                X,
                y,
                reset=reset,
                dtype=[np.float64, np.float32],
                ensure_all_finite="allow-nan",
                **checks,
            )
        if reset:
            schema = schema(X)
        return schema, schema.read(X, type(self).__name__, **checks)

    def _apply(self, verb, rows, **options):
        """Evaluate a method of the module, by its name, on rows."""
        return self._apply_of(self.module_, verb, rows, **options)

    def _apply_of(self, module, verb, rows, **options):
        module = for_inference(module, self.device_, rows.dtype)
        return apply(module, getattr(module, verb), rows, **options)


class BaseTorchTransformer(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseTorchEstimator
):
    """Base class of the transformers."""

    _part_kinds: dict = {"backbone": Backbone}

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
        "standardize": ["boolean", StrOptions({"quantile"})],
        **BaseTorchEstimator._parameter_constraints,
    }

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Learn the representation.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Training rows, at least two, in any units. NaN, and in a DataFrame also None
            and pandas' NA, is missing; a column may not be missing as a whole. Numbers,
            and categories where ``categorical_features`` says so: by default the
            strings, flags and categories of a DataFrame.
        y : array-like of shape (n_samples,), default=None
            Ignored, save by a `ContrastiveTransformer` with ``positives="labels"``.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X or a y that is used is not as documented, or if the loss
            becomes NaN. The estimator is then as it was before the call; but if
            ``early_stopping`` had found a best epoch before the loss became NaN, it
            keeps that one's weights.
        """
        return self._fit_or_stay(X, y)

    def transform(self, X):
        """Map rows to their codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows. A category that these did not have
            counts as missing.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            Codes, float32 for float32 X, else float64. They are the same for a row, up
            to rounding, whatever rows stand beside it. `set_output` makes it a
            DataFrame.
        """
        X = self._validate_rows(X)
        return self._apply("encode", X, to_matrix=self.table_.to_matrix)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.allow_nan = True
        return tags

    @property
    def _schema(self):
        return self.table_.schema

    @property
    def _n_features_out(self):
        return self.module_.n_components

    # What an estimator adds or overrides.

    def _build_module(self, columns):
        """Build the module for a column layout, with fresh weights."""
        raise NotImplementedError

    def _ids(self, X, y):
        """Return what the module is to know of y: an integer for every row, or None."""

    # The way in: rows of the user to a fitted module.

    def _fit(self, X, y):
        schema, X = self._read(X, self._learn_schema, y, ensure_min_samples=2)
        ids = self._ids(X, y)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        return self._learn(self._trusted(X, schema), X, schema, ids, seed)

    def _learn_schema(self, X):
        return Schema.fit(X, self.categorical_features, type(self).__name__)

    def _trusted(self, X, schema):
        """Return the rows to learn from."""
        return X

    def _learn_table(self, X, schema):
        return Table.fit(X, standardize=self.standardize, schema=schema)

    def _learn(self, X, passed, schema, ids, seed):
        """Set every fitted attribute.

        Parameters
        ----------
        X : ndarray of shape (n_trusted, n_features)
            The rows to learn from.
        passed : ndarray of shape (n_samples, n_features)
            All the rows that the user passed.
        schema : Schema
            What is known of the user's columns.
        ids : ndarray of shape (n_trusted,) or None
            What `_ids` made of y.
        seed : int

        Returns
        -------
        BaseException or None
            What cut the training short after a state worth keeping was found.
        """
        device = resolve_device(self.device)
        table = self._learn_table(X, schema)
        initial, generator, split = generators(seed, device)
        with Seeded(initial), torch.device("cpu"):
            module = self._build_module(table.columns)
        self._check_rows(passed, module)
        self.table_ = table
        return self._train(
            module,
            table.to_matrix(X, np.float32),
            ids,
            self._split(len(X), ids, split),
            device=device,
            generator=generator,
        )


class DecodingTransformer(BaseTorchTransformer):
    """Base class of the transformers that know the way back from codes to rows.

    Their module has a ``likelihood``, ``decode(z)``, and for rows of the matrix
    ``residuals(x)``, of which those of missing cells are NaN, and ``fill(x)``.
    """

    _part_kinds: dict = {
        **BaseTorchTransformer._part_kinds,
        "likelihood": Likelihood,
        "latent_density": LatentDensity,
    }

    _parameter_constraints: dict = {
        **BaseTorchTransformer._parameter_constraints,
        "trim": [Interval(Real, 0, 0.5, closed="both")],
    }

    _not_counted = "the rows that trim leaves out"

    def inverse_transform(self, Z):
        """Map codes back to rows in the user's units.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Codes, as `transform` returns them. A pandas DataFrame passes its index on.

        Returns
        -------
        X : ndarray or DataFrame of shape (n_samples, n_features)
            The expected row of every code, of categories the most probable one, in the
            container the estimator was fitted on (array, pandas or polars), with its
            columns' units, dtypes and categories; integers are rounded. An array is of
            floats. What is expected with ``standardize="quantile"`` are normal scores,
            which then become values: nearer to a median than to a mean. A column that
            was constant in training has its one value. No cell is missing.

        Raises
        ------
        ValueError
            If Z does not have `n_components` columns.
        """
        check_is_fitted(self)
        codes = check_array(Z, dtype=[np.float64, np.float32])
        if codes.shape[1] != self._n_features_out:
            raise ValueError(
                f"Z has {codes.shape[1]} columns, but {type(self).__name__} was fitted "
                f"with n_components={self._n_features_out}. Expected codes as "
                "transform returns them."
            )
        matrix = self._apply("decode", codes)
        return self._to_rows(matrix, codes.dtype, like=Z)

    def reconstruction_error(self, X):
        """Compute how badly every value of a row is reconstructed.

        The columns with the largest errors are those that make a row strange.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        errors : ndarray of shape (n_samples, n_features), float64
            Squared differences between X and its reconstruction, in units of the
            column's variance in the training rows (with ``standardize="quantile"``,
            between their normal scores): 1 is the error of predicting the column's
            mean. In a categorical column they are summed over the levels, of
            which the row has one with certainty and the reconstruction gives the
            probabilities: 1 is the mean error of predicting the frequencies of the
            training rows. Another value in a column that was constant in training
            counts 36, as if it were six standard deviations away. NaN where X is
            missing.
        """
        X = self._validate_rows(X)
        columns = self.table_.columns
        residuals = self._apply("residuals", X, to_matrix=self.table_.to_matrix)
        residuals = residuals.astype(np.float64)
        errors = np.square(residuals / columns.safe_std)
        errors[:, ~columns.varies] = 0.0
        errors[self.table_.differs(X)] = NEVER_SEEN
        errors[np.isnan(X)] = np.nan
        return errors

    def impute(self, X):
        """Fill in what is missing.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        X : ndarray or DataFrame of shape (n_samples, n_features)
            A copy of X, in which cells that were missing have the values that the model
            expects beside the others of their row; a category is the most probable one.
            All other cells are as they were, also a category that the training rows did
            not have. A column of a DataFrame with missing cells takes the dtype that it
            had in training, if that changes none of its cells.
        """
        rows = self._validate_rows(X)
        return self.table_.schema.fill(X, self._restored(self._fill(rows)))

    def sample(self, n_samples=1, *, given=None, random_state=None):
        """Generate new rows.

        Codes are drawn from the latent density and decoded. What is drawn for a numeric
        column then becomes the value that has its rank among the training rows: a
        column of whole numbers has whole numbers, a discrete column values it had, and
        no column leaves its range; columns of counts and flags, by their likelihood,
        are left as they are drawn.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        given : dict, default=None
            Conditions, by the name of a column or, of an array, by its index: a value,
            or a pair (lowest, highest) of values of a numeric column, None for no
            bound. Rows are drawn until enough of them satisfy all conditions. To have a
            given value of a continuous column, rows are taken whose value is within a
            hundredth of the training rows of it, and get the value.
        random_state : int, RandomState instance or None, default=None
            Determines the rows drawn.

        Returns
        -------
        X : ndarray or DataFrame of shape (n_samples, n_features)
            Rows in the user's units, in the container the estimator was fitted on
            (array, pandas or polars) with its dtypes and categories; an array is of
            float64. None of the cells is missing.

        Raises
        ------
        ValueError
            If `n_samples` is not a positive integer, or if a condition is unlike all
            training rows or unlike nearly all rows that are drawn.
        """
        check_is_fitted(self)
        whole = isinstance(n_samples, Integral) and not isinstance(n_samples, bool)
        if not whole or n_samples < 1:
            raise ValueError(
                "n_samples must be a positive integer, the number of rows to draw. Got "
                f"{n_samples!r}."
            )
        if given is not None and not isinstance(given, dict):
            raise ValueError(
                "given must be a dict from columns to values, such as {'age': (18, "
                f"None)}}. Got {given!r}."
            )
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        conditions = [Condition(self.table_, *item) for item in (given or {}).items()]
        X = draw_until(
            partial(self._draw, generator=torch.Generator().manual_seed(seed)),
            int(n_samples),
            conditions,
        )
        return self.table_.schema.write(X)

    def interpolate(self, X_start, X_stop, n_steps=5):
        """Decode the way from rows to other rows along the latent space.

        Parameters
        ----------
        X_start, X_stop : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows. Each row of one is joined to that
            row of the other by a straight line between their codes.
        n_steps : int, default=5
            Number of rows on a way, its two ends included; at least 2.

        Returns
        -------
        X : ndarray or DataFrame of shape (n_samples * n_steps, n_features)
            The expected rows, way after way, as of `inverse_transform`. The ends are
            the reconstructions of the rows.

        Raises
        ------
        ValueError
            If there are not as many rows to start from as to stop at, or `n_steps` is
            not an integer of at least 2.
        """
        start, stop = (
            self._apply("encode", self._validate_rows(X), to_matrix=to_matrix)
            for to_matrix in [self.table_.to_matrix]
            for X in (X_start, X_stop)
        )
        if len(start) != len(stop):
            raise ValueError(
                f"X_start has {len(start)} rows and X_stop {len(stop)}. Expected as "
                "many: each way leads from a row to a row."
            )
        if not isinstance(n_steps, Integral) or n_steps < 2:
            raise ValueError(
                "n_steps must be an integer of at least 2: the rows on a way, its ends "
                f"included. Got {n_steps!r}."
            )
        shares = np.linspace(0, 1, n_steps, dtype=start.dtype)[:, None]
        codes = start[:, None] + shares * (stop - start)[:, None]
        return self._to_rows(
            self._apply("decode", codes.reshape(-1, start.shape[1])), start.dtype
        )

    def _fill(self, rows):
        """Return the rows of the matrix with what is missing filled."""
        return self._apply("fill", rows, to_matrix=self.table_.to_matrix)

    def _draw(self, n_samples, *, generator, restore=True):
        """Generate rows, an ndarray in the user's units; or rows of the matrix."""
        codes = self.sampler_.density.sample(n_samples, generator)
        module = for_inference(self.module_, "cpu", np.float32)
        matrix = apply(module, lambda z: module.sample(z, generator), codes.numpy())
        if not restore:
            return matrix
        table = self.table_
        X = module.likelihood.restore(table.from_matrix(matrix.astype(np.float64)))
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        known = [
            None if own else quantiles
            for own, quantiles in zip(
                table.linear | ~table.varies, table.quantiles, strict=True
            )
        ]
        X = self.sampler_.restore(matrix, X, known, rng)
        categorical = np.flatnonzero(~table.schema.numeric & table.varies)
        if len(categorical) and hasattr(module, "redraw"):
            matrix = table.to_matrix(X, np.float32)
            matrix = apply(module, lambda x: module.redraw(x, generator), matrix)
            X[:, categorical] = matrix[:, categorical]
        return X

    def _learn_to_sample(self, X, seed):
        """Fit the latent density to the codes of training rows, and return these."""
        rng = np.random.default_rng(seed)
        if len(X) > MOST_CODES:
            X = X[rng.choice(len(X), MOST_CODES, replace=False)]
        codes = self._apply("encode", X, to_matrix=self.table_.to_matrix)
        density = self._part("latent_density").build(codes.astype(np.float64), seed)
        self.sampler_ = Sampler(density)
        generator = torch.Generator().manual_seed(seed)
        self.sampler_.learn(self._draw(_N_DRAWN, generator=generator, restore=False))
        return codes

    def _learn(self, X, passed, schema, ids, seed):
        stopped = super()._learn(X, passed, schema, ids, seed)
        with torch.device("cpu"):
            self._learn_to_sample(X, seed)
        return stopped

    def _learn_table(self, X, schema):
        table = Table.fit(
            X, standardize=self.standardize, schema=schema, with_quantiles=True
        )
        linear = table.linear.copy()
        for likelihood, which in self._part("likelihood").groups(table.columns):
            linear[which] = likelihood.in_user_units
        return table.with_linear(linear) if linear.any() else table

    def _trusted(self, X, schema):
        if not self.trim:
            return X
        return X[central_rows(X, self.trim, schema.numeric)]

    def _check_rows(self, X, module):
        module.likelihood.check(X)

    def _to_rows(self, matrix, dtype, like=None):
        """Bring rows of the matrix to the user: units, allowed values, container."""
        X = self._restored(matrix)
        return self.table_.schema.write(X.astype(dtype, copy=False), like)

    def _restored(self, matrix):
        """Bring rows of the matrix into the user's units and to values allowed."""
        return self.module_.likelihood.restore(self.table_.from_matrix(matrix))


def _source(matrix, y, index, device):
    """Put rows, all or those of an index, onto the device."""
    x, y = (
        rows if rows is None or index is None else rows[index] for rows in (matrix, y)
    )
    y = None if y is None else torch.from_numpy(y).to(device)
    return ResidentSource(torch.from_numpy(x).to(device), y)

"""What the transformers share that know the way back from codes to rows."""

from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted

from skrepr._columns._conditions import Condition, draw_until
from skrepr._columns._table import NEVER_SEEN, Table
from skrepr._columns._trimming import central_rows
from skrepr._estimators._base import BaseTorchEstimator
from skrepr._estimators._deferred import Deferred
from skrepr._estimators._encoding import EncodingMixin
from skrepr._estimators._row_generator import RowGenerator, some_rows
from skrepr._sklearn import Interval
from skrepr._training._inference import run
from skrepr.latent_densities import LatentDensity
from skrepr.likelihoods import Likelihood

# Training rows that are kept for what is not asked for yet.
_MAX_KEPT_ROWS = 100_000  # ranks in so many err by 0.002
_MAX_KEPT_BYTES = 2**27


class DecodingTransformer(EncodingMixin, BaseTorchEstimator):
    """Base class of the transformers that know the way back from codes to rows.

    Their module is a `DecodingModule`.
    """

    _part_kinds: dict = {
        **EncodingMixin._part_kinds,
        "likelihood": Likelihood,
        "latent_density": LatentDensity,
    }

    _parameter_constraints: dict = {
        **EncodingMixin._parameter_constraints,
        **BaseTorchEstimator._parameter_constraints,
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
        return self._decode(codes, like=Z)

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
        residuals = self._run("residuals", X)
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
        return self.table_.schema.fill(X, self._to_rows(self._fill(rows)))

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
        generator = self.row_generator_
        conditions = [
            Condition(self.table_, generator.quantiles, column, wanted)
            for column, wanted in (given or {}).items()
        ]
        draw = partial(
            generator.draw,
            network=self.module_,
            table=self.table_,
            generator=torch.Generator().manual_seed(seed),
        )
        X = draw_until(draw, int(n_samples), conditions)
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
            self._run("encode", self._validate_rows(X)) for X in (X_start, X_stop)
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
        return self._decode(codes.reshape(-1, start.shape[1]))

    # The fit.

    def _trusted(self, rows, schema):
        if not self.trim:
            return super()._trusted(rows, schema)
        return central_rows(rows, self.trim, schema.numeric)

    def _learn_reader(self, X, y, rows, schema, random):
        table = Table.fit(rows, standardize=self.standardize, schema=schema)
        linear = table.linear.copy()
        for likelihood, positions in self._part("likelihood").groups(table.columns):
            linear[positions] = likelihood.in_user_units
        self.table_ = table.with_linear(linear) if linear.any() else table

    def _after_training(self, rows, seed):
        max_rows = min(_MAX_KEPT_ROWS, _MAX_KEPT_BYTES // rows[0].nbytes)
        kept = some_rows(rows, max_rows, np.random.default_rng(seed))
        # The rows may be the user's own array, in which anything may be written.
        self._put_off(kept.copy() if kept is rows else kept, seed)

    def _put_off(self, rows, seed):
        """Put off what only some verbs need, and is learned from training rows."""
        self._row_generator = self._deferred(
            RowGenerator.fit, "latent_density", rows, seed
        )

    def _deferred(self, fit, name, rows, seed):
        """Put off what a part is to learn from training rows.

        Parameters
        ----------
        fit : callable
            ``fit(part, network, table, rows, seed, device)``.
        name : str
            The parameter that the part is.
        rows : ndarray of shape (n_samples, n_features)
        seed : int

        Returns
        -------
        Deferred
        """
        # A part of the user's and the parameters of this estimator may change.
        part = clone(self._part(name))
        network, table, device = self.module_, self.table_, self.device_
        return Deferred(partial(fit, part, network, table, rows, seed, device))

    @property
    def row_generator_(self):
        """The density of codes that `sample` draws from, and quantiles."""
        check_is_fitted(self)
        return self._row_generator.get()

    # The way back.

    def _fill(self, rows):
        """Return the rows of the matrix with what is missing filled."""
        return self._run("fill", rows)

    def _decode(self, codes, like=None):
        """Bring codes to the user: their expected rows, like the training rows."""
        rows = self._to_rows(run(self.module_, "decode", codes, self.device_))
        return self.table_.schema.write(rows.astype(codes.dtype, copy=False), like)

    def _to_rows(self, matrix):
        """Bring rows of the matrix into the user's units and to values allowed."""
        return self.module_.likelihood.restore(self.table_.from_matrix(matrix))

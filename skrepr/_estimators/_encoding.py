"""What the transformers share: columns of their own, and codes of rows."""

from numbers import Integral

from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from skrepr._columns._schema import Schema
from skrepr._columns._table import Table
from skrepr._estimators._base import check_container
from skrepr._sklearn import Interval, StrOptions, fit_context
from skrepr.backbones import Backbone


class EncodingMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Mixin of transformers, for a `BaseTorchEstimator`: ``fit`` and ``transform``.

    Their module has ``encode(x)``, for rows of the matrix of ``table_``.
    """

    _part_kinds: dict = {"backbone": Backbone}

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
        "standardize": ["boolean", StrOptions({"quantile"})],
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
            If a parameter, X or a y that is used is not as documented.
        TrainingError
            If the loss becomes NaN.

        Notes
        -----
        After an error the estimator is as it was before the call; but if
        ``early_stopping`` had found a best epoch before the loss became NaN, it keeps
        that one's weights.
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
        return self._run("encode", X)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return self.module_.n_components

    def _read_training_rows(self, X, y):
        X = check_container(self, X, reset=True, ensure_min_samples=2)
        name = type(self).__name__
        schema = Schema.fit(X, self.categorical_features, name)
        rows = schema.read(X, name, ensure_min_samples=2)
        return rows, self._ids(rows, y), schema

    def _ids(self, rows, y):
        """Return an integer for every row, or None if the module needs no y."""

    def _learn_reader(self, X, y, rows, schema, random):
        self.table_ = Table.fit(rows, standardize=self.standardize, schema=schema)

"""Outlier detection with any estimator that scores samples."""

from dataclasses import replace
from numbers import Real

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags, indexable
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skrepr._columns._messages import shortened
from skrepr._estimators._thresholds import automatic_threshold, threshold_of_share
from skrepr._sklearn import (
    HasMethods,
    Interval,
    StrOptions,
    fit_context,
    num_samples,
    safe_indexing,
)

_N_FOLDS = 5  # of the cross-validation that shows whether training scores mislead
_ENOUGH_SCORES = 500  # held out, after which no other fold is fitted
_MAX_ALARMS = 0.015  # share of held-out rows flagged if training scores do not mislead


def _splits_scores(detector):
    """Tell whether the estimator that scores has ``feature_contributions``."""
    return hasattr(scoring_step(detector)[1], "feature_contributions")


class OutlierDetector(OutlierMixin, MetaEstimatorMixin, BaseEstimator):
    """Turn any estimator with ``score_samples`` into an outlier detector.

    The estimator scores rows, the higher the more normal; the detector learns below
    which score a row is an outlier.

    Parameters
    ----------
    estimator : estimator object
        With ``fit`` and ``score_samples``: the autoencoders of this package,
        scikit-learn's PCA, GaussianMixture or KernelDensity, or a Pipeline that ends
        in one of them. A copy of it is fitted. Inside scikit-learn's `FrozenEstimator`
        a fitted estimator stays as it is, and `fit` only sets the threshold.
    contamination : "auto" or float, default="auto"
        The share of the training rows to call outliers, in (0, 0.5]; of new rows it may
        be a larger share, on few rows even all of them, since models score the rows
        they were fitted on too well. With `calibration` or a frozen estimator it is the
        share of the rows that were held out, and of new ones about the same.
        "auto" aims at new rows and assumes that most training rows are normal: see
        Notes.
    calibration : float, default=None
        The share of the training rows to hold out, in (0, 1), drawn at random and the
        same in every fit to as many rows. The estimator is fitted on the others, the
        threshold is set on the held-out scores, and `p_values` compares with them. With
        None the estimator is fitted on all rows, and there are no p-values. With a
        `FrozenEstimator` all rows are held out, whatever the value.

    Attributes
    ----------
    estimator_ : estimator object
        The fitted estimator.
    offset_ : float
        The threshold on `score_samples`.
    calibration_scores_ : ndarray of shape (n_held_out,)
        The held-out scores, in ascending order. Only defined with `calibration` or a
        frozen estimator.
    n_features_in_ : int
        Number of features seen during `fit`. Only defined if the estimator has it.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features seen during `fit`. Only defined if the estimator has them.

    See Also
    --------
    AutoencoderTransformer : Scores rows by their reconstruction.
    VAETransformer : Scores rows by their log-likelihood.

    Notes
    -----
    ``contamination="auto"`` sets the threshold at the 0.25 % quantile of the scores;
    but if clearly more than 0.5 % of the scores lie below the lower fence of their
    skewness-adjusted boxplot, the training rows hold outliers, and the fence takes its
    place. Up to a quarter of the rows may be outliers without moving the fence far.

    Copies of the estimator show whether training scores can be trusted: they are fitted
    by 5-fold cross-validation, as many of the five as give 500 held-out scores. If
    their thresholds flag more than 1.5 % of the rows held out, the threshold is set on
    the held-out scores instead, and `predict` may flag none of the rows that the model
    remembers. A frozen estimator, `calibration`, or fewer than 10 rows, goes without.

    References
    ----------
    Bates, Candès, Lei, Romano and Sesia, "Testing for outliers with conformal
    p-values", Annals of Statistics 51 (2023).

    Hubert and Vandervieren, "An adjusted boxplot for skewed distributions",
    Computational Statistics & Data Analysis 52 (2008).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.mixture import GaussianMixture
    >>> from skrepr import OutlierDetector
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> detector = OutlierDetector(GaussianMixture(random_state=0)).fit(X)
    >>> detector.predict([[0.0, 0.0], [6.0, -6.0]])
    array([ 1, -1])
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "score_samples"])],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "calibration": [Interval(Real, 0, 1, closed="neither"), None],
    }

    def __init__(self, estimator, *, contamination="auto", calibration=None):
        self.estimator = estimator
        self.contamination = contamination
        self.calibration = calibration

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Fit the estimator and set the threshold.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Training rows, passed on to the estimator as they are.
        y : array-like of shape (n_samples,), default=None
            Passed on to the estimator. Outlier labels are never used.

        Returns
        -------
        self : object
            Fitted detector.
        """
        if issparse(X):
            raise TypeError(
                "Sparse data was passed, but OutlierDetector needs dense data. Use "
                "X.toarray() to convert it."
            )
        if num_samples(X) < 2:
            raise ValueError(
                f"Found n_samples = {num_samples(X)}, but OutlierDetector needs at "
                "least 2 rows to set a threshold. Pass more rows to fit."
            )
        held_out = self._held_out(num_samples(X))
        if held_out is None:
            X_train, y_train, X_scored = X, y, X
        else:
            X, y = indexable(X, y)
            X_scored = safe_indexing(X, np.flatnonzero(held_out))
            X_train = safe_indexing(X, np.flatnonzero(~held_out))
            y_train = None if y is None else safe_indexing(y, np.flatnonzero(~held_out))
        estimator = clone(self.estimator).fit(X_train, y_train)
        scores = np.asarray(estimator.score_samples(X_scored), dtype=np.float64)
        if self.contamination != "auto":
            offset = threshold_of_share(scores, self.contamination)
        elif held_out is None and not isinstance(self.estimator, FrozenEstimator):
            offset = self._automatic_offset(scores, X, y)
        else:
            offset = automatic_threshold(scores)
        self.estimator_ = estimator
        self.offset_ = float(offset)
        self.__dict__.pop("calibration_scores_", None)
        if held_out is not None or isinstance(self.estimator, FrozenEstimator):
            self.calibration_scores_ = np.sort(scores)
        return self

    def _held_out(self, n_samples):
        """Tell which rows to hold out, if the estimator is still to be fitted."""
        if self.calibration is None or isinstance(self.estimator, FrozenEstimator):
            return None
        n_held_out = max(1, round(self.calibration * n_samples))
        if n_samples - n_held_out < 2:
            raise ValueError(
                f"calibration={self.calibration} of n_samples = {n_samples} rows "
                f"leaves {n_samples - n_held_out} to fit the estimator on. Expected at "
                "least 2. Pass more rows, or a smaller share."
            )
        held_out = np.full(n_samples, False)
        held_out[np.random.default_rng(0).permutation(n_samples)[:n_held_out]] = True
        return held_out

    def score_samples(self, X):
        """Score rows with the estimator: the higher, the more normal.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows, passed on to the estimator as they are.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            What the estimator's ``score_samples`` returns.
        """
        check_is_fitted(self)
        return self.estimator_.score_samples(X)

    @available_if(_splits_scores)
    def feature_contributions(self, X):
        """Split the scores of rows into contributions of the features.

        There is no such method unless the estimator, or the last step of a Pipeline,
        has it; the autoencoders of this package do. The other steps of a Pipeline may
        change values, as a scaler does, but have to keep the columns.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows, passed on to the estimator as they are.

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_features)
            What the estimator's ``feature_contributions`` returns: the larger, the
            stranger the row is in this feature. Their sum over the features is minus
            `score_samples`.

        Raises
        ------
        ValueError
            If the steps before the last of a Pipeline make other columns of those of X,
            or do not tell which.
        """
        check_is_fitted(self)
        scoring, rows, names = rows_for_scoring(self, X)
        if rows is not X and names != column_names(self, X):
            made = "unknown ones" if names is None else shortened(names)
            raise ValueError(
                "Contributions are those of the columns that "
                f"{type(scoring).__name__} gets, and the steps of the Pipeline before "
                f"it make other columns of X: {made}. Expected steps that keep the "
                "columns and, by get_feature_names_out, their names. For contributions "
                "of the others call estimator_[-1].feature_contributions with "
                "estimator_[:-1].transform(X), or draw those of a row with "
                "skrepr.inspection.FeatureContributionsDisplay."
            )
        return scoring.feature_contributions(rows)

    def decision_function(self, X):
        """Compute how far the scores lie above the threshold.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows, passed on to the estimator as they are.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            ``score_samples(X) - offset_``; negative for outliers.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """Tell inliers from outliers.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows, passed on to the estimator as they are.

        Returns
        -------
        labels : ndarray of shape (n_samples,), int
            1 for inliers, -1 for outliers.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def p_values(self, X):
        """Compute how rarely a normal row scores as low as each row.

        They are conformal p-values: the share of the held-out rows, and the row itself,
        that score no higher than the row. Of new rows like the held-out ones, at most
        5 % have p-values up to 0.05, whatever the model: on average over the choice of
        the held-out rows, and the more of these, the closer to it. No p-value is below
        1 / (n_held_out + 1). Outliers among the held-out rows make them larger.

        They need `calibration` or a frozen estimator. Frozen, it must not have been
        fitted on the rows that the detector was fitted on.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows, passed on to the estimator as they are.

        Returns
        -------
        p_values : ndarray of shape (n_samples,)
            In (0, 1]; the smaller, the stranger the row.

        Raises
        ------
        AttributeError
            If the detector was fitted with neither.
        """
        check_is_fitted(self)
        if not hasattr(self, "calibration_scores_"):
            raise AttributeError(
                "p_values need scores of rows that the estimator was not fitted on, "
                "and this detector was fitted without any. Set calibration to the "
                "share of the training rows to hold out for them, or wrap a fitted "
                "estimator in FrozenEstimator, and fit the detector again."
            )
        scores = self.score_samples(X)
        scores = np.where(np.isnan(scores), -np.inf, scores)
        lower = np.searchsorted(self.calibration_scores_, scores, side="right")
        return (1 + lower) / (1 + len(self.calibration_scores_))

    def _automatic_offset(self, scores, X, y):
        """Set the threshold on training scores, or held-out ones if these mislead."""
        offset = automatic_threshold(scores)
        n_samples = num_samples(X)
        if n_samples < 2 * _N_FOLDS:
            return offset
        X, y = indexable(X, y)
        held_out: list[float] = []
        alarms: list[bool] = []
        folds = KFold(_N_FOLDS, shuffle=True, random_state=0)
        for train, test in folds.split(np.empty(n_samples)):
            if len(held_out) >= _ENOUGH_SCORES:
                break
            X_train, X_test = safe_indexing(X, train), safe_indexing(X, test)
            y_train = None if y is None else safe_indexing(y, train)
            copy = clone(self.estimator).fit(X_train, y_train)
            threshold = automatic_threshold(np.asarray(copy.score_samples(X_train)))
            scores = np.asarray(copy.score_samples(X_test))
            held_out.extend(scores)
            alarms.extend(scores < threshold)
        if np.mean(alarms) > _MAX_ALARMS:
            offset = automatic_threshold(np.asarray(held_out))
        return offset

    @property
    def n_features_in_(self):
        """Number of features seen during `fit`."""
        return self._of_fitted("n_features_in_")

    @property
    def feature_names_in_(self):
        """Names of the features seen during `fit`."""
        return self._of_fitted("feature_names_in_")

    def _of_fitted(self, name):
        """Return an attribute of the fitted estimator, or raise AttributeError."""
        if not hasattr(self, "estimator_"):
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r} before fit."
            )
        return getattr(self.estimator_, name)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # Only what concerns X: the tags of a frozen estimator would switch off checks.
        tags.input_tags = replace(
            get_tags(self.estimator).input_tags,
            sparse=False,
            allow_nan=_allows_nan(self.estimator),
        )
        return tags


def _allows_nan(estimator):
    """Tell whether X may hold NaN: a Pipeline's own tags do not know."""
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps]
        return all(
            _allows_nan(step) for step in steps if step not in (None, "passthrough")
        )
    return get_tags(estimator).input_tags.allow_nan


def scoring_step(estimator):
    """Find what scores rows inside detectors, searches and pipelines.

    Parameters
    ----------
    estimator : estimator object
        Fitted or not.

    Returns
    -------
    steps : list of Pipeline
        What transforms the rows before, one after the other.
    scoring : estimator object
    """
    steps = []
    while True:
        if isinstance(estimator, Pipeline):
            if len(estimator) > 1:
                steps.append(estimator[:-1])
            estimator = estimator[-1]
        elif isinstance(estimator, OutlierDetector):
            estimator = getattr(estimator, "estimator_", estimator.estimator)
        elif hasattr(estimator, "best_estimator_"):  # a search
            estimator = estimator.best_estimator_
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        else:
            return steps, estimator


def rows_for_scoring(estimator, X):
    """Transform rows as pipelines do before the estimator that scores.

    Parameters
    ----------
    estimator : estimator object
        Fitted: as for `scoring_step`.
    X : array-like or DataFrame of shape (n_samples, n_features)

    Returns
    -------
    scoring : estimator object
    rows : array-like or DataFrame of shape (n_samples, n_columns)
        What it gets: X itself, if nothing stands before it.
    names : list of str or None
        Of the columns of `rows`. None if a step does not know them.
    """
    steps, scoring = scoring_step(estimator)
    rows = X
    for step in steps:
        rows = step.transform(rows)
    names = column_names(estimator, X)
    try:
        for step in steps:
            names = [str(name) for name in step.get_feature_names_out(names)]
    except (AttributeError, ValueError):
        fitted_names = getattr(scoring, "feature_names_in_", None)
        names = None if fitted_names is None else list(fitted_names)
    return scoring, rows, names


def column_names(estimator, X):
    """Name the columns of X: as X does, as in the fit, or by their positions."""
    names = getattr(X, "columns", getattr(estimator, "feature_names_in_", None))
    if names is None:
        names = [f"x{j}" for j in range(np.shape(X)[-1])]
    return [str(name) for name in names]

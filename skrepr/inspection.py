"""Plots that explain anomaly scores. They need matplotlib."""

from numbers import Real

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skrepr._columns._missing import is_missing
from skrepr._estimators._outlier_detector import rows_for_scoring
from skrepr._sklearn import safe_indexing

__all__ = [
    "FeatureContributionsDisplay",
    "ScoreDistributionDisplay",
]


class ScoreDistributionDisplay:
    """Histogram of anomaly scores, with the threshold of the detector.

    It is recommended to use `from_estimator` to create one. All parameters are stored
    as attributes.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
        Scores of the rows, the higher, the more normal.
    threshold : float, default=None
        The score below which a row is an outlier, if there is a threshold.
    y : array-like of shape (n_samples,), default=None
        Groups of the rows, such as known labels: a histogram is drawn for each.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the histograms.
    figure_ : matplotlib Figure
        Figure that holds the axes.
    line_ : matplotlib Line2D or None
        The threshold.

    See Also
    --------
    FeatureContributionsDisplay : The features behind the score of a row.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.mixture import GaussianMixture
    >>> from skrepr import OutlierDetector
    >>> from skrepr.inspection import ScoreDistributionDisplay
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> detector = OutlierDetector(GaussianMixture(random_state=0)).fit(X)
    >>> ScoreDistributionDisplay.from_estimator(detector, X)
    <...>
    """

    def __init__(self, *, scores, threshold=None, y=None):
        self.scores = scores
        self.threshold = threshold
        self.y = y

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, ax=None, **kwargs):
        """Score rows and plot the distribution of the scores.

        Parameters
        ----------
        estimator : estimator object
            Fitted, with ``score_samples``. An `OutlierDetector` adds its threshold.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows to score.
        y : array-like of shape (n_samples,), default=None
            Groups of the rows, such as known labels: a histogram is drawn for each.
        ax : matplotlib Axes, default=None
            Axes to plot on. If None, a new figure is made.
        **kwargs : dict
            Passed on to matplotlib's ``hist``.

        Returns
        -------
        display : ScoreDistributionDisplay
            Object that stores what it has plotted.

        Raises
        ------
        TypeError
            If the estimator has no ``score_samples``.
        """
        if not hasattr(estimator, "score_samples"):
            raise TypeError(
                f"{type(estimator).__name__} has no scores. Expected an estimator with "
                "score_samples, such as AutoencoderTransformer or OutlierDetector."
            )
        scores = np.asarray(estimator.score_samples(X), dtype=np.float64)
        threshold = getattr(estimator, "offset_", None)
        return cls(scores=scores, threshold=threshold, y=y).plot(ax=ax, **kwargs)

    def plot(self, *, ax=None, **kwargs):
        """Plot the distribution.

        The scores of far outliers would leave no room for the others. Scores are drawn
        no lower than three spans below the threshold, or below the first quartile if
        that is lower; a span is the distance of the quartiles, or of the threshold from
        the highest score, whichever is larger.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on. If None, a new figure is made.
        **kwargs : dict
            Passed on to matplotlib's ``hist``.

        Returns
        -------
        display : ScoreDistributionDisplay
            This object.
        """
        scores = np.asarray(self.scores)
        finite = scores[np.isfinite(scores)]
        if not len(finite) or np.isnan(scores).any():
            raise ValueError(
                "Scores must not be NaN, and one at least must be finite. Expected "
                "scores as an estimator's score_samples returns them. Pass other rows."
            )
        y = None if self.y is None else np.asarray(self.y).astype(str)
        if y is not None and y.shape != scores.shape:
            raise ValueError(
                f"y has the shape {y.shape}, but there are {len(scores)} rows. "
                "Expected one group for every row of X."
            )
        ax = _axes(type(self).__name__, ax)
        quartile, upper_quartile = np.quantile(finite, [0.25, 0.75])
        span, pivot = upper_quartile - quartile, quartile
        if self.threshold is not None:
            span = max(span, finite.max() - self.threshold)
            pivot = min(pivot, self.threshold)
        lowest = min(max(finite.min(), pivot - 3 * span), finite.max())
        scores = np.clip(scores, lowest, finite.max())
        if y is None:
            groups = {"": scores}
        else:
            groups = {label: scores[y == label] for label in np.unique(y)}
        options = {
            "bins": np.histogram_bin_edges(scores, bins=50),
            "density": self.y is not None,
            "alpha": 0.6 if len(groups) > 1 else 1.0,
            **kwargs,
        }
        for label, values in groups.items():
            ax.hist(values, **{"label": label, **options} if label else options)
        self.line_ = None
        if self.threshold is not None:
            share = np.mean(np.asarray(self.scores) < self.threshold)
            self.line_ = ax.axvline(
                self.threshold,
                color="black",
                linestyle="--",
                label=f"threshold, {share:.1%} below",
            )
        clipped = np.mean(np.asarray(self.scores) < lowest)
        below = f", {clipped:.1%} are lower than shown" if clipped else ""
        ax.set_xlabel(f"score (higher is more normal{below})")
        ax.set_ylabel("density" if options["density"] else "number of rows")
        if self.line_ is not None or self.y is not None:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


class FeatureContributionsDisplay:
    """The features behind the anomaly score of a row, as bars.

    It is recommended to use `from_estimator` to create one. All parameters are stored
    as attributes.

    Parameters
    ----------
    contributions : ndarray of shape (n_features,)
        The larger, the stranger the row is in this feature.
    feature_names : list of str
        Names of the features.
    values : ndarray of shape (n_features,), default=None
        The row, to be written beside the names.
    meaning : str, default="contribution to the anomaly score"
        What the contributions are.
    row : int, default=None
        Position of the row, for the title.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the bars.
    figure_ : matplotlib Figure
        Figure that holds the axes.
    bars_ : matplotlib BarContainer
        The bars, the largest contribution first.

    See Also
    --------
    ScoreDistributionDisplay : The scores of many rows, and the threshold.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.inspection import FeatureContributionsDisplay
    >>> X, y = load_wine(return_X_y=True, as_frame=True)
    >>> autoencoder = AutoencoderTransformer(random_state=0).fit(X[y == 0])
    >>> FeatureContributionsDisplay.from_estimator(autoencoder, X[y == 1])
    <...>
    """

    def __init__(
        self,
        *,
        contributions,
        feature_names,
        values=None,
        meaning="contribution to the anomaly score",
        row=None,
    ):
        self.contributions = contributions
        self.feature_names = feature_names
        self.values = values
        self.meaning = meaning
        self.row = row

    @classmethod
    def from_estimator(
        cls, estimator, X, *, row=None, max_features=10, ax=None, **kwargs
    ):
        """Explain the score of one row.

        Parameters
        ----------
        estimator : estimator object
            Fitted, with ``feature_contributions``, such as an `AutoencoderTransformer`
            or a `VAETransformer`; a Pipeline that ends in one of them, explained in the
            features the last step gets and in their units; or an `OutlierDetector` or a
            search with cross-validation around any of these.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows.
        row : int, default=None
            Position of the row to explain. By default the row with the lowest score.
        max_features : int, default=10
            Features to show at most; the others share one bar.
        ax : matplotlib Axes, default=None
            Axes to plot on. If None, a new figure is made.
        **kwargs : dict
            Passed on to matplotlib's ``barh``.

        Returns
        -------
        display : FeatureContributionsDisplay
            Object that stores what it has plotted.
        """
        check_is_fitted(estimator)
        if row is None:
            row = int(np.argmin(estimator.score_samples(X)))
        elif not isinstance(row, int | np.integer) or not 0 <= row < len(X):
            raise ValueError(
                f"row={row} is not a position in X, which has {len(X)} rows. Expected "
                f"an integer from 0 to {len(X) - 1}. To look a label of the index up, "
                "use X.index.get_loc(label)."
            )
        X = safe_indexing(X if hasattr(X, "columns") else np.asarray(X), [row])
        scoring, X, names = rows_for_scoring(estimator, X)
        if not hasattr(scoring, "feature_contributions"):
            raise TypeError(
                f"{type(scoring).__name__} does not tell what features contribute. "
                "Expected an estimator with feature_contributions, such as "
                "AutoencoderTransformer, alone or in a Pipeline or an OutlierDetector."
            )
        values = np.asarray(X)[0]
        display = cls(
            contributions=scoring.feature_contributions(X)[0],
            feature_names=names or [f"x{j}" for j in range(len(values))],
            values=values,
            row=row,
        )
        return display.plot(max_features=max_features, ax=ax, **kwargs)

    def plot(self, *, max_features=10, ax=None, **kwargs):
        """Plot the largest contributions.

        Parameters
        ----------
        max_features : int, default=10
            Features to show at most; the others share one bar.
        ax : matplotlib Axes, default=None
            Axes to plot on. If None, a new figure is made.
        **kwargs : dict
            Passed on to matplotlib's ``barh``.

        Returns
        -------
        display : FeatureContributionsDisplay
            This object.
        """
        if not isinstance(max_features, int | np.integer) or max_features < 1:
            raise ValueError(
                f"max_features={max_features!r} is not a number of features. Expected "
                "a positive integer; one that is large enough shows all of them."
            )
        ax = _axes(type(self).__name__, ax)
        contributions = np.asarray(self.contributions)
        order = np.argsort(-contributions, kind="stable")
        features, others = order[:max_features], order[max_features:]
        widths = list(contributions[features])
        labels = [self.feature_names[j] for j in features]
        if self.values is not None:
            labels = [
                f"{label} = {_written(self.values[j])}"
                for label, j in zip(labels, features, strict=True)
            ]
        if len(others):
            widths.append(contributions[others].sum())
            labels.append(f"the other {len(others)}")
        positions = np.arange(len(widths))
        self.bars_ = ax.barh(positions, widths, **kwargs)
        ax.set_yticks(positions, labels)
        ax.invert_yaxis()
        ax.set_xlabel(self.meaning)
        which = "" if self.row is None else f"row {self.row}: "
        ax.set_title(f"{which}{contributions.sum():.3g} in all")
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _written(value):
    """Write a value of a table: whole numbers, such as codes and times, in full."""
    if is_missing(value):
        return "missing"
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    number = float(value)
    if number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    return f"{number:.4g}"


def _axes(name, ax):
    """Return axes to plot on, or say that matplotlib is missing."""
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{name} needs matplotlib, which is not installed. Install it with "
            "pip install 'skrepr[plot]' or pip install matplotlib."
        ) from error
    # Names of features are long: the layout makes room for them.
    return plt.subplots(layout="constrained")[1] if ax is None else ax

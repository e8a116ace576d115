"""Fine-tuning for numbers."""

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.utils import check_array

from skrepr._columns._schema import Schema
from skrepr._columns._table import Table
from skrepr._estimators._fine_tuned import BaseFineTuned, FineTunedRegressorModule
from skrepr._sklearn import StrOptions

_MAX_TARGET = 1e150  # its square is a float64
_DECAY = 0.45  # with weight_decay="auto" a step's decay is 0.45 / n_rows at its peak
_MIN_RATE = 3e-4  # learning rate below which steps decay less, as they learn less
_MIN_ROWS = 50  # fewer count as many: their decay would leave nothing of the weights


class FineTunedRegressor(RegressorMixin, BaseFineTuned):
    """Regressor that fine-tunes a pre-trained encoder: for tables where y is scarce.

    A transformer first learns to represent all rows given to `fit`, those with a
    missing y included. A linear map is then put on a copy of its encoder: first it
    becomes a ridge regression on the codes as they are, then both are trained on the
    rows with a y to minimise the squared error.

    Parameters
    ----------
    transformer : transformer object
        An `AutoencoderTransformer`, `VAETransformer` or `ContrastiveTransformer`. A
        copy of it is fitted, whether or not it has been fitted before. Inside
        scikit-learn's `FrozenEstimator` a fitted one is taken as it is: it has been
        trained on other rows, and `fit` only fine-tunes a copy of its encoder.
    augmentation : str, Augmentation, callable or None, default=None
        Random change of the encoder's input during the fine-tuning, see
        :mod:`skrepr.augmentations`. y stays what it is: "mixup" draws
        predictions towards the mean.
    max_iter : int or "auto", default="auto"
        Number of epochs of the fine-tuning. "auto" takes as many as give 300 steps,
        at least one.
    batch_size : int, default=256
        Largest number of rows in a step. An epoch is split evenly.
    learning_rate : float, default=3e-4
        Peak learning rate of AdamW: it rises during the first tenth of the steps and
        falls to zero along a cosine.
    weight_decay : float or "auto", default="auto"
        Decoupled weight decay of the weight matrices. With "auto" a step takes up to
        0.45 / n of their size, n being the number of rows with a y or 50 if there are
        fewer: what few rows say of the weights counts less beside it.
    early_stopping : bool, default=False
        Whether to stop when the loss on a validation split of the rows with a y no
        longer improves, and to keep the weights of the best epoch.
    validation_fraction : float, default=0.1
        Share of the rows with a y held out when ``early_stopping=True``; at least two
        rows.
    n_iter_no_change : int or "auto", default="auto"
        Epochs without improvement after which early stopping ends the fit. "auto" is a
        tenth of the epochs, at least 10.
    tol : float, default=1e-4
        Decrease of the validation loss that counts as an improvement.
    device : str, default="auto"
        Where to fine-tune: "cpu", "cuda", "cuda:1", "mps", ... "auto" takes a GPU if
        there is one. The transformer has a parameter of its own.
    random_state : int, RandomState instance or None, default=None
        Determines order of rows, augmentation and validation split, and seeds the
        transformer if the `random_state` of that is None. Pass an int for the same
        result every time. No global random state is changed (None draws from NumPy's,
        as everywhere in scikit-learn).
    verbose : int, default=0
        1 shows a progress bar, 2 prints a line per epoch.

    Attributes
    ----------
    transformer_ : transformer object
        The pre-trained transformer. Fine-tuning does not change it.
    history_ : dict of str to list of float
        Per epoch: "loss" and "squared_error", which are the same, in units of the
        variance of y; with early stopping also "validation_loss" and
        "validation_squared_error".
    n_iter_ : int
        Number of epochs run.
    module_ : torch.nn.Module
        The fine-tuned encoder and the head: on the CPU, float32, in eval mode.
    target_table_ : Table
        Mean and scale of y; ``target_table_.get_state()`` is JSON-able.
    device_ : str
        Device the network was fine-tuned on.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features seen during `fit`, if all were strings.

    See Also
    --------
    FineTunedClassifier : The same for classes.
    AutoencoderTransformer : Learns codes without y.

    Notes
    -----
    A fitted transformer that is not frozen is fitted anew, as in all of scikit-learn:
    `clone`, which every search and cross-validation calls, would lose its fit.

    Scores need a y for every row. To search for parameters where most rows have none,
    fit a transformer on all rows, freeze it, and search on the others.

    References
    ----------
    Erhan, Bengio, Courville, Manzagol, Vincent and Bengio, "Why Does Unsupervised
    Pre-training Help Deep Learning?", Journal of Machine Learning Research 11 (2010).

    Rubachev, Alekberov, Gorishniy and Babenko, "Revisiting Pretraining Objectives for
    Tabular Deep Learning", arXiv 2207.03208 (2022).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from skrepr import AutoencoderTransformer, FineTunedRegressor
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> few = y.where(np.arange(len(y)) % 4 == 0)  # the other values are missing
    >>> regressor = FineTunedRegressor(
    ...     AutoencoderTransformer(n_components=8, max_iter=20),
    ...     max_iter=100,
    ...     random_state=0,
    ... )
    >>> bool(regressor.fit(X, few).score(X, y) > 0.2)
    True
    """

    _module_type = FineTunedRegressorModule
    _auto_steps = 300  # noise in y is learned by heart after that

    _parameter_constraints: dict = {
        **BaseFineTuned._parameter_constraints,
        "weight_decay": [
            *BaseFineTuned._parameter_constraints["weight_decay"],
            StrOptions({"auto"}),
        ],
    }

    def __init__(
        self,
        transformer,
        *,
        augmentation=None,
        max_iter="auto",
        batch_size=256,
        learning_rate=3e-4,
        weight_decay="auto",
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change="auto",
        tol=1e-4,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.transformer = transformer
        self.augmentation = augmentation
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _decay(self, n_samples):
        if self.weight_decay == "auto":
            rate = max(self.learning_rate, _MIN_RATE)
            return _DECAY / (rate * max(n_samples, _MIN_ROWS))
        return self.weight_decay

    def _learn_targets(self, labels):
        if labels.dtype.kind not in "biuf":
            raise ValueError(
                f"y has dtype {labels.dtype}. Expected numbers. Turn dates into "
                "numbers, for example with .astype('int64'); classes are for "
                "FineTunedClassifier."
            )
        y = check_array(labels, dtype=np.float64, ensure_2d=False, input_name="y")
        largest = np.abs(y).max()
        if largest > _MAX_TARGET:
            raise ValueError(
                f"y holds values up to {largest:.1e}, too large to compute with. "
                f"Expected values below {_MAX_TARGET:.0e}. Rescale y or take its "
                "logarithm."
            )
        column = y[:, None]
        schema = Schema.fit(column, None, type(self).__name__)
        self.target_table_ = Table.fit(column, standardize=True, schema=schema)
        return self.target_table_.to_matrix(column, np.float32)[:, 0]

    @property
    def _n_outputs(self):
        return 1

    def _probe(self, codes, targets):
        model = Ridge().fit(codes, targets)
        return model.coef_[None], np.array([model.intercept_])

    def predict(self, X):
        """Predict y.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        y : ndarray of shape (n_samples,), float64
            In the units of the training y.
        """
        matrix = self._output(X)
        return self.target_table_.from_matrix(matrix)[:, 0]

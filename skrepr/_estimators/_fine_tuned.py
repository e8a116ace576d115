"""Fine-tuning: a head on a pre-trained encoder, and both trained on labels."""

import copy

import numpy as np
import torch
from scipy.special import log_softmax, softmax
from sklearn.base import ClassifierMixin, MetaEstimatorMixin, RegressorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional as F

from skrepr._columns._labels import check_labels, encode_classes, stratified
from skrepr._columns._schema import Schema
from skrepr._columns._table import Table
from skrepr._estimators._base import BaseTorchEstimator, BaseTorchTransformer
from skrepr._sklearn import StrOptions, fit_context
from skrepr._training._inference import resolve_device
from skrepr._training._random import Seeded, generators
from skrepr.augmentations import Augmentation

_LARGEST_TARGET = 1e150  # its square is a float64


_MOST_ROWS = 10_000  # that the head starts from


_DECAY = 0.45  # of the weights of a regression in a step, times rows


class HeadModule(nn.Module):
    """A linear map of the standardised code.

    Parameters
    ----------
    mean, std : ndarray of shape (n_components,)
        Of the codes.
    weight : ndarray of shape (n_outputs, n_components)
    bias : ndarray of shape (n_outputs,)
        Where the training of the map starts.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean, std, weight, bias):
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("std", torch.from_numpy(std).float())
        linear = nn.Linear(*weight.shape[::-1])
        linear.weight.data = torch.from_numpy(weight).float()
        linear.bias.data = torch.from_numpy(bias).float()
        self.layers = nn.Sequential(linear)  # which a Stack can compute

    def forward(self, code):
        return self.layers((code - self.mean) / self.std)


class FineTunedModule(nn.Module):
    """An encoder, of whose output the first columns are the code, and a head on it."""

    warmup = 0.0

    def __init__(self, encoder, head, augment, n_components):
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.augment = augment
        self.n_components = n_components

    def output(self, x):
        """Return the outputs of the head, shape (n, n_outputs)."""
        return self.head(self.encoder(x)[:, : self.n_components])

    def loss(self, batch):
        x = batch.x
        if self.training and self.augment is not None:
            x = self.augment(x, batch.generator, self.ids(batch.y))
        return self.terms(self.output(x), batch.y)

    def ids(self, y):
        """Tell the augmentation which rows belong together: integers (n,) or None."""
        return None

    def terms(self, output, y):
        """Return the named terms of the loss, which sum to it."""
        raise NotImplementedError

    def after_step(self):
        pass


class FineTunedClassifierModule(FineTunedModule):
    """Outputs are the logits of the classes, y their numbers."""

    def ids(self, y):
        return y

    def terms(self, output, y):
        return {"cross_entropy": F.cross_entropy(output, y)}


class FineTunedRegressorModule(FineTunedModule):
    """The single output predicts the standardised target."""

    def terms(self, output, y):
        return {"squared_error": F.mse_loss(output[:, 0], y)}


class BaseFineTuned(MetaEstimatorMixin, BaseTorchEstimator):
    """Base class of the estimators that fine-tune the encoder of a transformer."""

    _part_kinds: dict = {"augmentation": Augmentation}
    _optional_parts = frozenset({"augmentation"})

    _parameter_constraints: dict = {
        "transformer": "no_validation",  # in _pretrained
        **BaseTorchEstimator._parameter_constraints,
    }

    _not_counted = "those with a missing y"

    unlabelled: object = None  # of targets that are not classes

    _module_type: type[FineTunedModule]

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y):
        """Pre-train the transformer, if it is not frozen, and fine-tune its encoder.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, in any units. The transformer gets them as they are.
        y : array-like of shape (n_samples,)
            What to predict. Rows where it is missing (NaN, None, pandas' NA) only take
            part in the pre-training.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X or y is not as documented, or if the loss becomes NaN. The
            estimator is then as it was before the call; but if ``early_stopping`` had
            found a best epoch before the loss became NaN, it keeps that one's weights.
        """
        return self._fit_or_stay(X, y)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    # What the two estimators add.

    def _learn_targets(self, labels):
        """Return what the module is to predict."""
        raise NotImplementedError

    def _probe(self, codes, targets):
        """Return weights (n_outputs, n_components) and biases of a linear model."""
        raise NotImplementedError

    # The fit.

    def _fit(self, X, y):
        name = type(self).__name__
        if y is None:
            raise ValueError(
                f"{name} requires y to be passed, but the target y is None. Expected "
                "one value a row; those of rows to pre-train on only may be missing."
            )
        source, is_frozen = self._source()

        def learn_schema(X):
            if is_frozen:
                return source._schema
            return Schema.fit(X, source.categorical_features, name)

        rows = self._read(X, learn_schema)[1]
        labels, missing = check_labels(rows, y, self.unlabelled)
        targets = self._learn_targets(labels)
        device = resolve_device(self.device)
        random = check_random_state(self.random_state)
        initial, generator, split = generators(random.randint(2**31 - 1), device)

        if self.unlabelled is not None:  # which the transformer need not know
            y = np.full(len(rows), None)
            y[~missing] = labels
        transformer = self._pretrained(source, is_frozen, X, y, random)
        matrix = transformer.table_.to_matrix(rows[~missing], np.float32)
        if len(matrix) == 1 and not self.early_stopping:
            # Batch normalisation needs two rows. The means stay what they are.
            matrix, targets = matrix.repeat(2, axis=0), targets.repeat(2)
        parts = self._split(len(matrix), targets, split)
        probed = slice(None) if parts[0] is None else parts[0]
        start = self._start(transformer, matrix[probed], targets[probed])
        with Seeded(initial), torch.device("cpu"):
            module = self._build_module(transformer, start)
        self.transformer_ = transformer
        return self._train(
            module, matrix, targets, parts, device=device, generator=generator
        )

    def _source(self):
        """Return the transformer that was passed, and whether it is frozen."""
        frozen = isinstance(self.transformer, FrozenEstimator)
        transformer = self.transformer.estimator if frozen else self.transformer
        if not isinstance(transformer, BaseTorchTransformer):
            raise ValueError(
                f"The 'transformer' parameter of {type(self).__name__} must be an "
                "AutoencoderTransformer, a VAETransformer, a ContrastiveTransformer or "
                f"a FrozenEstimator of a fitted one. Got {self.transformer!r} instead."
            )
        if frozen:
            check_is_fitted(transformer)
        return transformer, frozen

    def _pretrained(self, transformer, is_frozen, X, y, random):
        """Return the transformer, fitted."""
        if is_frozen:
            transformer._validate_rows(X)
            return copy.copy(transformer)  # which another fit of it leaves alone
        transformer = clone(transformer)
        if transformer.random_state is None:
            transformer.set_params(random_state=random.randint(2**31 - 1))
        return transformer.fit(X, y)

    def _start(self, transformer, matrix, targets):
        """Return what the head starts from: a linear model of the codes as they are.

        A head that knew nothing would spoil the encoder before it has learned.
        """
        if len(matrix) > _MOST_ROWS:
            some = np.random.default_rng(0).permutation(len(matrix))[:_MOST_ROWS]
            matrix, targets = matrix[some], targets[some]
        codes = transformer._apply("encode", matrix).astype(np.float64)
        mean, std = codes.mean(axis=0), codes.std(axis=0)
        std[std == 0] = 1.0
        return mean, std, *self._probe((codes - mean) / std, targets)

    def _build_module(self, transformer, start):
        augment = self._part("augmentation")
        columns, pretrained = transformer.table_.columns, transformer.module_
        return self._module_type(
            copy.deepcopy(pretrained.encoder).requires_grad_(True),
            HeadModule(*start),
            None if augment is None else augment.build(columns),
            pretrained.n_components,
        )

    # Inference.

    @property
    def _schema(self):
        return self.transformer_._schema

    def _check_rows(self, X, module):
        self.transformer_._check_rows(X, self.transformer_.module_)

    def _output(self, X):
        """Return the outputs of the head for rows of the user, in float64."""
        X = self._validate_rows(X)
        to_matrix = self.transformer_.table_.to_matrix
        return self._apply("output", X, to_matrix=to_matrix).astype(np.float64)


class FineTunedClassifier(ClassifierMixin, BaseFineTuned):
    """Classifier that fine-tunes a pre-trained encoder: for tables with few labels.

    A transformer first learns to represent all rows given to `fit`, those with a
    missing label included, and without labels unless it asks for them. A linear map is
    then put on a copy of its encoder: first it becomes a logistic regression on the
    codes as they are, then both are trained on the labelled rows to minimise the
    cross-entropy.

    Parameters
    ----------
    transformer : transformer object
        An `AutoencoderTransformer`, `VAETransformer` or `ContrastiveTransformer`. A
        copy of it is fitted, whether or not it has been fitted before. Inside
        scikit-learn's `FrozenEstimator` a fitted one is taken as it is: it has been
        trained on other rows, and `fit` only fine-tunes a copy of its encoder.
    unlabelled : object, default=None
        A value of y that also stands for a missing one, such as scikit-learn's -1.
        With None, -1 is a label like any other.
    augmentation : {"feature_corruption", "gaussian_noise", "feature_masking", \
            "mixup"}, Augmentation, callable or None, default=None
        Random change of the encoder's input during the fine-tuning, see
        :class:`~skrepr.augmentations.Augmentation`.
    max_iter : int or "auto", default="auto"
        Number of epochs of the fine-tuning. "auto" takes as many as give 1000 steps,
        at least one.
    batch_size : int, default=256
        Largest number of rows in a step. An epoch is split evenly.
    learning_rate : float, default=3e-4
        Peak learning rate of AdamW: it rises during the first tenth of the steps and
        falls to zero along a cosine.
    weight_decay : float, default=0.0
        Decoupled weight decay of the weight matrices.
    early_stopping : bool, default=False
        Whether to stop when the loss on a validation split of the labelled rows no
        longer improves, and to keep the weights of the best epoch.
    validation_fraction : float, default=0.1
        Share of the labelled rows held out when ``early_stopping=True``; at least two
        rows. The classes have their shares of them, as far as possible.
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
    classes_ : ndarray of shape (n_classes,)
        The labels, in ascending order.
    transformer_ : transformer object
        The pre-trained transformer. Fine-tuning does not change it.
    history_ : dict of str to list of float
        Per epoch: "loss" and "cross_entropy", which are the same; with early stopping
        also "validation_loss" and "validation_cross_entropy".
    n_iter_ : int
        Number of epochs run.
    module_ : torch.nn.Module
        The fine-tuned encoder and the head: on the CPU, float32, in eval mode.
    device_ : str
        Device the network was fine-tuned on.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features seen during `fit`, if all were strings.

    See Also
    --------
    FineTunedRegressor : The same for numbers.
    ContrastiveTransformer : Learns codes without labels.

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
    >>> from sklearn.datasets import load_wine
    >>> from skrepr import ContrastiveTransformer, FineTunedClassifier
    >>> X, y = load_wine(return_X_y=True, as_frame=True)
    >>> few = y.where(np.arange(len(y)) % 10 == 0)  # the other labels are missing
    >>> classifier = FineTunedClassifier(
    ...     ContrastiveTransformer(n_components=4, max_iter=20),
    ...     max_iter=50,
    ...     random_state=0,
    ... )
    >>> bool(classifier.fit(X, few).score(X, y) > 0.8)
    True
    """

    _module_type = FineTunedClassifierModule

    _parameter_constraints: dict = {
        **BaseFineTuned._parameter_constraints,
        "unlabelled": "no_validation",
    }

    def __init__(
        self,
        transformer,
        *,
        unlabelled=None,
        augmentation=None,
        max_iter="auto",
        batch_size=256,
        learning_rate=3e-4,
        weight_decay=0.0,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change="auto",
        tol=1e-4,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.transformer = transformer
        self.unlabelled = unlabelled
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

    def _learn_targets(self, labels):
        self.classes_, numbers = encode_classes(labels)
        return numbers

    def _probe(self, codes, targets):
        n_classes = len(self.classes_)
        weight, bias = np.zeros((n_classes, codes.shape[1])), np.zeros(n_classes)
        present = np.unique(targets)
        if len(present) == 1:
            bias[present] = 1.0
            return weight, bias
        model = LogisticRegression(max_iter=10_000).fit(codes, targets)
        bias[:] = model.intercept_.min() - 1.0  # of classes that are absent
        if len(present) == 2:  # the logits of the second, to be shared out
            weight[present] = 0.5 * np.array([-1, 1])[:, None] * model.coef_
            bias[:] = -0.5 * abs(model.intercept_[0]) - 1.0
            bias[present] = 0.5 * np.array([-1, 1]) * model.intercept_
        else:
            weight[present], bias[present] = model.coef_, model.intercept_
        return weight, bias

    def _shuffled(self, n_samples, y, rng):
        return stratified(super()._shuffled(n_samples, y, rng), y)

    def decision_function(self, X):
        """Compute how much speaks for each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes), float64
            The logits of the classes, whose softmax are the probabilities; of two
            classes only the log-odds of the second.
        """
        logits = self._output(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict(self, X):
        """Predict the most probable class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Values of `classes_`.
        """
        numbers = self._output(X).argmax(axis=1)
        return self.classes_[numbers]

    def predict_proba(self, X):
        """Compute the probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes), float64
            In the order of `classes_`.
        """
        return softmax(self._output(X), axis=1)

    def predict_log_proba(self, X):
        """Compute the logarithms of the probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes), float64
            In the order of `classes_`. They are finite.
        """
        return log_softmax(self._output(X), axis=1)


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
    augmentation : {"feature_corruption", "gaussian_noise", "feature_masking", \
            "mixup"}, Augmentation, callable or None, default=None
        Random change of the encoder's input during the fine-tuning, see
        :class:`~skrepr.augmentations.Augmentation`. y stays what it is: "mixup" draws
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
        What is known of y; ``target_table_.get_state()`` is JSON-able.
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
            rate = max(self.learning_rate, 3e-4)  # smaller steps decay less
            return _DECAY / (rate * max(n_samples, 50))
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
        if largest > _LARGEST_TARGET:
            raise ValueError(
                f"y holds values up to {largest:.1e}, too large to compute with. "
                f"Expected values below {_LARGEST_TARGET:.0e}. Rescale y or take its "
                "logarithm."
            )
        column = y[:, None]
        schema = Schema.fit(column, None, type(self).__name__)
        self.target_table_ = Table.fit(column, standardize=True, schema=schema)
        return self.target_table_.to_matrix(column, np.float32)[:, 0]

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

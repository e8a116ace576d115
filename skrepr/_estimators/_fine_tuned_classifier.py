"""Fine-tuning for classes."""

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression

from skrepr._columns._labels import encode_classes, stratified
from skrepr._estimators._fine_tuned import BaseFineTuned, FineTunedClassifierModule


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
    augmentation : str, Augmentation, callable or None, default=None
        Random change of the encoder's input during the fine-tuning, see
        :mod:`skrepr.augmentations`.
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
        self.classes_, ids = encode_classes(labels)
        return ids

    @property
    def _n_outputs(self):
        return len(self.classes_)

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

    def _shuffled(self, n_samples, ids, rng):
        return stratified(super()._shuffled(n_samples, ids, rng), ids)

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
        output = self._output(X)
        return self.classes_[output.argmax(axis=1)]

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

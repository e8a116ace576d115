"""Fine-tuning: a head on a pre-trained encoder, and both trained on labels."""

import copy

import numpy as np
import torch
from sklearn.base import MetaEstimatorMixin, clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional as F

from skrepr._columns._labels import are_unlabelled, check_labels
from skrepr._columns._schema import Schema
from skrepr._estimators._base import BaseTorchEstimator, check_container, read_rows
from skrepr._estimators._encoding import EncodingMixin
from skrepr._sklearn import fit_context
from skrepr._training._inference import run
from skrepr._training._module import TrainableModule
from skrepr.augmentations import Augmentation
from skrepr.augmentations._base import build_augmentation

_MAX_PROBED = 10_000  # rows that the start of the head is learned from


class HeadModule(nn.Module):
    """A linear map of the standardised code."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, n_components, n_outputs):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_components))
        self.register_buffer("std", torch.ones(n_components))
        linear = nn.Linear(n_components, n_outputs)
        self.layers = nn.Sequential(linear)  # which a Stack can compute

    def start(self, mean, std, weight, bias):
        """Set where training starts.

        Parameters
        ----------
        mean, std : ndarray of shape (n_components,)
            Of the codes.
        weight : ndarray of shape (n_outputs, n_components)
        bias : ndarray of shape (n_outputs,)
        """
        linear = self.layers[0]
        self.mean, self.std, linear.weight.data, linear.bias.data = (
            torch.from_numpy(values).float() for values in (mean, std, weight, bias)
        )

    def forward(self, code):
        return self.layers((code - self.mean) / self.std)


class FineTunedModule(TrainableModule):
    """An encoder, of whose output the first columns are the code, and a head on it."""

    def __init__(self, encoder, head, augment, n_components):
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.augment = augment
        self.n_components = n_components

    def encode(self, x):
        return self.encoder(x)[:, : self.n_components]

    def output(self, x):
        """Return the outputs of the head, shape (n, n_outputs)."""
        return self.head(self.encode(x))

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


class FineTunedClassifierModule(FineTunedModule):
    """Outputs are the logits of the classes, y their ids."""

    def ids(self, y):
        return y

    def terms(self, output, y):
        return {"cross_entropy": F.cross_entropy(output, y)}


class FineTunedRegressorModule(FineTunedModule):
    """The single output predicts the standardised target."""

    def terms(self, output, y):
        return {"squared_error": F.mse_loss(output[:, 0], y)}


class BaseFineTuned(MetaEstimatorMixin, BaseTorchEstimator):
    """Base class of the estimators that fine-tune the encoder of a transformer.

    Of the transformer they use its fitted attributes, and rows as it reads them.
    """

    _part_kinds: dict = {"augmentation": Augmentation}
    _optional_parts = frozenset({"augmentation"})

    _parameter_constraints: dict = {
        "transformer": "no_validation",  # in _validate_params
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
            If a parameter, X or y is not as documented.
        TrainingError
            If the loss becomes NaN.

        Notes
        -----
        After an error the estimator is as it was before the call; but if
        ``early_stopping`` had found a best epoch before the loss became NaN, it keeps
        that one's weights.
        """
        return self._fit_or_stay(X, y)

    # What the two estimators add.

    def _learn_targets(self, labels):
        """Return what the module is to predict."""
        raise NotImplementedError

    @property
    def _n_outputs(self):
        """The number of outputs of the head, once the targets are learned."""
        raise NotImplementedError

    def _probe(self, codes, targets):
        """Return weights (n_outputs, n_components) and biases of a linear model."""
        raise NotImplementedError

    # The fit.

    def _validate_params(self):
        super()._validate_params()
        transformer, is_frozen = self._source()
        if not is_frozen:
            transformer._validate_params()

    def _source(self):
        """Return the transformer that was passed, and whether it is frozen."""
        is_frozen = isinstance(self.transformer, FrozenEstimator)
        transformer = self.transformer.estimator if is_frozen else self.transformer
        if not isinstance(transformer, EncodingMixin):
            raise ValueError(
                f"The 'transformer' parameter of {type(self).__name__} must be an "
                "AutoencoderTransformer, a VAETransformer, a ContrastiveTransformer or "
                f"a FrozenEstimator of a fitted one. Got {self.transformer!r} instead."
            )
        if is_frozen:
            check_is_fitted(transformer)
        return transformer, is_frozen

    def _read_training_rows(self, X, y):
        name = type(self).__name__
        if y is None:
            raise ValueError(
                f"{name} requires y to be passed, but the target y is None. Expected "
                "one value a row; those of rows to pre-train on only may be missing."
            )
        source, is_frozen = self._source()
        X = check_container(self, X, reset=True)
        if is_frozen:
            schema = source.table_.schema
            rows = read_rows(source, X, source)
        else:
            schema = Schema.fit(X, source.categorical_features, name)
            rows = schema.read(X, name)
        labels, missing = check_labels(rows, y, self.unlabelled)
        rows, targets = rows[~missing], self._learn_targets(labels)
        if len(rows) == 1 and not self.early_stopping:
            # Batch normalisation needs two rows. The means stay what they are.
            rows, targets = rows.repeat(2, axis=0), targets.repeat(2)
        return rows, targets, schema

    def _learn_reader(self, X, y, rows, schema, random):
        """Pre-train the transformer, whose table it is."""
        transformer, is_frozen = self._source()
        if is_frozen:
            self.transformer_ = copy.copy(transformer)  # another fit leaves it alone
            return
        if self.unlabelled is not None:  # which the transformer need not know
            y = np.array(y, dtype=object).ravel()
            y[are_unlabelled(y, self.unlabelled)] = None
        transformer = clone(transformer)
        if transformer.random_state is None:
            transformer.set_params(random_state=random.randint(2**31 - 1))
        self.transformer_ = transformer.fit(X, y)

    def _build_module(self, columns):
        augment, pretrained = self._part("augmentation"), self.transformer_.module_
        ids = torch.arange(2) if is_classifier(self) else None
        return self._module_type(
            copy.deepcopy(pretrained.encoder).requires_grad_(True),
            HeadModule(pretrained.n_components, self._n_outputs),
            None if augment is None else build_augmentation(augment, columns, ids),
            pretrained.n_components,
        )

    def _before_training(self, module, matrix, targets, training):
        # A head that knew nothing would spoil the encoder before it has learned: it
        # starts from a linear model of the codes as they are.
        if training is not None:
            matrix, targets = matrix[training], targets[training]
        if len(matrix) > _MAX_PROBED:
            chosen = np.random.default_rng(0).permutation(len(matrix))[:_MAX_PROBED]
            matrix, targets = matrix[chosen], targets[chosen]
        transformer = self.transformer_
        codes = run(transformer.module_, "encode", matrix, transformer.device_)
        codes = codes.astype(np.float64)
        mean, std = codes.mean(axis=0), codes.std(axis=0)
        std[std == 0] = 1.0
        module.head.start(mean, std, *self._probe((codes - mean) / std, targets))

    # Inference.

    @property
    def _reader(self):
        return self.transformer_

    def _output(self, X):
        """Return the outputs of the head for rows of the user, in float64."""
        return self._run("output", self._validate_rows(X)).astype(np.float64)

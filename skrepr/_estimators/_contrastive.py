"""Contrastive learning: codes on which views that belong together agree."""

import math
from contextlib import nullcontext

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional as F

from skrepr._columns._inputs import ColumnEncoder
from skrepr._columns._labels import check_labels, encode_classes, stratified
from skrepr._estimators._base import BaseTorchEstimator
from skrepr._estimators._contrastive_module import ContrastiveModule
from skrepr._estimators._diagnosis import N_DIAGNOSED, diagnose
from skrepr._estimators._encoding import EncodingMixin
from skrepr._sklearn import StrOptions
from skrepr._training._inference import for_inference, to_tensor
from skrepr._training._random import Seeded, may_draw
from skrepr._training._samplers import ClassBalanced
from skrepr._warnings import warn_user
from skrepr.augmentations import Augmentation
from skrepr.augmentations._base import build_augmentation
from skrepr.auxiliaries import Auxiliary
from skrepr.exceptions import TrainingError
from skrepr.metrics import effective_rank, knn_accuracy, normalized_std
from skrepr.objectives import Objective, ObjectiveModule
from skrepr.parts import check_module

_HEAD_WIDTH = 128  # of the projection head
_TIE = 1e-6  # cosine similarities that differ by less are equal
_CANDIDATES = 64  # rows among which `score` looks for a row's second view
_GROUPS = 32  # of so many rows that `score` encodes at once

# Below these the embedding has collapsed: the effective rank over the largest that it
# could have, and the standard deviation of codes of length 1, times sqrt(n_components).
_MIN_RANK, _MIN_STD = 0.05, 0.1


class ContrastiveTransformer(EncodingMixin, BaseTorchEstimator):
    """Contrastive learning: codes that tell rows apart and ignore random changes.

    An encoder network and a small projection head are trained so that two randomly
    changed views of a row end up close, and views of different rows far apart. The
    head is then left out: `transform` returns the encoder's output.

    Columns may come in any units: they are standardised inside.

    Parameters
    ----------
    n_components : int, default=16
        Length of the code. It may exceed the number of features.
    backbone : str or Backbone, default="mlp"
        The network, a multi-layer perceptron by default; see :mod:`skrepr.backbones`.
    objective : str or Objective, default="nt_xent"
        What is minimised, by default the loss of SimCLR; see :mod:`skrepr.objectives`.
    augmentation : str, Augmentation or callable, default="feature_corruption"
        The random change that makes a view of a row, see :mod:`skrepr.augmentations`;
        each of the two views takes a change of its own. A function of your own is
        called with a batch and a `torch.Generator`, and returns a new batch.
    positives : {"views", "labels"}, default="views"
        Which rows belong together. With "views" a row is alone: its two views are
        positives, and y is ignored. With "labels" rows with the same y are: classes,
        or groups such as the patient a row was taken from. A batch then holds the
        classes in equal numbers, as many as it has room for, and the second view is
        that of another row of the class. Rows whose y is missing (NaN, None, pandas'
        NA) take part as with "views".
    unlabelled : object, default=None
        A value of y that also stands for a missing one, such as scikit-learn's -1.
        With None, -1 is a label like any other.
    auxiliary : str, Auxiliary or None, default=None
        A task that the codes should be good for besides, see :mod:`skrepr.auxiliaries`.
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Which columns hold categories: a mask, positions, or names of a DataFrame. With
        "from_dtype" they are the columns of a pandas or polars DataFrame that hold
        strings, flags, or the dtype Categorical or Enum; other columns, and all of an
        array, are numbers. A category that the training rows did not have counts as
        missing.
    standardize : bool or "quantile", default=True
        Whether the network sees centred columns of unit variance. Otherwise it sees
        the user's own values, which should then be of the order of 1; or with
        "quantile" the normal scores of their ranks.
    max_iter : int or "auto", default="auto"
        Number of epochs. "auto" takes as many as give 1000 steps, at least one.
    batch_size : int, default=256
        Largest number of rows in a step. An epoch is split evenly.
    learning_rate : float, default=1e-3
        Peak learning rate of AdamW: it rises during the first tenth of the steps and
        falls to zero along a cosine.
    weight_decay : float, default=0.0
        Decoupled weight decay of the weight matrices.
    early_stopping : bool, default=False
        Whether to stop when the loss on a validation split no longer improves, and to
        keep the weights of the best epoch. The views of the split stay the same.
    validation_fraction : float, default=0.1
        Share of the rows held out when ``early_stopping=True``; at least two rows.
    n_iter_no_change : int or "auto", default="auto"
        Epochs without improvement after which early stopping ends the fit. "auto" is a
        tenth of the epochs, at least 10.
    tol : float, default=1e-4
        Decrease of the validation loss that counts as an improvement.
    device : str, default="auto"
        Where to train: "cpu", "cuda", "cuda:1", "mps", ... "auto" takes a GPU if there
        is one.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights, order of rows, views and validation split. Pass an
        int for the same result every time. No global random state is changed (None
        draws one number from NumPy's, as everywhere in scikit-learn).
    verbose : int, default=0
        1 shows a progress bar, 2 prints a line per epoch.

    Attributes
    ----------
    history_ : dict of str to list of float
        Per epoch: "loss" and its terms, such as "nt_xent"; with early stopping the
        same for the validation split, under "validation_loss", ..., and the metrics of
        :mod:`skrepr.metrics` for up to 1000 of its rows: "validation_alignment",
        "validation_uniformity", "validation_effective_rank",
        "validation_normalized_std" and, with labels, "validation_knn_accuracy" and
        "validation_linear_probe_accuracy".
    n_iter_ : int
        Number of epochs run.
    module_ : torch.nn.Module
        The trained network: on the CPU, float32, in eval mode.
    table_ : Table
        The columns: dtypes, categories, means, scales; ``table_.get_state()`` is
        JSON-able.
    device_ : str
        Device the network was trained on.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features seen during `fit`, if all were strings.

    See Also
    --------
    AutoencoderTransformer : Codes from which rows can be reconstructed.

    References
    ----------
    Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning
    of Visual Representations", ICML 2020.

    Bahri, Jiang, Tay and Metzler, "SCARF: Self-Supervised Contrastive Learning using
    Random Feature Corruption", ICLR 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skrepr import ContrastiveTransformer
    >>> X = load_wine().data
    >>> contrastive = ContrastiveTransformer(n_components=4, max_iter=5, random_state=0)
    >>> contrastive.fit_transform(X).shape
    (178, 4)
    """

    _part_kinds: dict = {
        **EncodingMixin._part_kinds,
        "objective": Objective,
        "augmentation": Augmentation,
        "auxiliary": Auxiliary,
    }
    _optional_parts = frozenset({"auxiliary"})

    _parameter_constraints: dict = {
        **EncodingMixin._parameter_constraints,
        **BaseTorchEstimator._parameter_constraints,
        "positives": [StrOptions({"views", "labels"})],
        "unlabelled": "no_validation",
    }

    _monitor = staticmethod(diagnose)

    def __init__(
        self,
        n_components=16,
        *,
        backbone="mlp",
        objective="nt_xent",
        augmentation="feature_corruption",
        positives="views",
        unlabelled=None,
        auxiliary=None,
        categorical_features="from_dtype",
        standardize=True,
        max_iter="auto",
        batch_size=256,
        learning_rate=1e-3,
        weight_decay=0.0,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change="auto",
        tol=1e-4,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.backbone = backbone
        self.objective = objective
        self.augmentation = augmentation
        self.positives = positives
        self.unlabelled = unlabelled
        self.auxiliary = auxiliary
        self.categorical_features = categorical_features
        self.standardize = standardize
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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.positives == "labels"
        return tags

    # The fit.

    def _ids(self, rows, y):
        if self.positives == "views":
            return None
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is "
                "None. With positives='labels' rows with the same y are positives: "
                "pass y, or set positives='views'."
            )
        labels, missing = check_labels(rows, y, self.unlabelled)
        classes, labelled_ids = encode_classes(labels)
        if len(classes) == 1 and not missing.any():
            raise ValueError(
                f"All labels in y are {classes.tolist()[0]!r}: no row has a negative. "
                "Expected at least two classes, or positives='views'."
            )
        n_alone = (np.bincount(labelled_ids) == 1).sum()
        if n_alone == len(labels):
            warn_user(
                f"No two of the {len(labels)} labelled rows have the same y: no row "
                "has a positive but its own other view. Expected classes or groups of "
                'several rows; positives="views" is for rows without any.'
            )
        elif n_alone > 0:
            warn_user(
                f"{n_alone} of the {len(classes)} classes in y have one row only, "
                "which has no positive but its own other view. Merge rare classes, or "
                "mark such rows as unlabelled."
            )
        ids = -1 - np.arange(len(rows))  # every row without a label has one of its own
        ids[~missing] = labelled_ids
        return ids

    def _shuffled(self, n_samples, ids, rng):
        order = super()._shuffled(n_samples, ids, rng)
        return order if ids is None else stratified(order, np.maximum(ids, -1))

    def _build_module(self, columns):
        k = self.n_components
        objective, auxiliary = self._part("objective"), self._part("auxiliary")
        encoder = ColumnEncoder(columns, self._part("backbone"), k)
        head = nn.Sequential(
            nn.Linear(k, _HEAD_WIDTH), nn.ReLU(), nn.Linear(_HEAD_WIDTH, _HEAD_WIDTH)
        )
        return ContrastiveModule(
            encoder,
            check_module(objective.build(encoder, head, k), ObjectiveModule, objective),
            build_augmentation(
                self._part("augmentation"),
                columns,
                torch.arange(2) if self.positives == "labels" else None,
            ),
            None if auxiliary is None else auxiliary.build(columns, k),
            k,
        )

    def _batch_sampler(self, n_samples, ids):
        if ids is None:
            return super()._batch_sampler(n_samples, ids)
        return ClassBalanced(ids, self.batch_size)

    def _after_training(self, rows, seed):
        if self.table_.varies.any():
            self._warn_of_collapse(rows)

    def _warn_of_collapse(self, rows):
        """Warn if the codes of the training rows are all alike."""
        rows = rows[np.random.default_rng(0).permutation(len(rows))[:N_DIAGNOSED]]
        codes = self._run("encode", rows)
        if not np.isfinite(codes).all():
            raise TrainingError(
                "The codes of the training rows are not finite. Expected finite codes. "
                f"Lower learning_rate (it is {self.learning_rate:g}), and look for "
                "extreme values in X."
            )
        rank, std = effective_rank(codes), normalized_std(codes)
        largest_rank = min(self.n_components, len(np.unique(rows, axis=0)))
        if self.n_components == 1:  # a single number has no direction that could vary
            std = float(codes.std() > 0)
        if rank < _MIN_RANK * largest_rank or std < _MIN_STD:
            warn_user(
                "The embedding has collapsed: the codes of the training rows are all "
                f"alike (effective rank {rank:.3g} of {self.n_components} components, "
                f"normalised standard deviation {std:.2g}, where about 1 is healthy). "
                "Try another objective, a weaker augmentation, a lower learning_rate "
                "or more steps."
            )

    def score(self, X, y=None):
        """Score how well a row, or its class, is recognised from its code.

        With ``positives="views"`` a row's view is compared with the other views of up
        to 64 rows, its own among them; the score is the share of rows whose own view
        has the largest cosine similarity. It may compare objectives, backbones,
        components, batch sizes and training parameters, but not augmentations: a weaker
        change is easier to see through.

        With ``positives="labels"`` it is the accuracy with which the five nearest other
        rows of X tell the label of a row, and may compare everything.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.
        y : array-like of shape (n_samples,), default=None
            Labels, some of which may be missing. Ignored with ``positives="views"``.

        Returns
        -------
        score : float
            Between 0 and 1, deterministic. With "views" chance is one over the number
            of rows compared, which is 64 if X has as many, and rows that are equal
            share a hit.

        Raises
        ------
        ValueError
            If y is needed and not given.
        """
        if self.positives == "labels":
            return self._score_labels(X, y)
        X = self._validate_rows(X)
        matrix = self.table_.to_matrix(X)
        evaluator = for_inference(self.module_, self.device_, matrix.dtype)
        module, like = evaluator.module, evaluator.like
        generator = torch.Generator(like.device).manual_seed(0)
        size = min(_CANDIDATES, len(matrix))
        order = np.random.default_rng(0).permutation(len(matrix))
        # The last group is filled up with rows of the first.
        groups = np.resize(order, (math.ceil(len(order) / size), size))
        hits = 0.0
        draws = Seeded(generator) if may_draw(module) else nullcontext()
        with evaluator.at_work(size), draws:
            for group in np.array_split(groups, math.ceil(len(groups) / _GROUPS)):
                x = to_tensor(matrix[group.ravel()], like)
                a, b = (
                    F.normalize(module.encode(view), dim=1).unflatten(0, group.shape)
                    for view in (module.augment(x, generator) for _ in range(2))
                )
                similarity = a @ b.mT
                to_itself = similarity.diagonal(dim1=1, dim2=2)[..., None]
                # Equal rows share a hit; so do all rows when the codes collapse.
                beaten = (similarity > to_itself + _TIE).any(dim=2)
                tied = (similarity >= to_itself - _TIE).sum(dim=2)
                hits += torch.where(beaten, 0.0, 1 / tied).sum().item()
        return hits / groups.size

    def _score_labels(self, X, y):
        check_is_fitted(self)
        if y is None:
            raise ValueError(
                "y is None, but with positives='labels' the score is how well codes "
                "tell labels. Pass y to score."
            )
        codes = self.transform(X)
        labels, missing = check_labels(codes, y, self.unlabelled)
        if len(labels) < 2:
            raise ValueError(
                f"y has {len(labels)} label(s) that are not missing. Expected at least "
                "2, of rows that can be neighbours of each other."
            )
        n_neighbors = min(5, len(labels) - 1)
        return knn_accuracy(np.asarray(codes)[~missing], labels, n_neighbors)

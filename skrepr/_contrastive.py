"""Contrastive learning: codes on which two views of a row agree."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skrepr._base import BaseTorchTransformer
from skrepr._engine import is_own
from skrepr._torch import evaluation, for_inference, to_tensor
from skrepr.augmentations import Augmentation
from skrepr.objectives import Objective
from skrepr.parts import part_constraint

_HEAD_WIDTH = 128  # of the projection head
_TIE = 1e-6  # cosine similarities this close are equal
_CANDIDATES = 64  # rows among which `score` looks for a row's second view


class ContrastiveModule(nn.Module):
    """An objective that compares random views of rows.

    It owns the encoder and the projection head.
    """

    warmup = 0.0

    def __init__(self, objective, augment, n_components):
        super().__init__()
        self.objective = objective
        self.augment = augment
        self.n_components = n_components

    @property
    def encoder(self):
        return self.objective.encoder

    def loss(self, batch):
        return self.objective(batch, self.augment, batch.index)

    def by_hand(self, stacks):
        by_hand = getattr(self.objective, "by_hand", lambda stacks: None)(stacks)
        if by_hand is None or not is_own(self.augment):
            return None
        return lambda batch: by_hand(batch, self.augment)

    def after_step(self):
        if hasattr(self.objective, "after_step"):
            self.objective.after_step()

    def encode(self, x):
        return self.objective.encoder(x)


class ContrastiveTransformer(BaseTorchTransformer):
    """Contrastive learning: codes that tell rows apart and ignore random changes.

    An encoder network and a small projection head are trained so that two randomly
    changed views of a row end up close, and views of different rows far apart. The
    head is then left out: `transform` returns the encoder's output.

    Columns may come in any units: they are standardised inside.

    Parameters
    ----------
    n_components : int, default=16
        Length of the code. It may exceed the number of features.
    backbone : {"mlp"} or Backbone, default="mlp"
        The network, see :class:`~skrepr.backbones.MLP`.
    objective : {"nt_xent"} or Objective, default="nt_xent"
        What is minimised, see :class:`~skrepr.objectives.NTXent`.
    augmentation : {"feature_corruption", "gaussian_noise", "feature_masking"} or \
            Augmentation, default="feature_corruption"
        The random change that makes a view of a row; each of the two views takes a
        change of its own.
    standardize : bool, default=True
        Whether the network sees centred columns of unit variance. Otherwise it sees
        the user's own values, which should then be of the order of 1.
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
        Per epoch: "loss" and the objective's terms, such as "nt_xent"; with early
        stopping the same for the validation split, under "validation_loss", ...
    n_iter_ : int
        Number of epochs run.
    module_ : torch.nn.Module
        The trained network: on the CPU, float32, in eval mode.
    table_ : Table
        What is known of the columns; ``table_.get_state()`` is JSON-able.
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
        **BaseTorchTransformer._part_kinds,
        "objective": Objective,
        "augmentation": Augmentation,
    }

    _parameter_constraints: dict = {
        **BaseTorchTransformer._parameter_constraints,
        "objective": part_constraint(Objective),
        "augmentation": part_constraint(Augmentation),
    }

    def __init__(
        self,
        n_components=16,
        *,
        backbone="mlp",
        objective="nt_xent",
        augmentation="feature_corruption",
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

    def _build_module(self, columns):
        k = self.n_components
        encoder = self._part("backbone").encoder(len(columns), k)
        head = nn.Sequential(
            nn.Linear(k, _HEAD_WIDTH), nn.ReLU(), nn.Linear(_HEAD_WIDTH, _HEAD_WIDTH)
        )
        objective = self._part("objective").build(encoder, head, k)
        return ContrastiveModule(
            objective, self._part("augmentation").build(columns), k
        )

    def score(self, X, y=None):
        """Score how well a row is recognised from its code.

        A row's view is compared with the other views of up to 64 rows, its own among
        them; the score is the share of rows whose own view has the largest cosine
        similarity. It may compare objectives, backbones, components, batch sizes and
        training parameters, but not augmentations: a weaker change is easier to see
        through.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        score : float
            Between 0 and 1, deterministic. Chance is one over the number of rows
            compared, which is 64 if X has as many. Rows that are equal share a hit.
        """
        X = self._validate_rows(X)
        matrix = self.table_.to_matrix(X)
        module = for_inference(self.module_, self.device_, matrix.dtype)
        weight = next(module.parameters())
        generator = torch.Generator(weight.device).manual_seed(0)
        size = min(_CANDIDATES, len(matrix))
        order = np.random.default_rng(0).permutation(len(matrix))
        # The last group is filled up with rows of the first.
        groups = np.resize(order, (math.ceil(len(order) / size), size))
        hits = 0.0
        with evaluation(module):
            for group in np.array_split(groups, math.ceil(len(groups) / 32)):
                x = to_tensor(matrix[group.ravel()], weight)
                a, b = (
                    F.normalize(module.encode(view), dim=1).unflatten(0, group.shape)
                    for view in (module.augment(x, generator) for _ in range(2))
                )
                similarity = a @ b.mT
                own = similarity.diagonal(dim1=1, dim2=2)[..., None]
                # Equal rows share a hit; so do all rows when the codes collapse.
                beaten = (similarity > own + _TIE).any(dim=2)
                tied = (similarity >= own - _TIE).sum(dim=2)
                hits += torch.where(beaten, 0.0, 1 / tied).sum().item()
        return hits / groups.size

"""The autoencoder: learn codes from which the rows can be reconstructed."""

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skrepr._columns._inputs import ColumnEncoder
from skrepr._estimators._decoding import DecodingTransformer
from skrepr._estimators._scorer import Scorer
from skrepr._sklearn import StrOptions
from skrepr._training._by_hand import ReconstructionPass
from skrepr._training._module import DecodingModule
from skrepr._training._outputs import build_network, check_network, check_tensor
from skrepr._training._stacks import is_own
from skrepr.augmentations import Augmentation
from skrepr.augmentations._base import DrawsApart, build_augmentation
from skrepr.error_models import ErrorModel, ErrorModelModule
from skrepr.likelihoods._joint import build_likelihood
from skrepr.parts import check_module
from skrepr.penalties import EncodedBatch, Penalty

_MAX_HIDDEN = 0.5  # share of a row's cells that are hidden from the encoder in training
_N_FILLINGS = 5  # fixed-point iterations to fill cells never missing in training


class AutoencoderModule(DecodingModule):
    """Reconstruct a row from the code of its augmented copy.

    The loss is the mean over the observed cells of varying columns of the likelihood's
    cost of x given decoder(encoder(augment(x))), plus the penalty of the codes. Where
    training rows have holes, one row in two is not augmented: the encoder misses
    further cells of it at random instead, so that it learns to do without.
    """

    encoder: ColumnEncoder
    varies: torch.Tensor
    had_holes: torch.Tensor

    def __init__(self, encoder, decoder, likelihood, augment, penalty, columns, k):
        super().__init__(encoder, decoder, likelihood)
        self.n_components = k
        self.augment = augment
        self.penalty = penalty
        self.shares_weights = penalty is not None and not is_own(penalty)
        self.register_buffer("varies", torch.as_tensor(columns.varies))
        self.n_varying = max(1, int(columns.varies.sum()))
        self.has_holes = bool(columns.missing.any())
        self.register_buffer("had_holes", torch.as_tensor(columns.missing))

    def draws(self, x, generator, first=0):
        augmented = self._draw_augmented(x, generator, first)
        hidden = self._draw_hidden(x, generator) if self.has_holes else ()
        return *augmented, *hidden, None

    def shown(self, x, draws):
        if not self.has_holes:
            return self._augmented(x, draws)
        *draws, hidden, chosen = draws
        with_holes = x.masked_fill(hidden & self.had_holes, torch.nan)
        return torch.where(chosen, with_holes, self._augmented(x, draws))

    def _draw_augmented(self, x, generator, first):
        """Draw what `_augmented` needs: of a user's augmentation, the changed rows."""
        if self.augment is None:
            return ()
        if isinstance(self.augment, DrawsApart):
            return self.augment.draws(x, generator, first)
        with torch.enable_grad():  # which it may need for itself
            return (self.augment(x, generator),)

    def _augmented(self, x, draws):
        if self.augment is None:
            return x
        if isinstance(self.augment, DrawsApart):
            return self.augment.change(x, draws)
        (changed,) = draws
        return changed

    def _draw_hidden(self, x, generator):
        """Draw which cells to hide, and of which rows: of one in two beside noise."""
        rate = x.new_empty(len(x), 1).uniform_(0, _MAX_HIDDEN, generator=generator)
        hidden = torch.empty_like(x).uniform_(generator=generator) < rate
        if self.augment is None:
            return hidden, torch.ones_like(rate, dtype=torch.bool)
        return hidden, torch.empty_like(rate).uniform_(generator=generator) < 0.5

    def n_cells(self, x):
        """Count the cells of rows x that are to be reconstructed, at least 1."""
        if not self.has_holes:
            return len(x) * self.n_varying
        return (~x.isnan() & self.varies).sum().clamp(min=1)

    def loss(self, batch):
        x = batch.x
        *draws, _ = self.draws(x, batch.generator)
        inputs = self.encoder.read(self.shown(x, draws))
        z = self.encoder.code(inputs)
        cost = self.likelihood.cost(x, self.decoder(z))
        terms = {"reconstruction": cost.sum() / self.n_cells(x)}
        if self.penalty is not None:
            encoded = EncodedBatch(z, inputs, self.encoder.network, batch.generator)
            terms["penalty"] = check_tensor(self.penalty(encoded), (), self.penalty)
        return terms

    def by_hand(self):
        is_free = self.penalty is None and self.encoder.constraint is None
        has_slopes = self.likelihood.has_slopes and is_own(self.likelihood)
        return ReconstructionPass if is_free and has_slopes else None

    def fill(self, x):
        """Return x with its reconstruction where it is missing."""
        holes = x.isnan()
        # The encoder has learned to do without cells of columns that had holes in
        # training. In other columns it reads what the last iteration has filled in.
        to_fill = holes & ~self.had_holes
        filled = x
        for _ in range(_N_FILLINGS if to_fill.any() else 1):
            expected = torch.where(self.varies, self.decode(self.encode(filled)), 0.0)
            filled = torch.where(to_fill, expected, x)
        return torch.where(holes, expected, x)


class AutoencoderTransformer(DecodingTransformer):
    """Autoencoder: codes from which rows can be reconstructed, and anomaly scores.

    An encoder network maps a row to ``n_components`` numbers, a decoder network maps
    them back, and both are trained to make the reconstruction close. With an
    augmentation the encoder sees a changed row and has to undo the change (denoising).
    Rows unlike the training rows are reconstructed badly, which `score_samples` makes
    an anomaly score of.

    Columns may come in any units: they are standardised inside, and reconstructions go
    back to the user's units.

    Parameters
    ----------
    n_components : int, default=16
        Length of the code. It may exceed the number of features.
    backbone : str or Backbone, default="mlp"
        The network, a multi-layer perceptron by default; see :mod:`skrepr.backbones`.
    likelihood : str, Likelihood or dict, default="gaussian"
        What is minimised: by default the squared error of the standardised columns,
        else minus the log-probability of another distribution, see
        :mod:`skrepr.likelihoods`. A dict from names of columns (from positions, if X is
        an array) gives some of the columns another one than "gaussian". Categorical
        columns have the cross-entropy of their categories.
    augmentation : str, Augmentation, callable or None, default="gaussian_noise"
        Change of the encoder's input that is to be undone, or a function that makes
        it, see :mod:`skrepr.augmentations`. None trains a plain autoencoder.
    penalty : str, Penalty or None, default=None
        Penalty on the code, or a constraint of it, such as for codes that are sparse;
        see :mod:`skrepr.penalties`.
    error_model : str or ErrorModel, default="covariance"
        What `score_samples` makes of a row's errors: by default the Mahalanobis
        distance of the row together with its errors; see :mod:`skrepr.error_models`.
    latent_density : str, LatentDensity or estimator, default="kernel"
        Where `sample` draws codes from: by default a smoothed bootstrap of the training
        rows' codes; or another density of :mod:`skrepr.latent_densities`, or an
        estimator with ``fit`` and ``sample``.
    trim : float, default=0.0
        The share of the training rows to suspect of being outliers, in [0, 0.5]: the
        one switch that says that training rows are contaminated. So many rows, those
        farthest from the medians of the columns, are left out of the fit: of the
        standardisation, the training and the scores' model of what is normal. 0.2 is
        a good value where the share of outliers is unknown.
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
        Number of epochs. "auto" takes as many as give 1000 steps, or 1500 if the
        training rows have holes; at least one.
    batch_size : int, default=256
        Largest number of rows in a step. An epoch is split evenly.
    learning_rate : float or "auto", default="auto"
        Peak learning rate of AdamW: it rises during the first tenth of the steps and
        falls to zero along a cosine. "auto" is 2e-3, or 4e-3 if the training rows have
        holes.
    weight_decay : float, default=0.0
        Decoupled weight decay of the weight matrices.
    early_stopping : bool, default=False
        Whether to stop when the loss on a validation split no longer improves, and to
        keep the weights of the best epoch.
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
        Determines initial weights, order of rows, noise and validation split. Pass an
        int for the same result every time. No global random state is changed (None
        draws one number from NumPy's, as everywhere in scikit-learn).
    verbose : int, default=0
        1 shows a progress bar, 2 prints a line per epoch.

    Attributes
    ----------
    history_ : dict of str to list of float
        Per epoch: "loss" and its terms "reconstruction" and, if there is a penalty,
        "penalty" ("top_k" adds none); with early stopping the same for the validation
        split, under "validation_loss", "validation_reconstruction", ...
    n_iter_ : int
        Number of epochs run.
    module_ : torch.nn.Module
        The trained network: on the CPU, float32, in eval mode.
    error_model_ : torch.nn.Module
        The distribution of the training rows' errors.
    row_generator_ : torch.nn.Module
        The density of codes that `sample` draws from, and quantiles of generated rows.
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
    VAETransformer : Codes with a prior, log-likelihoods and new rows.
    OutlierDetector : Turns `score_samples` into a detector with a threshold.

    References
    ----------
    Vincent, Larochelle, Bengio and Manzagol, "Extracting and Composing Robust Features
    with Denoising Autoencoders", ICML 2008.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from skrepr import AutoencoderTransformer
    >>> X = load_breast_cancer().data
    >>> ae = AutoencoderTransformer(n_components=4, max_iter=5, random_state=0).fit(X)
    >>> ae.transform(X).shape
    (569, 4)
    >>> ae.score_samples(X).shape
    (569,)
    >>> ae.reconstruction_error(X).shape
    (569, 30)
    """

    _parameter_constraints: dict = {
        **DecodingTransformer._parameter_constraints,
        "learning_rate": [
            *DecodingTransformer._parameter_constraints["learning_rate"],
            StrOptions({"auto"}),
        ],
    }
    _part_kinds: dict = {
        **DecodingTransformer._part_kinds,
        "augmentation": Augmentation,
        "penalty": Penalty,
        "error_model": ErrorModel,
    }
    _optional_parts = frozenset({"augmentation", "penalty"})

    def __init__(
        self,
        n_components=16,
        *,
        backbone="mlp",
        likelihood="gaussian",
        augmentation="gaussian_noise",
        penalty=None,
        error_model="covariance",
        latent_density="kernel",
        trim=0.0,
        categorical_features="from_dtype",
        standardize=True,
        max_iter="auto",
        batch_size=256,
        learning_rate="auto",
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
        self.likelihood = likelihood
        self.augmentation = augmentation
        self.penalty = penalty
        self.error_model = error_model
        self.latent_density = latent_density
        self.trim = trim
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

    def _n_auto_steps(self, module):
        # To fill holes takes longer to learn than to undo noise.
        return 1500 if module.has_holes else super()._n_auto_steps(module)

    def _peak_rate(self, module):
        if self.learning_rate != "auto":
            return super()._peak_rate(module)
        return 4e-3 if module.has_holes else 2e-3

    def _build_module(self, columns):
        backbone = self._part("backbone")
        likelihood = build_likelihood(self._part("likelihood"), columns, noise=False)
        augmentation = self._part("augmentation")
        penalty = self._part("penalty")
        k = self.n_components
        constraint = None if penalty is None else penalty.constraint(k)
        if constraint is not None:
            check_network(constraint, k, k, penalty, "constraint")
        return AutoencoderModule(
            ColumnEncoder(columns, backbone, k, constraint),
            build_network(backbone, "decoder", k, likelihood.n_outputs),
            likelihood,
            None if augmentation is None else build_augmentation(augmentation, columns),
            None if penalty is None else penalty.build(k),
            columns,
            k,
        )

    def _before_training(self, module, matrix, targets, training):
        part = self._part("error_model")
        # Scores may never be asked for, but what cannot work is refused now.
        check_module(part.build(self.table_.columns), ErrorModelModule, part)

    def _put_off(self, rows, seed):
        super()._put_off(rows, seed)
        self._scorer = self._deferred(Scorer.fit, "error_model", rows, seed)

    @property
    def error_model_(self):
        """The distribution of the training rows' errors."""
        check_is_fitted(self)
        return self._scorer.get().module.error_model

    def score_samples(self, X):
        """Score rows: the higher, the more normal.

        By default the score is minus the squared Mahalanobis distance of the row
        together with its errors, over its mean among the training rows: they have -1
        on average. ``error_model`` chooses another one.

        Where cells are missing, what is observed is compared with the same columns of
        the training rows, and the score is that of a row without holes that would be
        as strange: a row is not stranger for its holes. The fewer cells there are, the
        fewer scores are extreme; a row without any value has that of a typical row.

        If some of the training rows are outliers themselves, set ``trim``: an
        autoencoder learns to reconstruct the outliers it is trained on.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            Minus the sum of `feature_contributions` over the features. Up to rounding
            the same for a row whatever rows stand beside it.
        """
        return -self.feature_contributions(X).sum(axis=1)

    def feature_contributions(self, X):
        """Split the scores of rows into contributions of the features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_features), float64
            Not negative; their sum over the features is minus `score_samples`. Another
            value in a column that was constant in training contributes 36, as if it
            were six standard deviations away, over the number of columns that varied.
            What is missing contributes 0, and the other columns what makes up the sum;
            in a row without any value all that vary contribute alike.
        """
        rows = self._validate_rows(X)
        return self._scorer.get().contributions(rows)

    def score(self, X, y=None):
        """Score the reconstruction of X as a whole.

        It may compare augmentations, penalties, backbones and training parameters, but
        is no guide to ``n_components``: a longer code always wins. It does not depend
        on ``error_model``, and does not compare values of ``trim``: the errors are in
        variances of the rows that were not left out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        score : float
            Minus the mean of `reconstruction_error` over the cells that are not
            missing: 0 is perfect, -1 is what predicting every column's mean gives. A
            column that is constant counts as perfect.
        """
        return -float(np.nanmean(self.reconstruction_error(X)))

"""The variational autoencoder: a latent-variable model with densities and samples."""

from numbers import Integral, Real

import numpy as np
import torch

from skrepr._blocks import blocks
from skrepr._columns._inputs import ColumnEncoder
from skrepr._estimators._decoding import DecodingTransformer
from skrepr._estimators._row_generator import some_rows
from skrepr._estimators._vae_module import N_COMPLETIONS, VAEModule
from skrepr._sklearn import Interval
from skrepr._training._outputs import build_network
from skrepr._warnings import warn_user
from skrepr.likelihoods._joint import build_likelihood
from skrepr.metrics import active_units

_MIN_STEPS = 500  # of a training that may be said to have collapsed
_MAX_COMPLETED = 1000  # rows whose completions are in memory at a time
_N_DIAGNOSED = 1000  # rows in whose codes active units are looked for


class VAETransformer(DecodingTransformer):
    """Variational autoencoder: codes with a prior, log-likelihoods and new rows.

    A latent-variable model: a code z is drawn from a standard normal distribution, and
    a row from the likelihood whose parameters the decoder network computes from z. The
    encoder network approximates the posterior of z given a row. Both are trained to
    maximise the evidence lower bound (ELBO).

    Columns may come in any units: they are standardised inside, and reconstructions,
    samples and log-likelihoods are in the user's units.

    Parameters
    ----------
    n_components : int, default=16
        Length of the code. Latents the data have no use for stay at the prior.
    backbone : str or Backbone, default="mlp"
        The network, a multi-layer perceptron by default; see :mod:`skrepr.backbones`.
    likelihood : str, Likelihood or dict, default="gaussian"
        Distribution of a row given its code: by default normal around the decoder's
        output, with one noise scale learned for all standardised columns, or another
        one of :mod:`skrepr.likelihoods`. A dict from names of columns (from positions,
        if X is an array) gives some of the columns another one than "gaussian".
        Categorical columns have the probabilities of their categories.
    beta : float, default=1.0
        Weight of the KL divergence. Only 1 makes the loss the ELBO; larger values
        regularise the codes (beta-VAE).
    kl_warmup : float, default=0.2
        Fraction of the training during which the weight of the KL divergence rises from
        0 to `beta`.
    free_bits : float, default=0.0
        Nats that the KL divergence of every latent, a mean over the rows of a batch,
        has for nothing: against latents that the decoder learns to ignore.
    latent_density : str, LatentDensity or estimator, default="gaussian_mixture"
        Where `sample` draws codes from: by default a Gaussian mixture fitted to the
        training rows' codes; or another density of :mod:`skrepr.latent_densities`, or
        an estimator with ``fit`` and ``sample``.
    n_importance_samples : int, default=32
        Draws of the code behind each row's log-likelihood. Their memory is bounded.
    trim : float, default=0.0
        The share of the training rows to suspect of being outliers, in [0, 0.5]: the
        one switch that says that training rows are contaminated. So many rows, those
        farthest from the medians of the columns, are left out of the fit: of the
        standardisation and the training. 0.2 is a good value where the share of
        outliers is unknown.
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Which columns hold categories: a mask, positions, or names of a DataFrame. With
        "from_dtype" they are the columns of a pandas or polars DataFrame that hold
        strings, flags, or the dtype Categorical or Enum; other columns, and all of an
        array, are numbers. A category that the training rows did not have counts as
        missing.
    standardize : {"quantile"} or bool, default="quantile"
        What the network sees of numeric columns: with "quantile" the normal scores of
        their ranks, so that no column is skewed or has outliers; with True centred
        columns of unit variance; with False the user's own values, which should then be
        of the order of 1. Columns that `likelihood` models in the user's units (flags,
        counts) are centred and scaled with "quantile", too.
    max_iter : int or "auto", default="auto"
        Number of epochs. "auto" takes as many as give 3000 steps, at least one.
    batch_size : int, default=256
        Largest number of rows in a step. An epoch is split evenly.
    learning_rate : float, default=5e-3
        Peak learning rate of AdamW: it rises during the first tenth of the steps and
        falls to zero along a cosine.
    weight_decay : float, default=0.0
        Decoupled weight decay of the weight matrices.
    early_stopping : bool, default=False
        Whether to stop when the loss on a validation split no longer improves, and to
        keep the weights of the best epoch. Patience starts when the warm-up has ended.
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
        Per epoch: "loss" (minus the ELBO, in standardised units) and its terms
        "reconstruction" and "kl", the latter as weighted in the loss; with early
        stopping the same for the validation split, under "validation_loss", ..., where
        the KL divergence always has its full weight.
    n_iter_ : int
        Number of epochs run.
    module_ : torch.nn.Module
        The trained network: on the CPU, float32, in eval mode.
    active_units_ : ndarray of shape (n_components,), bool
        The latents that depend on the row: the variance of the training rows' codes is
        0.01 at least.
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
    AutoencoderTransformer : Codes from which rows can be reconstructed.
    OutlierDetector : Turns `score_samples` into a detector with a threshold.

    References
    ----------
    Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014.

    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skrepr import VAETransformer
    >>> X = load_iris(as_frame=True).data
    >>> vae = VAETransformer(n_components=2, max_iter=5, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (150, 2)
    >>> vae.score_samples(X).shape
    (150,)
    >>> vae.sample(3, random_state=0).columns.tolist() == X.columns.tolist()
    True
    """

    _auto_steps = 3000

    _parameter_constraints: dict = {
        **DecodingTransformer._parameter_constraints,
        "beta": [Interval(Real, 0, None, closed="left")],
        "kl_warmup": [Interval(Real, 0, 1, closed="both")],
        "free_bits": [Interval(Real, 0, None, closed="left")],
        "n_importance_samples": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components=16,
        *,
        backbone="mlp",
        likelihood="gaussian",
        beta=1.0,
        kl_warmup=0.2,
        free_bits=0.0,
        latent_density="gaussian_mixture",
        n_importance_samples=32,
        trim=0.0,
        categorical_features="from_dtype",
        standardize="quantile",
        max_iter="auto",
        batch_size=256,
        learning_rate=5e-3,
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
        self.beta = beta
        self.kl_warmup = kl_warmup
        self.free_bits = free_bits
        self.latent_density = latent_density
        self.n_importance_samples = n_importance_samples
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

    def _build_module(self, columns):
        backbone = self._part("backbone")
        likelihood = build_likelihood(self._part("likelihood"), columns)
        k = self.n_components
        encoder = ColumnEncoder(columns, backbone, 2 * k)
        decoder = build_network(backbone, "decoder", k, likelihood.n_outputs)
        noise = torch.randn(self.n_importance_samples, k, dtype=torch.float32)
        if self.n_importance_samples > 1:
            # Their mean and variance would be an error that all rows have in common.
            noise -= noise.mean(0)
            noise /= noise.square().mean(0).sqrt()
        return VAEModule(
            encoder,
            decoder,
            likelihood,
            noise,
            self.beta,
            self.kl_warmup,
            self.free_bits,
            columns,
        )

    def log_likelihood(self, X):
        """Compute the log-likelihood of the observed cells of every row.

        It is the importance-weighted bound of log p(x), which the ELBO never exceeds,
        from draws that are fixed in the fitted model: two calls give the same numbers,
        and a row's log-likelihood does not depend on the rows beside it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        log_likelihoods : ndarray of shape (n_samples,), float64
            Log-densities in the user's units; of categories, counts and flags
            log-probabilities. Missing cells are integrated out. Columns that were
            constant in training contribute 0. With ``standardize="quantile"`` the
            density of a discrete column is that of its values spread out.
        """
        return self._log_likelihood(self._validate_rows(X))

    def score_samples(self, X):
        """Compute the log-likelihood of every row as an anomaly score.

        For rows without holes it is `log_likelihood`. A missing cell contributes its
        expected log-density beside the others: the score is the mean log-likelihood of
        16 completions of the row, which the model draws. So a row is not stranger for
        its holes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            Log-densities in the user's units; the higher, the more normal. They are
            the same for a row, whatever rows stand beside it.
        """
        return self._scores(self._validate_rows(X))

    def _scores(self, X):
        scores = np.empty(len(X))
        holed = np.isnan(X).any(axis=1)
        if not holed.all():
            scores[~holed] = self._log_likelihood(X[~holed])
        holed = np.flatnonzero(holed)
        for block in blocks(len(holed), 1, _MAX_COMPLETED):
            rows = holed[block]
            completed = self._completed(X[rows])
            of_each = self._log_likelihood(completed.reshape(-1, X.shape[1]))
            scores[rows] = of_each.reshape(completed.shape[:2]).mean(axis=1)
        return scores

    def feature_contributions(self, X):
        """Split the scores of rows into contributions of the features.

        A feature contributes how improbable its value is for the codes that the whole
        row speaks for: the posterior mean of minus its log-density given the code. The
        remainder of the score is shared equally by the features that are there: how
        far the posterior is from the prior and, in rows with holes, what the missing
        cells are expected to contribute.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_features), float64
            Their sum over the features is minus `score_samples`. They are negative
            where densities are above 1, and depend on the units of a feature: in
            thousandths of a unit it contributes log(1000) more, in every row. So
            compare those of a row with the contributions that the features make to
            other rows. What is missing contributes 0, as do columns that were constant
            in training; in a row without any value all that varied contribute alike.
        """
        X = self._validate_rows(X)
        contributions = -self._of_draws("expected_log_prob", X) - self._log_jacobian(X)
        varies = self.table_.varies
        sharing = ~np.isnan(X) & varies
        sharing[~sharing.any(axis=1)] = varies | ~varies.any()
        remainder = -self._scores(X) - contributions.sum(axis=1)
        return contributions + sharing * (remainder / sharing.sum(axis=1))[:, None]

    def elbo(self, X):
        """Compute the evidence lower bound (ELBO) of every row, and its two terms.

        The expectation is a mean over ``n_importance_samples`` draws, which are fixed
        in the fitted model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        terms : dict of str to ndarray of shape (n_samples,), float64
            "reconstruction" is the expected log-density of the observed cells given the
            code, in the user's units, "kl" the KL divergence of the code's posterior
            from its prior, and "elbo" the former minus the latter. It is no larger than
            `log_likelihood`, if there is more than one draw.
        """
        X = self._validate_rows(X)
        terms = self._of_draws("elbo", X)
        reconstruction = terms[:, 0] + self._log_jacobian(X).sum(axis=1)
        kl = -terms[:, 1]
        return {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}

    def _fill(self, rows):
        return self._of_draws("fill", rows)

    def _log_likelihood(self, X):
        return self._of_draws("log_prob", X) + self._log_jacobian(X).sum(axis=1)

    def _of_draws(self, verb, X, generator=None):
        """Evaluate a method of the module that decodes several codes of each row."""
        values = self._run(verb, X, generator, self.module_.cells_per_row)
        return values.astype(np.float64)

    def _log_jacobian(self, X):
        """Return what brings log-densities of cells into the user's units."""
        log_jacobian = self.module_.likelihood.log_jacobian
        return self.table_.log_slope(X) + np.where(np.isnan(X), 0.0, log_jacobian)

    def _completed(self, X):
        """Draw the missing cells of rows, shape (n, n_completions, n_features)."""
        generator = torch.Generator().manual_seed(0)
        matrix = self._of_draws("complete", X, generator)
        completed = self._to_rows(matrix.reshape(-1, X.shape[1]))
        X = np.repeat(X, N_COMPLETIONS, axis=0)
        completed = np.where(np.isnan(X), completed, X)
        return completed.reshape(-1, N_COMPLETIONS, X.shape[1])

    def score(self, X, y=None):
        """Compute the mean log-likelihood of the rows, see `log_likelihood`.

        It may compare components, likelihoods of the same kind, backbones and training
        parameters; not values of ``trim``, where the rows to score hold outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        score : float
            Mean of `log_likelihood`, in the user's units.
        """
        return float(self.log_likelihood(X).mean())

    def _after_training(self, rows, seed):
        super()._after_training(rows, seed)
        some = some_rows(rows, _N_DIAGNOSED, np.random.default_rng(seed))
        self.active_units_ = active_units(self._run("encode", some))
        n_steps = self.n_iter_ * max(1, len(rows) // self.batch_size)
        is_trained = n_steps >= _MIN_STEPS and self.table_.varies.any()
        if is_trained and not self.active_units_.any():
            warn_user(
                "The posterior has collapsed: no latent depends on the row (the codes "
                "of the training rows have no variance of 0.01 or more), and generated "
                "rows have independent columns. Columns that have nothing to do with "
                "each other lead to that. If yours do have, set free_bits, for example "
                "to 0.1, or a smaller beta."
            )

"""The variational autoencoder: a latent-variable model with densities and samples."""

import math
from numbers import Integral, Real

import numpy as np
import torch

from skrepr._blocks import blocks
from skrepr._columns._inputs import ColumnEncoder
from skrepr._estimators._decoding import DecodingTransformer
from skrepr._sklearn import Interval
from skrepr._training._by_hand import evidence_pass
from skrepr._training._module import DecodingModule
from skrepr._training._stacks import is_own
from skrepr._warnings import warn_user
from skrepr.likelihoods._joint import build_likelihood
from skrepr.metrics import active_units

_LOG_VARIANCE_RANGE = (-12.0, 6.0)  # keeps exp and its gradient finite


_N_ROUNDS = 5  # of filling cells that the encoder has not learned to miss


_MOST_DRAWS = 2**16  # of codes, for all rows of a batch together


_N_COMPLETIONS = 16  # of a row with holes


_MIN_STEPS = 500  # of a training that may be said to have collapsed


_MOST_COMPLETED = 1000  # rows at a time


class VAEModule(DecodingModule):
    """Encoder q(z|x), decoder p(x|z) and the prior N(0, I).

    The loss is minus the evidence lower bound (ELBO), a mean over rows of

        - E_q[log p(x|z)]  +  weight * KL(q(z|x) || N(0, I)),

    log-densities summed over observed cells and the KL divergence over latents. The
    weight rises to beta while progress goes from 0 to `warmup`. Below `free_bits` nats,
    a mean over rows, the divergence of a latent costs as much as that.

    In every second row the encoder misses one of the categories, on average, so that it
    learns to tell a category from the rest of the row.
    """

    noise: torch.Tensor
    mean: torch.Tensor
    categorical: torch.Tensor
    never_missing: torch.Tensor

    def __init__(
        self, encoder, decoder, likelihood, noise, beta, warmup, free_bits, columns
    ):
        super().__init__(encoder, decoder, likelihood)
        self.register_buffer("noise", noise)  # (n_importance_samples, n_components)
        self.register_buffer("mean", torch.as_tensor(columns.mean).float())
        categorical = np.flatnonzero(columns.categorical & columns.varies)
        self.register_buffer("categorical", torch.as_tensor(categorical))
        never_missing = ~columns.missing & columns.numeric
        self.register_buffer("never_missing", torch.as_tensor(never_missing))
        self.beta = beta
        self.warmup = warmup
        self.free_bits = free_bits

    @property
    def n_components(self):
        return self.noise.shape[1]

    def posterior(self, x):
        """Return mean and log-variance of q(z|x), each (n, n_components).

        Cells of columns that were never missing in training are filled first: the
        encoder has not learned to do without them.
        """
        holes = x.isnan() & self.never_missing
        if holes.any():
            observed = x
            for _ in range(_N_ROUNDS):
                expected = self.decode(self._posterior(x)[0])
                x = torch.where(holes, expected, observed)
        return self._posterior(x)

    def _posterior(self, x):
        return self.split(self.encoder(x))

    def split(self, output):
        """Return mean and log-variance of q(z|x) from the encoder's output."""
        mean, log_variance = output.chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_RANGE)

    def loss(self, batch):
        x = batch.x
        shown = self._hide(x, batch.generator) if len(self.categorical) else x
        mean, log_variance = self._posterior(shown)
        noise = torch.empty_like(mean).normal_(generator=batch.generator)
        z = torch.addcmul(mean, noise, (0.5 * log_variance).exp())
        log_prob = self.likelihood.log_prob(x, self.decoder(z))
        kl = self.kl_term(self.kl(mean, log_variance), self.kl_weight(batch.progress))
        return {"reconstruction": -log_prob.sum() / len(x), "kl": kl}

    def kl(self, mean, log_variance):
        """Return the KL divergence of every latent, a mean over rows."""
        return _divergence(mean, log_variance).sum(0) / len(mean)

    def kl_weight(self, progress):
        """Return the factor of the KL divergence in the loss."""
        if self.warmup == 0:
            return self.beta
        return self.beta * (progress / self.warmup).clamp(max=1)

    def kl_term(self, kl, weight):
        """Return what the KL divergences of the latents add to the loss."""
        return weight * kl.clamp(min=self.free_bits).sum()

    def _hide(self, x, generator):
        n, k = len(x), len(self.categorical)
        some = torch.rand(n, 1, generator=generator, device=x.device) < 0.5
        which = torch.rand(n, k, generator=generator, device=x.device) < 1 / k
        cells = x[:, self.categorical].masked_fill(some & which, torch.nan)
        return x.index_copy(1, self.categorical, cells)

    def by_hand(self):
        has_slopes = self.likelihood.has_slopes and is_own(self.likelihood)
        return evidence_pass if self.encoder.is_plain and has_slopes else None

    def encode(self, x):
        return self.posterior(x)[0]

    def fill(self, x):
        """Return x with its mean given the observed cells where it is missing.

        Of a category it is the most probable one. The mean is over draws of the code,
        each weighted by its share in the likelihood of the observed cells.
        """
        log_weights, _, output = self._log_weights(x, self.posterior(x), self.noise)
        known = self.likelihood.average(output, log_weights.softmax(0))
        return torch.where(x.isnan(), known, x)

    def redraw(self, x, generator):
        """Return rows x with each category drawn again, given the rest of its row."""
        x = x.clone()
        for j in self.categorical.tolist():
            x[:, j] = torch.nan
            output = self.decoder(self.encode(x))
            x[:, j] = self.likelihood.sample(output, generator)[:, j]
        return x

    def complete(self, x, generator):
        """Return rows x with the missing cells drawn, shape (n, n_completions, d).

        Codes are drawn from the posterior given the observed cells. Every row gets the
        same random numbers, so that its completions do not depend on the others'.
        """
        log_weights, _, output = self._log_weights(x, self.posterior(x), self.noise)
        weights, state = log_weights.softmax(0), generator.get_state()
        rows = []
        for i in range(len(x)):
            generator.set_state(state)
            chosen = torch.multinomial(
                weights[:, i], _N_COMPLETIONS, replacement=True, generator=generator
            )
            rows.append(self.likelihood.sample(output[chosen, i], generator))
        generator.set_state(state)  # for the rows of the next batch
        return torch.where(x.isnan()[:, None], torch.stack(rows), x[:, None])

    def elbo(self, x):
        """Return minus the terms of the loss of every row, shape (n, 2).

        The expectation is a mean over the draws of `noise`, the same for every row.
        """
        posterior = self.posterior(x)
        kl = _divergence(*posterior).sum(1)
        total = torch.zeros_like(kl)
        for noise in self._noise_in_parts(len(x)):
            total += self._cells(x, posterior, noise)[0].sum((0, 2))
        return torch.stack([total / len(self.noise), -kl], dim=1)

    def log_prob(self, x):
        """Return the importance-weighted bound of log p(x), shape (n,).

        It is the log-density of the observed cells. The draws z = mean + std * noise
        take the same noise for every row; they are made a part at a time.
        """
        posterior = self.posterior(x)
        parts = [
            self._log_weights(x, posterior, noise)[0].logsumexp(0)
            for noise in self._noise_in_parts(len(x))
        ]
        return torch.stack(parts).logsumexp(0) - math.log(len(self.noise))

    def expected_log_prob(self, x):
        """Return the posterior mean of log p(x|z) of every cell, 0 where it is missing.

        It is a mean over the draws of `log_prob`, each weighted by its share in the
        likelihood of the observed cells; shape (n, n_columns).
        """
        posterior = self.posterior(x)
        expected = x.new_zeros(x.shape)
        log_total = x.new_full((len(x),), -torch.inf)
        for noise in self._noise_in_parts(len(x)):
            log_weights, cells, _ = self._log_weights(x, posterior, noise)
            log_part = log_weights.logsumexp(0)
            log_total = log_total.logaddexp(log_part)
            weights = (log_weights - log_part).exp()
            of_part = torch.einsum("kn,knj->nj", weights, cells)
            share = (log_part - log_total).exp()[:, None]
            expected = torch.lerp(expected, of_part, share)
        return expected

    def _log_weights(self, x, posterior, noise):
        """Return log p(x|z) + log p(z) - log q(z|x), and what `_cells` returns first.

        All have the shape (n_draws, n, ...). p(x|z) is of the observed cells.
        """
        cells, output, z = self._cells(x, posterior, noise)
        log_ratio = 0.5 * (noise[:, None].square() - z.square() + posterior[1])
        return cells.sum(-1) + log_ratio.sum(-1), cells, output

    def _cells(self, x, posterior, noise):
        """Return log p(x|z) of every cell, the decoder's output, and the draws z."""
        mean, log_variance = posterior
        z = mean + (0.5 * log_variance).exp() * noise[:, None]
        output = self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        holes = x.isnan()
        cells = self.likelihood.log_prob(torch.where(holes, self.mean, x), output)
        return cells.masked_fill(holes, 0.0), output, z

    def _noise_in_parts(self, n):
        """Yield the noise, so much of it at a time as memory allows for n rows."""
        for block in blocks(len(self.noise), n, _MOST_DRAWS):
            yield self.noise[block]


def _divergence(mean, log_variance):
    """Return the KL divergence from N(0, 1) of every latent, (n, n_components)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


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
        decoder = backbone.decoder(k, likelihood.n_outputs)
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
        for block in blocks(len(holed), 1, _MOST_COMPLETED):
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
        widest = max(p.shape[0] for p in self.module_.parameters() if p.ndim)
        cells_per_row = widest * len(self.module_.noise)
        return self._run(verb, X, generator, cells_per_row).astype(np.float64)

    def _log_jacobian(self, X):
        """Return what brings log-densities of cells into the user's units."""
        log_jacobian = self.module_.likelihood.log_jacobian
        return self.table_.log_slope(X) + np.where(np.isnan(X), 0.0, log_jacobian)

    def _completed(self, X):
        """Draw the missing cells of rows, shape (n, n_completions, n_features)."""
        generator = torch.Generator().manual_seed(0)
        matrix = self._of_draws("complete", X, generator)
        completed = self._to_rows(matrix.reshape(-1, X.shape[1]))
        X = np.repeat(X, _N_COMPLETIONS, axis=0)
        completed = np.where(np.isnan(X), completed, X)
        return completed.reshape(-1, _N_COMPLETIONS, X.shape[1])

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
        codes = self._encode_some(rows, seed)
        self._learn_to_generate(codes, seed)
        self.active_units_ = active_units(codes)
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

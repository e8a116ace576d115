"""The variational autoencoder: a latent-variable model with densities and samples."""

import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skrepr._base import DecodingTransformer
from skrepr._engine import is_own
from skrepr._inputs import ColumnEncoder
from skrepr._sklearn import Interval
from skrepr._torch import apply, for_inference
from skrepr.likelihoods import average, build_likelihood, residual

_LOG_VARIANCE_RANGE = (-12.0, 6.0)  # keeps exp and its gradient finite


class VAEModule(nn.Module):
    """Encoder q(z|x), decoder p(x|z) and the prior N(0, I).

    The loss is minus the evidence lower bound (ELBO), a mean over rows of

        - E_q[log p(x|z)]  +  weight * KL(q(z|x) || N(0, I)),

    log-densities summed over observed cells and the KL divergence over latents. The
    weight rises to beta while progress goes from 0 to `warmup`.
    """

    noise: torch.Tensor
    mean: torch.Tensor

    def __init__(self, encoder, decoder, likelihood, noise, beta, warmup, columns):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.register_buffer("noise", noise)  # (n_importance_samples, n_components)
        self.register_buffer("mean", torch.as_tensor(columns.mean).float())
        self.beta = beta
        self.warmup = warmup

    @property
    def n_components(self):
        return self.noise.shape[1]

    def posterior(self, x):
        """Return mean and log-variance of q(z|x), each (n, n_components)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_RANGE)

    def loss(self, batch):
        x = batch.x
        mean, log_variance = self.posterior(x)
        noise = torch.empty_like(mean).normal_(generator=batch.generator)
        z = torch.addcmul(mean, noise, (0.5 * log_variance).exp())
        log_prob = self.likelihood.log_prob(x, self.decoder(z))
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return {
            "reconstruction": -log_prob.sum() / len(x),
            "kl": self._kl_weight(batch.progress) * (kl.sum() / len(x)),
        }

    def _kl_weight(self, progress):
        if self.warmup == 0:
            return self.beta
        return self.beta * (progress / self.warmup).clamp(max=1)

    def by_hand(self, stacks):
        if not self.encoder.is_plain:
            return None
        encoder, decoder = stacks.get(self.encoder.network), stacks.get(self.decoder)
        log_prob_and_slope = getattr(self.likelihood, "log_prob_and_slope", None)
        if (
            encoder is None
            or decoder is None
            or log_prob_and_slope is None
            or not is_own(self.likelihood)
        ):
            return None

        def loss_and_gradients(batch):
            x, factor = batch.x, 1 / batch.x.shape[0]
            posterior, encoding = encoder.forward(x)
            mean, unclamped = posterior.chunk(2, dim=1)
            log_variance = unclamped.clamp(*_LOG_VARIANCE_RANGE)
            noise = torch.empty_like(mean).normal_(generator=batch.generator)
            deviation = (0.5 * log_variance).exp_().mul_(noise)
            output, decoding = decoder.forward(mean + deviation)
            log_prob, slope = log_prob_and_slope(x, output, -factor)
            slope = decoder.backward(decoding, slope)
            # z = mean + exp(log_variance / 2) noise, and the terms of the KL divergence
            # are (mean² + exp(log_variance) - 1 - log_variance) / 2.
            kl_weight = factor * self._kl_weight(batch.progress)
            variance = log_variance.exp()
            kl = 0.5 * (mean.square().sum() + (variance - 1 - log_variance).sum())
            by_mean = slope + kl_weight * mean
            by_log_variance = 0.5 * (slope * deviation + kl_weight * (variance - 1))
            by_log_variance *= unclamped == log_variance
            slope = torch.cat([by_mean, by_log_variance], dim=1)
            encoder.backward(encoding, slope, to_inputs=False)
            return {"reconstruction": log_prob, "kl": kl_weight * kl}

        return loss_and_gradients

    def after_step(self):
        pass

    def encode(self, x):
        return self.posterior(x)[0]

    def decode(self, z):
        return self.likelihood.mean(self.decoder(z))

    def reconstruct(self, x):
        return self.decode(self.encode(x))

    def sample(self, z, generator):
        return self.likelihood.sample(self.decoder(z), generator)

    def residuals(self, x):
        """Return how far x is from its reconstruction, NaN where it is missing."""
        return residual(self.likelihood, x, self.decoder(self.encode(x)))

    def fill(self, x):
        """Return x with its mean given the observed cells where it is missing.

        Of a category it is the most probable one. The mean is over draws of the code,
        each weighted by its share in the likelihood of the observed cells.
        """
        output, log_weights = self._draws(x)
        known = average(self.likelihood, output, log_weights.softmax(0))
        return torch.where(x.isnan(), known, x)

    def log_weights(self, x):
        """Return log p(x|z) + log p(z) - log q(z|x), shape (n_draws, n).

        The draws z = mean + std * noise take the same noise for every row. p(x|z) is
        of the observed cells.
        """
        return self._draws(x)[1]

    def _draws(self, x):
        """Return the decoder's output for the draws, and their `log_weights`."""
        mean, log_variance = self.posterior(x)
        noise = self.noise[:, None, :]
        z = mean + (0.5 * log_variance).exp() * noise
        output = self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        log_ratio = 0.5 * (noise.square() - z.square() + log_variance)
        holes = x.isnan()
        cells = self.likelihood.log_prob(torch.where(holes, self.mean, x), output)
        log_prob = cells.masked_fill(holes, 0.0).sum(-1)
        return output, log_prob + log_ratio.sum(-1)

    def log_prob(self, x):
        """Return the importance-weighted bound of log p(x), shape (n,).

        It is the log-density of the observed cells.
        """
        return self.log_weights(x).logsumexp(0) - math.log(len(self.noise))


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
    backbone : {"mlp"} or Backbone, default="mlp"
        The network, see :class:`~skrepr.backbones.MLP`.
    likelihood : {"gaussian", "student_t", "mixture", "bernoulli", "poisson", \
            "negative_binomial"}, Likelihood or dict, default="gaussian"
        Distribution of a row given its code: normal around the decoder's output, with
        one noise scale learned for all standardised columns, Bernoulli for columns in
        [0, 1], or another one of :mod:`skrepr.likelihoods`. A dict from names of
        columns (from positions, if X is an array) gives some of the columns another
        one than "gaussian". Categorical columns have the probabilities of their
        categories.
    beta : float, default=1.0
        Weight of the KL divergence. Only 1 makes the loss the ELBO; larger values
        regularise the codes (beta-VAE).
    kl_warmup : float, default=0.2
        Fraction of the training during which the weight of the KL divergence rises from
        0 to `beta`.
    n_importance_samples : int, default=32
        Draws of the code behind each row's log-likelihood.
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

    _parameter_constraints: dict = {
        **DecodingTransformer._parameter_constraints,
        "beta": [Interval(Real, 0, None, closed="left")],
        "kl_warmup": [Interval(Real, 0, 1, closed="both")],
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
        n_importance_samples=32,
        trim=0.0,
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
        self.likelihood = likelihood
        self.beta = beta
        self.kl_warmup = kl_warmup
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
        return VAEModule(
            ColumnEncoder(columns, backbone, 2 * k),
            backbone.decoder(k, likelihood.n_outputs),
            likelihood,
            torch.randn(self.n_importance_samples, k, dtype=torch.float32),
            self.beta,
            self.kl_warmup,
            columns,
        )

    def score_samples(self, X):
        """Compute the log-likelihood of every row, an anomaly score.

        It is the importance-weighted bound of log p(x), which the ELBO never exceeds,
        from draws that are fixed in the fitted model: two calls give the same numbers,
        and a row's score does not depend on the rows beside it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training rows.

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            Log-densities (log-probabilities for a Bernoulli likelihood) in the user's
            units; the higher, the more normal. Columns that were constant in training
            contribute 0, and so do cells that are missing: the log-density is that of
            the others.
        """
        X = self._validate_rows(X)
        widest = max(p.shape[0] for p in self.module_.parameters() if p.ndim)
        scores = self._apply(
            "log_prob",
            X,
            to_matrix=self.table_.to_matrix,
            cells_per_row=widest * len(self.module_.noise),
        )
        log_jacobian = np.broadcast_to(
            self.module_.likelihood.log_jacobian, X.shape[1:]
        )
        missing = np.isnan(X)
        return scores.astype(np.float64) + log_jacobian.sum() - missing @ log_jacobian

    def score(self, X, y=None):
        """Compute the mean log-likelihood of the rows.

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
            Mean of `score_samples`, in the user's units.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples=1, random_state=None):
        """Draw new rows: codes from the prior, rows from the likelihood.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Determines the rows drawn.

        Returns
        -------
        X : ndarray or DataFrame of shape (n_samples, n_features)
            Rows in the user's units, in the container the estimator was fitted on
            (array, pandas or polars), with the dtypes and categories of its columns.
            With the Gaussian likelihood values may leave the range of the data;
            integers are rounded.

        Raises
        ------
        ValueError
            If `n_samples` is not a positive integer.
        """
        check_is_fitted(self)
        whole = isinstance(n_samples, Integral) and not isinstance(n_samples, bool)
        if not whole or n_samples < 1:
            raise ValueError(
                "n_samples must be a positive integer, the number of rows to draw. Got "
                f"{n_samples!r}."
            )
        seed = check_random_state(random_state).randint(2**31 - 1)
        generator = torch.Generator().manual_seed(int(seed))
        shape = int(n_samples), self._n_features_out
        z = torch.randn(shape, generator=generator, dtype=torch.float32)
        module = for_inference(self.module_, "cpu", np.float32)
        matrix = apply(module, lambda codes: module.sample(codes, generator), z.numpy())
        return self._to_rows(matrix, np.float64)

"""Latent densities: where the codes of new rows are drawn from."""

import copy
import inspect
import warnings
from numbers import Integral, Real

import numpy as np
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture
from torch import nn

from skrepr._sklearn import Interval, InvalidParameterError
from skrepr._training._threads import ProcessLock
from skrepr.parts import Part

__all__ = [
    "GaussianMixture",
    "KernelDensity",
    "LatentDensity",
    "Prior",
]

MAX_CODES = 5000  # to fit a density to, or to keep
_REGULARISATION = 1e-4  # of covariances, in variances of the codes
_lock = ProcessLock()


class LatentDensity(Part):
    """Base class of the latent densities.

    A density of scikit-learn's, or of the like, may stand in the place of one: an
    estimator with ``fit(X)`` and ``sample(n_samples)``, such as a
    ``BayesianGaussianMixture`` or a ``KernelDensity``. It is cloned, never fitted
    itself, and follows the estimator's ``random_state``, for which it must have a
    parameter or its ``sample`` an argument of this name.

    A latent density of your own implements `build`.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_wine
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.latent_densities import LatentDensity
    >>> class Bootstrap(LatentDensity):
    ...     def build(self, codes, seed):
    ...         return Drawn(codes)
    >>> class Drawn(torch.nn.Module):
    ...     def __init__(self, codes):
    ...         super().__init__()
    ...         self.register_buffer("codes", torch.as_tensor(codes).float())
    ...
    ...     def sample(self, n_samples, generator):
    ...         size = n_samples,
    ...         index = torch.randint(len(self.codes), size, generator=generator)
    ...         return self.codes[index]
    >>> ae = AutoencoderTransformer(latent_density=Bootstrap(), max_iter=2)
    >>> ae.fit(load_wine().data).sample(3).shape
    (3, 13)
    """

    def build(self, codes, seed):
        """Fit the density to the codes of training rows.

        Parameters
        ----------
        codes : ndarray of shape (n_codes, n_components), float64
            Of at most 5000 training rows, drawn at random.
        seed : int
            For every random number of the fit.

        Returns
        -------
        torch.nn.Module
            Its ``sample(n_samples, generator)`` draws codes, a float32 tensor
            (n_samples, n_components) on the CPU, with random numbers from
            ``generator``, a ``torch.Generator``. What it has learned is in buffers.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


class Prior(LatentDensity, name="prior"):
    """The standard normal distribution, the prior of a variational autoencoder.

    Codes of training rows need not be distributed like the prior, and what the decoder
    makes of codes that no training row has is anyone's guess: `KernelDensity` and
    `GaussianMixture` draw better rows. An autoencoder has no prior.

    References
    ----------
    Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014.

    Examples
    --------
    >>> from skrepr import VAETransformer
    >>> VAETransformer(latent_density="prior")
    VAETransformer(latent_density='prior')
    """

    def build(self, codes, seed):
        """Fit the density to the codes of training rows."""
        return _Prior(codes.shape[1])


class GaussianMixture(LatentDensity, name="gaussian_mixture"):
    """A mixture of normal distributions with full covariances.

    The number of components is 1, 2, 4, ..., doubled as long as the Bayesian
    information criterion gets better.

    Parameters
    ----------
    max_components : int, default=64
        The largest number of components.

    References
    ----------
    Ghosh, Sajjadi, Vergari, Black and Schölkopf, "From Variational to Deterministic
    Autoencoders", ICLR 2020, fit such a mixture to codes after the training.

    Schwarz, "Estimating the Dimension of a Model", Annals of Statistics 6 (1978).

    Examples
    --------
    >>> from skrepr import VAETransformer
    >>> from skrepr.latent_densities import GaussianMixture
    >>> VAETransformer(latent_density=GaussianMixture(max_components=10))
    VAETransformer(latent_density=GaussianMixture(max_components=10))
    """

    _parameter_constraints: dict = {
        "max_components": [Interval(Integral, 1, None, closed="left")]
    }

    def __init__(self, max_components=64):
        self.max_components = max_components

    def build(self, codes, seed):
        """Fit the density to the codes of training rows."""
        mean, std = _mean_and_std(codes)
        codes = (codes - mean) / std
        max_components = min(self.max_components, len(codes) // 2)
        # Its initialisation has no array API, whether or not the user has asked for it.
        with config_context(array_api_dispatch=False):
            best = _mixture(codes, 1, seed)
            while 2 * best.n_components <= max_components:
                finer = _mixture(codes, 2 * best.n_components, seed)
                if finer.bic(codes) >= best.bic(codes):
                    break
                best = finer
        spreads = np.linalg.cholesky(best.covariances_)
        return _Mixture(best.weights_, mean + std * best.means_, std[:, None] * spreads)


class KernelDensity(LatentDensity, name="kernel"):
    """A smoothed bootstrap: codes of training rows, moved at random.

    A code is drawn from those of the training rows and moved by normal noise with the
    covariance of all codes, ``bandwidth`` times their standard deviations; both are
    then shrunk towards the mean of all codes so that their covariance is kept.

    Parameters
    ----------
    bandwidth : float, default=0.6
        In (0, 1]. With 1 it is a normal distribution; the smaller, the nearer are new
        rows to those of the training.

    References
    ----------
    Silverman and Young, "The Bootstrap: To Smooth or Not to Smooth?", Biometrika 74
    (1987).

    Examples
    --------
    >>> from skrepr import VAETransformer
    >>> from skrepr.latent_densities import KernelDensity
    >>> VAETransformer(latent_density=KernelDensity(bandwidth=0.8))
    VAETransformer(latent_density=KernelDensity(bandwidth=0.8))
    """

    _parameter_constraints: dict = {"bandwidth": [Interval(Real, 0, 1, closed="right")]}

    def __init__(self, bandwidth=0.6):
        self.bandwidth = bandwidth

    def build(self, codes, seed):
        """Fit the density to the codes of training rows."""
        mean, std = _mean_and_std(codes)
        codes = (codes - mean) / std
        covariance = codes.T @ codes / len(codes)
        spread = np.linalg.cholesky(covariance + _REGULARISATION * np.eye(len(std)))
        centres = mean + std * np.sqrt(1 - self.bandwidth**2) * codes
        return _Mixture(
            np.full(len(codes), 1 / len(codes)),
            centres,
            self.bandwidth * std[None, :, None] * spread,
        )


class _OfDensity(LatentDensity, wraps="an estimator with fit and sample"):
    """What an estimator with ``fit`` and ``sample`` is in the place of a density."""

    def __init__(self, estimator):
        self.estimator = estimator

    @classmethod
    def _can_wrap(cls, value):
        has_verbs = hasattr(value, "fit") and hasattr(value, "sample")
        return isinstance(value, BaseEstimator) and has_verbs

    def _validate_params(self):
        super()._validate_params()
        estimator = self.estimator
        if hasattr(estimator, "_parameter_constraints"):  # as scikit-learn's own have
            estimator._validate_params()
        if not (_takes_seed(estimator) or _takes_seed_to_sample(estimator)):
            raise InvalidParameterError(
                f"{estimator!r} in the place of a latent density cannot be seeded. "
                "Expected a parameter random_state, of its own or of its sample."
            )

    def build(self, codes, seed):
        estimator = clone(self.estimator)
        if _takes_seed(estimator):
            estimator.set_params(random_state=seed)
        with config_context(array_api_dispatch=False):
            return _Estimator(estimator.fit(codes))


def _takes_seed(estimator):
    return "random_state" in estimator.get_params(deep=False)


def _takes_seed_to_sample(estimator):
    return "random_state" in inspect.signature(estimator.sample).parameters


def _mixture(codes, n_components, seed):
    # Python's filters are those of all threads.
    with _lock, warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        return SklearnGaussianMixture(
            n_components, reg_covar=_REGULARISATION, random_state=seed
        ).fit(codes)


def _mean_and_std(codes):
    """Return means and standard deviations of the codes, 1 where it is 0."""
    std = codes.std(axis=0)
    return codes.mean(axis=0), np.where(std > 0, std, 1.0)


def _normal(shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


class _Prior(nn.Module):
    def __init__(self, n_components):
        super().__init__()
        self.n_components = n_components

    def sample(self, n_samples, generator):
        shape = n_samples, self.n_components
        return _normal(shape, generator)


class _Mixture(nn.Module):
    """Normal distributions of given weights, means and square roots of covariances.

    There is a root for every component, or one for all.
    """

    weights: torch.Tensor
    means: torch.Tensor
    roots: torch.Tensor

    def __init__(self, weights, means, roots):
        super().__init__()
        for name, array in (("weights", weights), ("means", means), ("roots", roots)):
            self.register_buffer(name, torch.as_tensor(array).float())

    def sample(self, n_samples, generator):
        chosen = torch.multinomial(
            self.weights, n_samples, replacement=True, generator=generator
        )
        shape = n_samples, self.means.shape[1], 1
        noise = _normal(shape, generator)
        codes = self.means[chosen]
        for k in range(len(self.roots)):
            drawn = chosen == k if len(self.roots) > 1 else slice(None)
            codes[drawn] += (self.roots[k] @ noise[drawn])[..., 0]
        return codes


class _Estimator(nn.Module):
    """A fitted estimator of the user's."""

    def __init__(self, estimator):
        super().__init__()
        self.estimator = estimator

    def sample(self, n_samples, generator):
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device="cpu"))
        estimator, options = copy.copy(self.estimator), {}
        if _takes_seed_to_sample(estimator):
            options["random_state"] = seed
        else:
            estimator.set_params(random_state=seed)
        with config_context(array_api_dispatch=False):
            codes = estimator.sample(n_samples, **options)
        if isinstance(codes, tuple):  # a mixture tells the components, too, in order
            order = torch.randperm(n_samples, generator=generator).numpy()
            codes = codes[0][order]
        return torch.as_tensor(np.asarray(codes)).float()

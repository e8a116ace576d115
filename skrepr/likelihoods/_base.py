"""What likelihoods share."""

import numpy as np
import torch
from torch import nn

from skrepr.parts import Part

# Adam moves a parameter by about the learning rate a step: right for weights, slow for
# a log-scale. With this factor a thousand steps suffice.
SCALE_GAIN = 10.0


class Likelihood(Part):
    """Base class of the likelihoods.

    A likelihood of your own implements `build`.

    Attributes
    ----------
    in_user_units : bool
        Whether it models a column in the user's units, and knows what values there are
        (flags, counts). Such columns are standardised even with
        ``standardize="quantile"``, and generated values are left as they are drawn.
    """

    in_user_units = False

    def build(self, columns, *, noise=True):
        """Build the torch module of the likelihood.

        Parameters
        ----------
        columns : Columns
            The layout of the matrix.
        noise : bool
            False leaves out a noise scale of its own, for models that are trained on
            ``cost`` alone.

        Returns
        -------
        LikelihoodModule
            The columns given to it are all numeric.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")

    def groups(self, columns):
        """List the likelihoods of the numeric columns.

        Parameters
        ----------
        columns : Columns

        Returns
        -------
        list of tuple (Likelihood, ndarray of int)
            Each with the positions of its columns; by default itself, with all.
        """
        numeric = np.flatnonzero(columns.numeric)
        return [(self, numeric)] if len(numeric) else []


class LikelihoodModule(nn.Module):
    """Base class of the modules of likelihoods.

    A subclass implements `log_prob`, `mean` and `sample`; the rest has defaults. Rows
    ``x`` are of the matrix, none of their cells missing, and columns that do not vary
    have the log-density and the cost 0: `only_varying` sees to it.

    Parameters
    ----------
    columns : Columns
        The layout of the matrix.

    Attributes
    ----------
    n_outputs : int
        The number of values expected of the decoder for a row; by default one a column.
    log_jacobian : ndarray of shape (n_columns,)
        What to add to `log_prob` to have it in the user's units. By default it is for
        densities; the log-probabilities of values that are few have zeros.
    has_slopes : bool
        Whether `cost_and_slope` and `log_prob_and_slope` are implemented, with which
        training is faster. Only the package's own are asked for them: the losses of
        modules of your own are left to torch's autograd.

    Examples
    --------
    >>> import math
    >>> import torch
    >>> from sklearn.datasets import load_wine
    >>> from skrepr import VAETransformer
    >>> from skrepr.likelihoods import Likelihood, LikelihoodModule
    >>> class Laplace(Likelihood):
    ...     def build(self, columns, *, noise=True):
    ...         return LaplaceModule(columns)
    >>> class LaplaceModule(LikelihoodModule):
    ...     def log_prob(self, x, output):
    ...         return self.only_varying(-(x - output).abs() - math.log(2))
    ...
    ...     def mean(self, output):
    ...         return output
    ...
    ...     def sample(self, output, generator):
    ...         u = torch.empty_like(output).uniform_(-1, 1, generator=generator)
    ...         return output - u.sign() * (1 - u.abs()).log()
    >>> vae = VAETransformer(likelihood=Laplace(), max_iter=5, random_state=0)
    >>> vae.fit(load_wine().data).sample(3).shape
    (3, 13)
    """

    weight: torch.Tensor | None
    has_slopes: bool = False

    def __init__(self, columns):
        super().__init__()
        self.n_outputs = len(columns)
        self.log_jacobian = np.where(columns.varies, -np.log(columns.scale), 0.0)
        self.n_varying = int(columns.varies.sum())
        all_vary = bool(columns.varies.all())
        weight = None if all_vary else torch.as_tensor(columns.varies).float()
        self.register_buffer("weight", weight)

    def only_varying(self, cells):
        """Put 0 into the cells (..., n_columns) of columns that do not vary."""
        return cells if self.weight is None else cells * self.weight

    def log_prob(self, x, output):
        """Compute the log-density of every cell.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)
        output : torch.Tensor of shape (..., n, n_outputs)
            The decoder's.

        Returns
        -------
        torch.Tensor of shape (..., n, n_columns)
        """
        raise NotImplementedError(f"{type(self).__name__} must implement log_prob.")

    def mean(self, output):
        """Return the expected rows of the matrix.

        Parameters
        ----------
        output : torch.Tensor of shape (..., n, n_outputs)

        Returns
        -------
        torch.Tensor of shape (..., n, n_columns)
        """
        raise NotImplementedError(f"{type(self).__name__} must implement mean.")

    def sample(self, output, generator):
        """Draw rows of the matrix; without a noise scale, the expected ones.

        Parameters
        ----------
        output : torch.Tensor of shape (..., n, n_outputs)
        generator : torch.Generator
            For every random number.

        Returns
        -------
        torch.Tensor of shape (..., n, n_columns)
        """
        raise NotImplementedError(f"{type(self).__name__} must implement sample.")

    def cost(self, x, output):
        """Compute what an autoencoder minimises, for every cell: by default -log_prob.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)
        output : torch.Tensor of shape (..., n, n_outputs)

        Returns
        -------
        torch.Tensor of shape (..., n, n_columns)
        """
        return -self.log_prob(x, output)

    def residual(self, x, output):
        """Return how far every cell is from what is expected.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)
        output : torch.Tensor of shape (n, n_outputs)

        Returns
        -------
        torch.Tensor of shape (n, n_columns)
        """
        return x - self.mean(output)

    def average(self, output, weights):
        """Return the expected rows of weighted draws of the output.

        Parameters
        ----------
        output : torch.Tensor of shape (n_draws, n, n_outputs)
        weights : torch.Tensor of shape (n_draws, n)
            They sum to 1 over the draws.

        Returns
        -------
        torch.Tensor of shape (n, n_columns)
        """
        return (weights[..., None] * self.mean(output)).sum(0)

    def check(self, X):
        """Raise a ValueError if rows cannot have come from this likelihood.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
            In the user's units. NaN is missing.
        """

    def restore(self, X):
        """Bring decoded rows back to the values that this likelihood allows.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
            In the user's units.

        Returns
        -------
        ndarray of shape (n_samples, n_columns)
        """
        return X

    # For training without autograd.

    def targets(self, x):
        """Return what is compared with outputs: by default the rows themselves.

        It is computed for many batches at once, and cut into them by the first axis.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)

        Returns
        -------
        torch.Tensor, or tuples of such
            Each with a first axis of length n.
        """
        return x

    def cost_and_slope(self, targets, output, factor):
        """Return the sum of `cost` times a factor, and its derivative by the output.

        Parameters
        ----------
        targets : torch.Tensor, or tuples of such
            Of n rows.
        output : torch.Tensor of shape (n, n_outputs)
        factor : float or torch.Tensor of shape (n, n_columns)
            Of every cell: 0 where it is to have no share.

        Returns
        -------
        cost : torch.Tensor
            0-d.
        slope : torch.Tensor of shape (n, n_outputs)
        """
        raise NotImplementedError(f"{type(self).__name__} has no slopes.")

    def log_prob_and_slope(self, targets, output, factor):
        """Return the same of `log_prob`; parameters get their gradients, too."""
        raise NotImplementedError(f"{type(self).__name__} has no slopes.")

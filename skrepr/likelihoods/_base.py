"""What likelihoods share."""

import numpy as np
import torch
from torch import nn

from skrepr.parts import Part

# Adam moves a parameter by about the learning rate a step: right for weights, slow for
# a log-scale. With this factor a thousand steps suffice.
_SCALE_GAIN = 10.0


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
        torch.nn.Module
            With ``n_outputs``, the number of values it expects of the decoder, and,
            for rows ``x`` of the matrix, shape (n, n_columns), and the decoder's
            output, shape (..., n, n_outputs):

            - ``log_prob(x, output)``: log-density of every cell,
            - ``cost(x, output)``: what an autoencoder minimises, for every cell,
            - ``mean(output)``: expected rows of the matrix,
            - ``sample(output, generator)``: random rows of the matrix; without a noise
              scale the expected ones.

            - ``check(X)``: raise a ValueError if rows X, an ndarray in the user's
              units, cannot have come from this likelihood,
            - ``restore(X)``: bring decoded rows X, an ndarray in the user's units, back
              to the values this likelihood allows,
            - ``log_jacobian``: what to add to ``log_prob`` to have the log-density in
              the user's units, an ndarray of shape (n_columns,).

            Columns that do not vary have the log-density and the cost 0. The columns
            given to a likelihood are all numeric, and no cell of ``x`` is missing; some
            of X may be (NaN).
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


class _LikelihoodModule(nn.Module):
    """What the modules share: columns that do not vary weigh nothing.

    The cost is minus the log-probability where there is nothing more natural.
    """

    weight: torch.Tensor | None

    def __init__(self, columns):
        super().__init__()
        self.log_jacobian = np.zeros(len(columns))
        self.n_outputs = len(columns)
        self.n_varying = int(columns.varies.sum())
        everything = bool(columns.varies.all())
        weight = None if everything else torch.as_tensor(columns.varies).float()
        self.register_buffer("weight", weight)

    def check(self, X):
        pass

    def restore(self, X):
        return X

    def log_prob(self, x, output):
        raise NotImplementedError

    def cost(self, x, output):
        return -self.log_prob(x, output)

    def _weigh(self, cells):
        return cells if self.weight is None else cells * self.weight

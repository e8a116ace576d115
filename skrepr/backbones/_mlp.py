"""The multi-layer perceptron."""

from itertools import pairwise
from numbers import Real

import numpy as np
from torch import nn

from skrepr._sklearn import Interval, StrOptions
from skrepr.backbones._base import Backbone

_ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}

_MIN_WIDTH = 128  # of the hidden layers of "auto"
_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class MLP(Backbone, name="mlp"):
    """Multi-layer perceptron; the decoder mirrors the encoder.

    Every hidden layer is a linear map, a normalisation, an activation and dropout, in
    this order. Without hidden layers encoder and decoder are linear.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int or "auto", default="auto"
        Widths of the encoder's hidden layers, from the columns to the code. "auto" is
        two layers of 128 units, or of as many as the network has numbers at its code's
        end if these are more: a layer should not hold less than the code.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"}, default="relu"
        Activation of the hidden layers.
    norm : {"batch", "layer"} or None, default=None
        Normalisation of the hidden layers.
    dropout : float, default=0.0
        Share of the hidden units that is dropped in a training step, in [0, 1).

    Examples
    --------
    >>> from skrepr.backbones import MLP
    >>> MLP(hidden_layer_sizes=(64,)).encoder(8, 2)
    Sequential(
      (0): Linear(in_features=8, out_features=64, bias=True)
      (1): ReLU()
      (2): Linear(in_features=64, out_features=2, bias=True)
    )
    """

    _parameter_constraints: dict = {
        "hidden_layer_sizes": "no_validation",  # in _validate_params
        "activation": [StrOptions(set(_ACTIVATIONS))],
        "norm": [StrOptions(set(_NORMS)), None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self, hidden_layer_sizes="auto", activation="relu", norm=None, dropout=0.0
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.norm = norm
        self.dropout = dropout

    def _validate_params(self):
        super()._validate_params()
        sizes = self.hidden_layer_sizes
        if not (isinstance(sizes, str) and sizes == "auto") and not (
            isinstance(sizes, tuple | list | np.ndarray)
            and np.ndim(sizes) == 1
            and all(map(_is_positive, sizes))
        ):
            raise ValueError(
                "The 'hidden_layer_sizes' parameter of MLP must be 'auto' or a tuple "
                "of positive integers, such as (128, 128), or () for a linear map. Got "
                f"{sizes!r} instead."
            )

    def encoder(self, n_inputs, n_outputs):
        """Build the network from columns to codes.

        Parameters
        ----------
        n_inputs : int
        n_outputs : int

        Returns
        -------
        torch.nn.Sequential
            Maps (n, n_inputs) to (n, n_outputs).
        """
        return self._stack([n_inputs, *self._hidden(n_outputs), n_outputs])

    def decoder(self, n_inputs, n_outputs):
        """Build the network from codes to the parameters of a likelihood.

        Parameters
        ----------
        n_inputs : int
        n_outputs : int

        Returns
        -------
        torch.nn.Sequential
            Maps (n, n_inputs) to (n, n_outputs).
        """
        return self._stack([n_inputs, *self._hidden(n_inputs)[::-1], n_outputs])

    def _hidden(self, n_codes):
        if isinstance(self.hidden_layer_sizes, str):  # "auto"
            return 2 * (max(_MIN_WIDTH, n_codes),)
        return self.hidden_layer_sizes

    def _stack(self, sizes):
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes[:-1]):
            layers.append(nn.Linear(n_in, n_out))
            if self.norm is not None:
                layers.append(_NORMS[self.norm](n_out))
            layers.append(_ACTIVATIONS[self.activation]())
            if self.dropout > 0:
                layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def _is_positive(size):
    return isinstance(size, int | np.integer) and size is not True and size > 0

"""Penalties on the code of an autoencoder, and constraints of it."""

from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import nn

from skrepr._sklearn import Interval
from skrepr.parts import Part

__all__ = [
    "L1",
    "Contractive",
    "EncodedBatch",
    "Penalty",
    "TopK",
]

# Of the encoder's inputs, whose standard deviation is 1: float32 still tells the codes
# apart, and the encoder is nearly linear.
_STEP = 1e-2


@dataclass
class EncodedBatch:
    """The codes of a batch, and what they were made of.

    Attributes
    ----------
    codes : torch.Tensor of shape (n, n_components)
        Part of the autograd graph.
    inputs : torch.Tensor of shape (n, n_inputs)
        What the network reads: standardised columns, and what categories and holes are
        turned into.
    network : torch.nn.Module
        It makes the codes of the inputs.
    generator : torch.Generator
        For every random number of the penalty.
    """

    codes: torch.Tensor
    inputs: torch.Tensor
    network: nn.Module
    generator: torch.Generator


class Penalty(Part):
    """Base class of the penalties.

    A penalty of your own implements `build`.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from torch import nn
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.penalties import Penalty
    >>> class Centred(Penalty):
    ...     def build(self, n_components):
    ...         return SquaredMean()
    >>> class SquaredMean(nn.Module):
    ...     def forward(self, encoded):
    ...         return encoded.codes.mean(0).square().sum()
    >>> ae = AutoencoderTransformer(penalty=Centred(), max_iter=2, random_state=0)
    >>> sorted(ae.fit(load_wine().data).history_)
    ['loss', 'penalty', 'reconstruction']
    """

    def build(self, n_components):
        """Build the function that penalises a batch of codes.

        Parameters
        ----------
        n_components : int

        Returns
        -------
        torch.nn.Module or None
            Its ``forward(encoded)`` maps an :class:`EncodedBatch` to a 0-d tensor,
            added to the mean loss of a row. None adds nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")

    def constraint(self, n_components):
        """Build what every code goes through, in training and afterwards.

        Parameters
        ----------
        n_components : int

        Returns
        -------
        torch.nn.Module or None
            Maps codes (n, n_components) to codes of that shape. None, the default,
            leaves them as they are.
        """
        return None


class L1(Penalty, name="l1"):
    """Mean absolute value of the code.

    It makes codes small, and sparse where the data have sparse sources.

    Parameters
    ----------
    weight : float, default=0.01
        Factor of the penalty. The reconstruction loss beside it is a mean over cells:
        for the Gaussian likelihood, the share of the variance left unexplained.

    Examples
    --------
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.penalties import L1
    >>> AutoencoderTransformer(penalty=L1(weight=0.1))
    AutoencoderTransformer(penalty=L1(weight=0.1))
    """

    _parameter_constraints: dict = {"weight": [Interval(Real, 0, None, closed="left")]}

    def __init__(self, weight=0.01):
        self.weight = weight

    def build(self, n_components):
        """Build the function that penalises a batch of codes."""
        return _L1(self.weight)


class Contractive(Penalty, name="contractive"):
    """Squared Frobenius norm of the encoder's Jacobian: codes resist small changes.

    It is estimated from how far the code moves when the encoder's inputs take a small
    step in one random direction: without bias but for the curvature of the encoder, at
    the cost of one more pass through it. Inputs are standardised columns, and what
    categories and holes are turned into. A backbone with dropout, which moves the code
    by itself, is an error.

    Parameters
    ----------
    weight : float, default=0.01
        Factor of the sum of the squared derivatives of all components by all inputs, a
        mean over rows. The reconstruction loss beside it is a mean over cells.

    References
    ----------
    Rifai, Vincent, Muller, Glorot and Bengio, "Contractive Auto-Encoders: Explicit
    Invariance During Feature Extraction", ICML 2011.

    Examples
    --------
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.penalties import Contractive
    >>> AutoencoderTransformer(penalty=Contractive(weight=0.1), augmentation=None)
    AutoencoderTransformer(augmentation=None, penalty=Contractive(weight=0.1))
    """

    _parameter_constraints: dict = {"weight": [Interval(Real, 0, None, closed="left")]}

    def __init__(self, weight=0.01):
        self.weight = weight

    def build(self, n_components):
        """Build the function that penalises a batch of codes."""
        return _Contractive(self.weight)


class TopK(Penalty, name="top_k"):
    """Keep the k components of a code with the largest absolute values: k-sparse codes.

    The others become 0, in training and in `transform`. It is a constraint rather than
    a penalty: it adds nothing to the loss.

    Parameters
    ----------
    k : int, default=4
        Components that stay; all, where the code has fewer.

    References
    ----------
    Makhzani and Frey, "k-Sparse Autoencoders", ICLR 2014.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.penalties import TopK
    >>> ae = AutoencoderTransformer(penalty=TopK(k=2), max_iter=2, random_state=0)
    >>> codes = ae.fit_transform(load_wine().data)
    >>> bool(((codes != 0).sum(axis=1) == 2).all())
    True
    """

    _parameter_constraints: dict = {"k": [Interval(Integral, 1, None, closed="left")]}

    def __init__(self, k=4):
        self.k = k

    def build(self, n_components):
        """Build nothing: the loss stays what it is."""
        return None

    def constraint(self, n_components):
        """Build what every code goes through, in training and afterwards."""
        return _TopK(min(self.k, n_components))


class _L1(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, encoded):
        return self.weight * encoded.codes.abs().mean()


class _Contractive(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, encoded):
        network, inputs = encoded.network, encoded.inputs
        if any(isinstance(layer, nn.Dropout) for layer in network.modules()):
            raise ValueError(
                "The contractive penalty compares two passes through the encoder, and "
                "dropout makes them differ by itself. Expected a backbone without it: "
                "set dropout to 0, or choose another penalty."
            )
        direction = torch.empty_like(inputs).normal_(generator=encoded.generator)
        moved = network(torch.add(inputs, direction, alpha=_STEP))
        slopes = (moved - encoded.codes) / _STEP
        return self.weight * slopes.square().sum() / len(slopes)


class _TopK(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, z):
        kept = z.abs().topk(self.k, dim=1).indices
        return torch.zeros_like(z).scatter(1, kept, z.gather(1, kept))

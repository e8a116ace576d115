"""Penalties on the code of an autoencoder."""

from numbers import Real

from torch import nn

from skrepr._sklearn import Interval
from skrepr.parts import Part


class Penalty(Part):
    """Base class of the penalties.

    A penalty of your own implements `build`.
    """

    def build(self, n_components):
        """Build the function that penalises a batch of codes.

        Parameters
        ----------
        n_components : int

        Returns
        -------
        torch.nn.Module
            Maps codes (n, n_components) to a 0-d tensor, added to the mean loss of a
            row.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build.")


class L1(Penalty):
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


class _L1(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, z):
        return self.weight * z.abs().mean()


Penalty.names = {"l1": L1}

"""What modules of users' parts return, checked before others make use of it.

What is wrong with it would else show far from its origin, in a message of torch's, or,
where shapes happen to broadcast, not at all. Calls in advance are for users' parts
alone: what the package's own return is known from its tests.
"""

from contextlib import contextmanager

import torch
from torch import nn

from skrepr._training._random import Seeded
from skrepr._training._stacks import is_own


def check_tensor(value, shape, owner, method="forward"):
    """Return what a method returned, if it is a tensor of some shape.

    Parameters
    ----------
    value : object
    shape : tuple of int
    owner : object
        Whose method it is.
    method : str

    Returns
    -------
    torch.Tensor

    Raises
    ------
    TypeError
    """
    if isinstance(value, torch.Tensor) and value.shape == shape:
        return value
    raise TypeError(
        f"{type(owner).__name__}.{method} returned {_described(value)}. Expected a "
        f"tensor of shape {tuple(shape)}."
    )


def check_terms(terms, module):
    """Return what a module returned, if it is named terms of a loss.

    Parameters
    ----------
    terms : object
    module : torch.nn.Module

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    TypeError
    """
    if isinstance(terms, dict) and all(map(_is_scalar, terms.values())):
        return terms
    returned = _described(terms)
    if isinstance(terms, dict):
        name = next(name for name, term in terms.items() if not _is_scalar(term))
        returned = f"a dict whose {name!r} is {_described(terms[name])}"
    raise TypeError(
        f"{type(module).__name__}.forward returned {returned}. Expected a dict of "
        "named 0-d tensors, the terms of the loss, such as {'size': z.abs().mean()}."
    )


def build_network(backbone, method, n_inputs, n_outputs):
    """Build a network, and check that its ends fit.

    Parameters
    ----------
    backbone : Backbone
    method : str
        "encoder" or "decoder".
    n_inputs, n_outputs : int

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    TypeError
    """
    network = getattr(backbone, method)(n_inputs, n_outputs)
    check_network(network, n_inputs, n_outputs, backbone, method)
    return network


def check_network(network, n_inputs, n_outputs, owner, method):
    """Raise if what a user's part has built is no network, or its ends do not fit.

    Parameters
    ----------
    network : object
    n_inputs, n_outputs : int
    owner : Part
    method : str

    Raises
    ------
    TypeError
    """
    if is_own(owner):
        return
    returned = _described(network)
    if isinstance(network, nn.Module):
        with rehearsal(network):
            output = network(torch.zeros(2, n_inputs))
        if isinstance(output, torch.Tensor) and output.shape == (2, n_outputs):
            return
        returned = f"a network that maps it to {_described(output)}"
    raise TypeError(
        f"{type(owner).__name__}.{method} returned {returned}. Expected a "
        f"torch.nn.Module that maps a tensor of shape (2, {n_inputs}) to one of shape "
        f"(2, {n_outputs})."
    )


@contextmanager
def rehearsal(module):
    """Call a fresh module without a trace, before its training.

    It is in eval mode meanwhile, and its random numbers come from a generator of their
    own.

    Parameters
    ----------
    module : torch.nn.Module
        On the CPU.

    Yields
    ------
    torch.Generator
    """
    generator = torch.Generator().manual_seed(0)
    was_training = module.training
    module.eval()
    with Seeded(generator):
        yield generator
    module.train(was_training)


def _is_scalar(term):
    return isinstance(term, torch.Tensor) and term.ndim == 0


def _described(value):
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"an object of the class {type(value).__name__}"

"""What modules of users' parts return, checked before others make use of it.

What is wrong with it would else show far from its origin, in a message of torch's, or,
where shapes happen to broadcast, not at all. Calls in advance are for users' parts
alone: what the package's own return is known from its tests.
"""

import copy
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

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
    if isinstance(network, nn.Module) and any(map(is_lazy, network.parameters())):
        returned = "a network with lazy layers"
    elif isinstance(network, nn.Module):
        with rehearsal(network) as (rehearsed, _):
            output = rehearsed(torch.zeros(2, n_inputs))
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
    """Let a copy of a fresh module be called, before the training.

    The module itself stays as it is: its first batch may be what it learns scales from.

    Parameters
    ----------
    module : torch.nn.Module
        On the CPU.

    Yields
    ------
    rehearsed : torch.nn.Module
        In eval mode.
    generator : torch.Generator
        For the random numbers.
    """
    generator = torch.Generator().manual_seed(0)
    with Seeded(generator):
        yield copy.deepcopy(module).eval(), generator


def _is_scalar(term):
    return isinstance(term, torch.Tensor) and term.ndim == 0


def _described(value):
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"an object of the class {type(value).__name__}"

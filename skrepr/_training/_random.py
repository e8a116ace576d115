"""Random numbers: explicit generators, also for layers that have none."""

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

from skrepr._training._stacks import is_own


class Seeded(TorchDispatchMode):
    """Let every random operation of this thread draw from one generator.

    Initialisers, ``torch.randn`` or a dropout layer have no generator of their own and
    draw from torch's global one. Inside ``with Seeded(generator):`` they draw from
    `generator` instead, in this thread only: nothing global is read, seeded or
    restored, so fits may run side by side and other threads see no difference.

    Parameters
    ----------
    generator : torch.Generator
        On the device the operations run on.
    """

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    @classmethod
    def _should_skip_dynamo(cls):
        # To skip torch's compiler, the base class would import it: over a second.
        return False

    # Those of the base class also set flags of the whole process, which threads that
    # enter and leave in turn would not find as they were.
    def __enter__(self):
        _push_mode(self)
        return self

    def __exit__(self, *exc_info):
        _pop_mode()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags or any(
            isinstance(x, torch.Generator) for x in (*args, *kwargs.values())
        ):
            return func(*args, **kwargs)
        if func is torch.ops.aten.native_dropout.default:  # the fused one, on a GPU
            return self._dropout(*args, **kwargs)
        if func is torch.ops.aten.dropout.default:  # whole, in inference mode
            return self._dropout(*args, **kwargs)[0]
        if all(argument.name != "generator" for argument in func._schema.arguments):
            overload = func._overloadname
            name = "generator" if overload == "default" else f"{overload}_generator"
            func = getattr(func.overloadpacket, name)
        return func(*args, **kwargs | {"generator": self.generator})

    def _dropout(self, x, p, train):
        keep = torch.ones_like(x, dtype=torch.bool)
        if not train or p == 0:
            return x.clone(), keep
        keep.bernoulli_(1 - p, generator=self.generator)
        return x * keep * (1 / (1 - p) if p < 1 else 0.0), keep


# Layers that never draw a random number in a forward pass.
_DETERMINISTIC = (
    nn.Sequential,
    nn.Linear,
    nn.BatchNorm1d,
    nn.LayerNorm,
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
)


def may_draw(module):
    """Tell whether a layer of a module may draw random numbers by itself.

    The modules of this package draw from the generator of the batch alone; of others
    only a few layers are known not to.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    bool
    """
    return any(
        type(layer) not in _DETERMINISTIC and not is_own(layer)
        for layer in module.modules()
    )


def generators(seed, device):
    """Make the independent streams of random numbers of one fit.

    Parameters
    ----------
    seed : int
    device : torch.device

    Returns
    -------
    initial : torch.Generator
        On the CPU, for the weights: the same initial weights on every device.
    training : torch.Generator
        On `device`, for the order of the rows, noise, corruption and dropout.
    split : numpy.random.Generator
        For the validation split.
    """
    seeds = np.random.SeedSequence(seed).generate_state(3, np.uint64) >> np.uint64(1)
    return (
        torch.Generator().manual_seed(int(seeds[0])),
        torch.Generator(device).manual_seed(int(seeds[1])),
        np.random.default_rng(seeds[2]),
    )

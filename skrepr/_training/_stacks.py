"""Steps below the cost of autograd: what makes training and inference fast on a CPU.

Small networks spend more of a step between the operations than in them. Three things
help, and none changes the numbers by more than rounding:

- a multi-layer perceptron is one node of the autograd graph, which multiplies matrices
  with NumPy's BLAS, in memory that is kept from step to step;
- its parameters are views of one vector, so that an update is one operation;
- torch keeps to one thread meanwhile: its threads and those of NumPy's BLAS would wait
  for each other's cores.

Networks this file does not know, or on other devices, are left to torch's autograd.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# Of a module or a parameter: what users hang there has to be called.
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_post_accumulate_grad_hooks",
)

_aten = torch.ops.aten

_MAX_SIZES = 4  # of batches whose workspaces are kept in training


@dataclass(frozen=True)
class _Activation:
    """An activation and its derivative, in place.

    Attributes
    ----------
    forward : callable
        ``forward(layer, a, out)`` writes the activation of a to out.
    backward : callable
        ``backward(layer, g, saved)`` multiplies g by the derivative.
    saves_input : bool
        Whether `backward` wants a. If not, it wants out, and a is the same memory.
    """

    forward: Callable
    backward: Callable
    saves_input: bool = False


_ACTIVATIONS: dict[type, _Activation] = {
    nn.ReLU: _Activation(
        lambda layer, a, out: torch.relu_(a),
        lambda layer, g, out: _aten.threshold_backward.grad_input(
            g, out, 0, grad_input=g
        ),
    ),
    nn.LeakyReLU: _Activation(
        lambda layer, a, out: F.leaky_relu_(a, layer.negative_slope),
        lambda layer, g, out: _aten.leaky_relu_backward.grad_input(
            g, out, layer.negative_slope, True, grad_input=g
        ),
    ),
    nn.ELU: _Activation(
        lambda layer, a, out: F.elu_(a, layer.alpha),
        lambda layer, g, out: _aten.elu_backward.grad_input(
            g, layer.alpha, 1, 1, True, out, grad_input=g
        ),
    ),
    nn.Tanh: _Activation(
        lambda layer, a, out: torch.tanh_(a),
        lambda layer, g, out: _aten.tanh_backward.grad_input(g, out, grad_input=g),
    ),
    nn.GELU: _Activation(
        # Its out= argument goes wrong where rows do not follow each other in memory.
        lambda layer, a, out: out.copy_(F.gelu(a, approximate=layer.approximate)),
        lambda layer, g, a: _aten.gelu_backward.grad_input(
            g, a, approximate=layer.approximate, grad_input=g
        ),
        saves_input=True,
    ),
    nn.SiLU: _Activation(
        lambda layer, a, out: _aten.silu.out(a, out=out),
        lambda layer, g, a: _aten.silu_backward.grad_input(g, a, grad_input=g),
        saves_input=True,
    ),
}


def is_own(module):
    """Tell whether a module's code is this package's, and no function of a user's."""
    return type(module).__module__.startswith("skrepr.") and not _is_altered(module)


def _is_altered(instance):
    """Tell whether an instance has hooks, or functions that are not its class's."""
    return any(getattr(instance, name, None) for name in _HOOKS) or any(
        callable(value) and not isinstance(value, nn.Module)
        for value in getattr(instance, "__dict__", {}).values()
    )


def is_stack(module):
    """Tell whether a module is an MLP that a `Stack` can compute.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    bool
        True of a plain Sequential of linear maps with biases, the first and the last
        layer among them, with at most one of the known activations between two.
    """
    if type(module) is not nn.Sequential or not len(module):
        return False
    layers = list(module)
    return (
        type(layers[0]) is type(layers[-1]) is nn.Linear
        and all(map(_is_known, layers))
        and all(nn.Linear in (type(a), type(b)) for a, b in pairwise(layers))
        and not any(map(_is_altered, [module, *layers, *module.parameters()]))
    )


def _is_known(layer):
    if type(layer) is nn.Linear:
        return list(map(type, layer._parameters.values())) == [nn.Parameter] * 2
    if type(layer) is nn.LeakyReLU:
        return layer.negative_slope >= 0  # else the output does not tell the sign
    if type(layer) is nn.ELU:
        return layer.alpha >= 0
    return type(layer) in _ACTIVATIONS


def find_stacks(module):
    """List the MLPs of a module that stacks can compute.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    list of torch.nn.Sequential
        Empty if another module has parameters and a user's code (it may do with the
        networks inside it what it likes), if a layer or a parameter is in two places,
        or if the module is not on the CPU.
    """
    networks: list[nn.Sequential] = []
    parameters: list[nn.Parameter] = []
    nodes = [module]
    while nodes:
        node = nodes.pop()
        if is_stack(node):
            networks.append(node)
            for layer in node:
                parameters += layer.parameters()
        elif is_own(node):
            parameters += node.parameters(recurse=False)
            nodes += node.children()
        elif any(True for _ in node.parameters()):
            return []
    may_join = len({id(p) for p in parameters}) == len(parameters) and all(
        p.device.type == "cpu" for p in parameters
    )
    return networks if may_join else []


class _Map:
    """A linear map of a stack, and the activation of the rows it is applied to.

    Attributes
    ----------
    transposed : ndarray of shape (n_inputs + 1, n_outputs)
        Weights, and the bias as the last row.
    weight : ndarray of shape (n_outputs, n_inputs)
    gradient : ndarray of shape (n_outputs, n_inputs + 1) or None
    layer : torch.nn.Module or None
        The activation between the map below and this one, if there is one.
    """

    def __init__(self, matrix, gradient, layer):
        self.transposed = matrix.T.numpy()
        self.weight = matrix[:, :-1].numpy()
        self.gradient = None if gradient is None else gradient.numpy()
        self.layer = layer
        self.activation = None if layer is None else _ACTIVATIONS[type(layer)]
        self.n_outputs, self.n_inputs = self.weight.shape
        self.dtype = matrix.dtype


class _Rows:
    """What a pass through a stack keeps of the rows one of its maps is applied to.

    Tensors and arrays of one name share their memory.

    Attributes
    ----------
    padded : ndarray of shape (n, n_inputs + 1)
        The rows; the last column is 1.
    values : torch.Tensor of shape (n, n_inputs)
        The same memory without the ones.
    before, before_array : torch.Tensor and ndarray of shape (n, n_inputs)
        The rows before the activation: the same memory again, unless the derivative
        needs both.
    slope, slope_array : torch.Tensor and ndarray of shape (n, n_inputs)
        Derivative of the loss by `before`.
    """

    def __init__(self, n, map_):
        padded = torch.ones(n, map_.n_inputs + 1, dtype=map_.dtype, device="cpu")
        self.padded = padded.numpy()
        self.values = self.before = padded[:, :-1]
        if map_.activation is not None and map_.activation.saves_input:
            self.before = torch.empty_like(self.values)
        self.before_array = self.before.numpy()
        self.slope = torch.empty_like(self.values)
        self.slope_array = self.slope.numpy()


class Stack:
    """An MLP made of matrix products and operations in place.

    A linear map and its bias are one matrix (n_outputs, n_inputs + 1), which multiplies
    rows that end with a one: neither the bias nor its gradient costs an operation.

    Parameters
    ----------
    layers : torch.nn.Sequential
        For which `is_stack` is true. From now on, calling it calls this object.
    matrices : list of torch.Tensor of shape (n_outputs, n_inputs + 1)
        Weights and biases of its linear maps.
    gradients : list of torch.Tensor of the same shapes, optional
        Where to put the gradients. None is for evaluation only.

    Attributes
    ----------
    is_fresh : bool
        Whether the next gradient replaces the last instead of being added to it.
    """

    def __init__(self, layers, matrices, gradients=None):
        if gradients is None:
            gradients = [None] * len(matrices)
        below = _activations_below(layers)
        self.maps = list(map(_Map, matrices, gradients, below))
        self.anchor = layers[0].weight
        self.is_fresh = True
        self._spare: dict[int, list] = {}
        self._max_sizes = _MAX_SIZES if gradients[0] is not None else 1
        layers.forward = self

    def __call__(self, x):
        """Map rows (n, n_inputs) to rows (n, n_outputs)."""
        if torch.is_grad_enabled():
            # The anchor makes the output part of the graph even where x is not.
            return _Node.apply(x, self.anchor, self)
        output, space = self.forward(x)
        self.put_back(space)
        return output

    def forward(self, x):
        """Compute the output.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_inputs)

        Returns
        -------
        output : torch.Tensor of shape (n, n_outputs)
        space : list of _Rows
            What `backward` needs, or else `put_back`.
        """
        n = x.shape[0]
        try:
            space = self._spare[n].pop()
        except (KeyError, IndexError):
            space = [_Rows(n, map_) for map_ in self.maps]
        rows = space[0]
        if x.shape != rows.values.shape:
            raise ValueError(
                f"A network got an input of shape {tuple(x.shape)}, but its first "
                f"layer expects {self.maps[0].n_inputs} values a row. A backbone's "
                "encoder must return n_outputs values a row, its decoder take n_inputs."
            )
        rows.values.copy_(x)
        for i, map_ in enumerate(self.maps[:-1]):
            above, below = space[i + 1], self.maps[i + 1]
            np.matmul(rows.padded, map_.transposed, out=above.before_array)
            if below.activation is not None:
                below.activation.forward(below.layer, above.before, above.values)
            rows = above
        last = self.maps[-1]
        output = torch.empty(n, last.n_outputs, dtype=last.dtype, device="cpu")
        np.matmul(rows.padded, last.transposed, out=output.numpy())
        return output, space

    def backward(self, space, slope, to_inputs=True):
        """Compute the gradients of the matrices, and put the workspace back.

        Parameters
        ----------
        space : list of _Rows
            As `forward` returned it.
        slope : torch.Tensor of shape (n, n_outputs)
            Derivative of the loss by the output.
        to_inputs : bool
            Whether the derivative by the input is wanted, too.

        Returns
        -------
        torch.Tensor of shape (n, n_inputs) or None
            To be used before the next call of `forward`.
        """
        above = slope.contiguous().numpy()
        for map_, rows in zip(self.maps[::-1], space[::-1], strict=True):
            if self.is_fresh:
                np.matmul(above.T, rows.padded, out=map_.gradient)
            else:
                map_.gradient += above.T @ rows.padded
            if rows is space[0] and not to_inputs:
                break
            np.matmul(above, map_.weight, out=rows.slope_array)
            if map_.activation is not None:
                map_.activation.backward(map_.layer, rows.slope, rows.before)
            above = rows.slope_array
        self.is_fresh = False
        self.put_back(space)
        return space[0].slope if to_inputs else None

    def put_back(self, space):
        """Keep a workspace for the next batch of its size."""
        n = len(space[0].padded)
        if n not in self._spare and len(self._spare) >= self._max_sizes:
            self.forget()
        self._spare.setdefault(n, []).append(space)

    def forget(self):
        """Keep no workspace any more."""
        self._spare = {}


def _activations_below(layers):
    """List for every linear map of a stack the activation below it, or None."""
    activations: list[nn.Module | None] = []
    activation = None
    for layer in layers:
        if type(layer) is nn.Linear:
            activations.append(activation)
            activation = None
        else:
            activation = layer
    return activations


def refuse_second_derivatives():
    """Raise if a backward pass is to be differentiated itself.

    Raises
    ------
    RuntimeError
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "A backward pass with create_graph=True came to a function that has first "
            "derivatives only. Compute the network or the loss with modules of your "
            "own: those are left to torch's autograd."
        )


class _Node(torch.autograd.Function):
    """A stack as a node of the autograd graph."""

    @staticmethod
    def forward(ctx, x, anchor, stack):
        ctx.stack = stack
        output, ctx.space = stack.forward(x)
        return output

    @staticmethod
    def backward(ctx, slope):
        refuse_second_derivatives()
        space, ctx.space = ctx.space, None
        slope = ctx.stack.backward(space, slope, ctx.needs_input_grad[0])
        return None if slope is None else slope.clone(), None, None


def joint_matrix(layer):
    """Join weights (n_outputs, n_inputs) and biases (n_outputs,) of a linear map."""
    return torch.cat([layer.weight.detach(), layer.bias.detach()[:, None]], dim=1)


def for_evaluation(module):
    """Let stacks compute what they can of a module that is only to be evaluated.

    Parameters
    ----------
    module : torch.nn.Module
        It is changed: its weights must stay what they are.

    Returns
    -------
    list of Stack
    """
    stacks = []
    for layers in find_stacks(module):
        linear = [layer for layer in layers if type(layer) is nn.Linear]
        stacks.append(Stack(layers, list(map(joint_matrix, linear))))
    return stacks

"""The parameters of a module, and AdamW's update of them."""

from contextlib import contextmanager

import torch
from torch import nn

from skrepr._training._stacks import Stack, joint_matrix
from skrepr._training._threads import one_thread, threads_for

_BETAS, _EPS = (0.9, 0.999), 1e-8  # of Adam


class Parameters:
    """The trainable parameters of a module, and AdamW's update of them.

    Parameters
    ----------
    module : torch.nn.Module
        On its device, in float32.
    networks : list of torch.nn.Sequential
        Those in the module that `Stack` is to compute from now on, until `release`;
        their parameters are views of one vector meanwhile. None are where a parameter
        of the module is not to be trained.
    weight_decay : float
        Of the weight matrices; scales and biases do not decay.

    Attributes
    ----------
    stacks : dict of torch.nn.Sequential to Stack
    """

    @one_thread()
    def __init__(self, module, networks, weight_decay):
        parameters = list(module.parameters())
        trainable = [p for p in parameters if p.requires_grad]
        if len(trainable) < len(parameters):
            networks = []
        self._weight_decay = weight_decay
        self.stacks = {}
        linear = [a for layers in networks for a in layers if type(a) is nn.Linear]
        self._joint = [p for layer in linear for p in (layer.weight, layer.bias)]
        joint_ids = set(map(id, self._joint))
        self._alone = [p for p in trainable if id(p) not in joint_ids]
        self._size = sum(p.numel() for p in trainable)
        self._largest = max((p.numel() for p in trainable), default=0)
        self._in_vector = []
        if networks:
            vector, values = _in_one([joint_matrix(layer) for layer in linear])
            self._gradient, gradients = _in_one([torch.zeros_like(v) for v in values])
            for layer, value in zip(linear, values, strict=True):
                layer.weight.data, layer.bias.data = value[:, :-1], value[:, -1]
            for layers in networks:
                n = sum(type(layer) is nn.Linear for layer in layers)
                self.stacks[layers] = Stack(layers, values[:n], gradients[:n])
                values, gradients = values[n:], gradients[n:]
            self._in_vector = [(vector, self._gradient, _Moments(vector))]
        # Asked for once: a parameter gives its memory away as a new tensor every time.
        self._decaying = [p.data for p in self._joint if p.ndim >= 2]
        self._moments_alone = list(map(_Moments, self._alone))

    @contextmanager
    def at_work(self, batch_size):
        """Choose the number of torch's threads, until the end of the block.

        Parameters
        ----------
        batch_size : float
        """
        with threads_for(
            self._size * batch_size,
            self._largest * batch_size,
            by_numpy=bool(self.stacks),
        ):
            yield

    def zero_grad(self):
        """Forget the gradients."""
        if self.stacks:
            self._gradient.zero_()
        for stack in self.stacks.values():
            stack.is_fresh = True
        for p in self._alone:
            p.grad = None

    @torch.no_grad()
    def update(self, learning_rate):
        """Take a step of AdamW along the gradients; skip parameters that have none.

        Parameters
        ----------
        learning_rate : float
        """
        alone = [
            (p, p.grad, moments)
            for p, moments in zip(self._alone, self._moments_alone, strict=True)
            if p.grad is not None
        ]
        if not self._in_vector and not alone:
            return
        values, gradients, moments = zip(*self._in_vector, *alone, strict=True)
        decaying = [*self._decaying, *(p for p, *_ in alone if p.ndim >= 2)]
        if decaying and self._weight_decay > 0:
            torch._foreach_mul_(decaying, 1 - learning_rate * self._weight_decay)
        for moment in moments:
            moment.n_steps += 1
        torch._fused_adamw_(
            values,
            gradients,
            [moment.mean for moment in moments],
            [moment.mean_square for moment in moments],
            [],
            [moment.n_steps for moment in moments],
            lr=learning_rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=0.0,
            eps=_EPS,
            amsgrad=False,
            maximize=False,
        )

    @one_thread()
    def release(self):
        """Give every parameter memory of its own, and the module its own methods."""
        for p in self._joint:
            p.data = p.data.clone(memory_format=torch.contiguous_format)
        for p in self._alone:
            p.grad = None
        for layers in self.stacks:
            del layers.forward


class _Moments:
    """What Adam remembers of a tensor's gradients."""

    def __init__(self, tensor):
        self.mean = torch.zeros_like(tensor, requires_grad=False)
        self.mean_square = torch.zeros_like(self.mean)
        self.n_steps = torch.zeros((), dtype=torch.float32, device=tensor.device)


def _in_one(blocks):
    """Copy tensors to one vector; return it and its views in their shapes."""
    vector = torch.cat([block.reshape(-1) for block in blocks])
    views = vector.split([block.numel() for block in blocks])
    return vector, [v.view_as(b) for v, b in zip(views, blocks, strict=True)]

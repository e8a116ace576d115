"""A device apart, without a GPU: its tensors lie on the CPU, but meet none that do.

An operation on tensors of both devices is an error, as it is with a GPU; so is one with
a generator of the other device, or NumPy's. Indices and single numbers may lie on the
CPU. What a GPU computes otherwise than the CPU does not show.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from skrepr._training import _inference

DEVICE = torch.device("meta")  # which torch knows everywhere, and never computes on

# Of those that take no single number from the CPU.
_JOINING = {"cat", "stack", "mm", "addmm", "gather", "index_select", "searchsorted"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_COPYING = {"_to_copy", "copy_"}

_CPUGenerator = torch.Generator
_generators: dict[int, tuple] = {}


class _AnyGenerator(type(_CPUGenerator)):
    def __instancecheck__(cls, instance):
        return isinstance(instance, _CPUGenerator)


class Generator(_CPUGenerator, metaclass=_AnyGenerator):
    """A generator of the CPU that says on which device it draws."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls)
        _generators[self._cdata] = torch.device(device), self
        return self

    def __init__(self, device="cpu"):
        pass

    @property
    def device(self):
        return _device_of(self)


class Elsewhere(torch.Tensor):
    """A tensor that is said to lie on the other device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, content):
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            content.shape,
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=DEVICE,
        )
        self.content = content
        return self

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _call(function, args, kwargs or {})

    def __getitem__(self, index):
        return super().__getitem__(_moved(index))

    def __setitem__(self, index, value):
        super().__setitem__(_moved(index), value)

    def tolist(self):
        return self.content.tolist()


class _OtherDevice(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls):
        return False  # nor import torch's compiler

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _call(function, args, kwargs or {})


@contextlib.contextmanager
def other_device(monkeypatch):
    """Let estimators take "meta" as a device that computes."""
    is_present, make = _inference._is_present, torch.tensor

    def is_known(device):
        return device == DEVICE or is_present(device)

    def make_anywhere(data, *, device="cpu", **options):
        return make(data, device="cpu", **options).to(device)

    def no_gradients(mode=True):
        return torch.set_grad_enabled(not mode)

    with monkeypatch.context() as patches:
        patches.setattr(_inference, "_is_present", is_known)
        # What torch cannot do on this device, or with tensors of a class of their own.
        patches.setattr(torch, "is_autocast_enabled", lambda kind: False)
        patches.setattr(torch, "inference_mode", no_gradients)
        patches.setattr(torch, "Generator", Generator)
        patches.setattr(torch, "tensor", make_anywhere)
        with _OtherDevice():
            yield


def _moved(index):
    """Move lists to the device, which torch would do out of sight."""
    if isinstance(index, tuple):
        return tuple(map(_moved, index))
    return Elsewhere(torch.as_tensor(index)) if isinstance(index, list) else index


def _call(function, args, kwargs):
    """Call an operation on the contents of tensors, if all lie on one device."""
    name = function.overloadpacket.__name__
    leaves = tree_leaves((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    elsewhere = [x for x in tensors if isinstance(x, Elsewhere)]
    device = kwargs.get("device")
    if device is None:
        device = DEVICE if elsewhere else torch.device("cpu")
    for x in leaves:
        if isinstance(x, _CPUGenerator) and _device_of(x) != device:
            raise RuntimeError(f"{function} draws on {device} from another generator.")
    if elsewhere and name not in _COPYING:
        here = [x for x in tensors if not isinstance(x, Elsewhere)]
        if name in _INDEXING:
            here = [x for x in here if x.is_floating_point()]
        if name not in _JOINING:
            here = [x for x in here if x.ndim]
        writes_here = name.endswith("_") and not isinstance(tensors[0], Elsewhere)
        if here or writes_here:
            raise RuntimeError(f"{function} has tensors of two devices.")
    if "device" in kwargs:
        kwargs = kwargs | {"device": torch.device("cpu")}
    contents = {id(x.content): x for x in elsewhere}
    args, kwargs = tree_map_only(Elsewhere, lambda x: x.content, (args, kwargs))
    result = function(*args, **kwargs)
    if name == "copy_" or device != DEVICE:
        return tensors[0] if name == "copy_" else result
    # What was changed in place is what was given.
    return tree_map_only(
        torch.Tensor,
        lambda x: contents[id(x)] if id(x) in contents else Elsewhere(x),
        result,
    )


def _device_of(generator):
    return _generators.get(generator._cdata, (torch.device("cpu"),))[0]

"""A device without float64, as Apple's ``mps`` is one, whose tensors are on the CPU.

Tensors of the device are wrappers: autograd and the operators see the device, the
numbers are in a CPU tensor inside. What such a device refuses is refused:

* a float64 tensor on it, the result of any operator, conversion in a copy included;
* operators on tensors of two devices, but numbers (0-dimensional CPU tensors).

A wrapper hides from autograd that others use its memory, so that it may add gradients
in place and change another's: ask for ``create_graph=True``, under which it does not.
"""

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

TYPE = "singleonly"
_registered = []


class Backend(backend_registration._DummyBackendModule):
    """What autocast asks of a backend."""

    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]


def device():
    """Return the device; it is registered at the first call."""
    if not _registered:
        backend_registration._setup_privateuseone_for_python_backend(TYPE, Backend())
        _registered.append(torch.device(TYPE, 0))
    return _registered[0]


class There(torch.Tensor):
    """A tensor on the device."""

    @staticmethod
    def __new__(cls, inside):
        if inside.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{TYPE} has no {inside.dtype}")
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=device(),
            requires_grad=inside.requires_grad,
        )

    def __init__(self, inside):
        self.inside = inside.detach()

    def tolist(self):
        return self.inside.tolist()

    def __getitem__(self, index):
        """Move lists to the device, which Tensor's own does out of sight."""
        if isinstance(index, tuple):
            index = tuple(
                torch.tensor(i).to(device()) if isinstance(i, list) else i
                for i in index
            )
        return super().__getitem__(index)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """Run an operator on the numbers inside; put the result where it belongs."""
    kwargs = dict(kwargs)
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, There)]
    here = [t for t in tensors if not isinstance(t, There) and t.dim() > 0]
    name = func.overloadpacket.__name__
    to = kwargs.get("device")
    moves = name in ("_to_copy", "copy_")
    if moves and there and kwargs.get("dtype") == torch.float64:
        raise TypeError(f"{TYPE} has no float64 to convert to: move first")
    if there and here and not moves:
        raise RuntimeError(f"{func}: tensors on {TYPE} and on the CPU")
    on_device = bool(there)
    if to is not None:
        on_device = torch.device(to).type == TYPE
        kwargs["device"] = torch.device("cpu")
    if name == "copy_":
        on_device = isinstance(args[0], There)
    arguments = tree_map(
        lambda t: t.inside if isinstance(t, There) else t, (args, kwargs)
    )
    if name == "_conj":  # lazy: below this level nobody would look at its flag
        result = torch.complex(arguments[0][0].real, -arguments[0][0].imag)
    else:
        result = func(*arguments[0], **arguments[1])
    if not on_device:
        return result
    known = {id(t.inside): t for t in there}

    def wrap(tensor):
        if not isinstance(tensor, torch.Tensor) or id(tensor) in known:
            return known.get(id(tensor), tensor)
        return There(tensor)

    return tree_map(wrap, result)


class Device(TorchDispatchMode):
    """Within it, tensors are made on the device where it is asked for."""

    def __enter__(self):
        self.tensor = torch.tensor
        torch.tensor = self.new_tensor  # which fills the device's memory itself
        return super().__enter__()

    def __exit__(self, *error):
        torch.tensor = self.tensor
        return super().__exit__(*error)

    def new_tensor(self, data, *args, device=None, **kwargs):
        made = self.tensor(data, *args, **kwargs)
        return made if device is None else made.to(device)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def inside(tensor):
    """Return a tensor's numbers, on the CPU."""
    return tensor.inside if isinstance(tensor, There) else tensor.detach()


def move(module):
    """Move a module's parameters and buffers to the device, as ``module.to`` would."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                there = parameter.detach().to(device())
                part._parameters[name] = torch.nn.Parameter(there)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device())
    return module

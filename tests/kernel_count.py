"""What a GPU would run, counted on tensors without data: kernels launched, bytes moved, memory held.

An operator counts as one kernel, whose tensors come from the device's memory rather than from a cache.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# operators that launch no kernel: views, allocation, questions about a tensor
NO_KERNEL = (
    "alias as_strided detach device diagonal empty empty_like empty_strided expand lift_fresh new_empty "
    "new_empty_strided permute select slice split split_with_sizes squeeze sym_numel sym_size sym_stride t "
    "transpose unbind unfold unsqueeze view _reshape_alias _unsafe_view is_same_size"
)


class KernelCount(TorchDispatchMode):
    """Kernels launched, bytes read and written, copies between devices and reads by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.bytes = 0
        self.transfers: list[str] = []
        self.peak = 0  # bytes of all tensors that were alive at once, those of the caller not counted
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._track(out)
        name = func._schema.name.split("::")[1]
        if name in NO_KERNEL.split(" "):
            return out
        given = {k: v for k, v in (kwargs or {}).items() if k != "out"}  # written once, as the result
        tensors = [t for t in tree_leaves((args, given, out)) if isinstance(t, Tensor)]
        devices = {t.device.type for t in tensors if t.ndim > 0 or t.device.type != "cpu"}
        self.kernels[name] += 1
        self.bytes += sum(_bytes(t) for t in tensors)
        if name == "_local_scalar_dense" or len(devices) > 1:
            self.transfers.append(f"{name} {sorted(devices)}")
        return out

    def _track(self, out: Any) -> None:
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._alive:
                    self._alive[key] = storage.nbytes()
                    weakref.finalize(storage, self._alive.pop, key, None)
        self.peak = max(self.peak, sum(self._alive.values()))

    @property
    def total(self) -> int:
        return sum(self.kernels.values())


def _bytes(tensor: Tensor) -> int:
    """What a kernel reads or writes of a tensor; an expanded dimension is read once."""
    numbers = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= size if stride or not size else 1
    return numbers * tensor.element_size()


def count(call: Callable[..., Tensor], *args: Tensor) -> KernelCount:
    """What `call(*args)` and the backward pass of its result cost."""
    with KernelCount() as counter:
        loss = call(*args)
        if loss.requires_grad and loss.device.type == "meta":  # autograd refuses fake CUDA tensors
            loss.backward()
    return counter

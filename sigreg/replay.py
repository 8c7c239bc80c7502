"""The state that a second forward pass needs back, for `sigreg.microbatches`.

Random state, buffers and attributes of the modules are restored to what they were before the first pass, so
that both passes give the same embeddings; DDP and FSDP2 communicate gradients with the last part only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy


def random_state() -> dict[str, Any]:
    """The state of torch's global generators: the CPU's and every GPU's of CUDA, XPU and MPS."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    for name in ("cuda", "xpu"):
        if getattr(torch, name).is_initialized():
            state[name] = getattr(torch, name).get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore a state."""
    torch.set_rng_state(state["cpu"])
    for name in ("cuda", "xpu"):
        if name in state:
            getattr(torch, name).set_rng_state_all(state[name])
    if "mps" in state:
        torch.mps.set_rng_state(state["mps"])


class Called:
    """The modules that `encode` calls, and what their buffers held before."""

    def __init__(self, encode: Any, modules: Iterable[nn.Module] | None) -> None:
        self.buffers: dict[nn.Module, dict[str, tuple[Tensor | None, Tensor | None]]] = {}
        self.attributes: dict[nn.Module, dict[str, Any]] = {}
        self.wrappers: dict[DistributedDataParallel, bool] = {}
        known = [encode, getattr(encode, "__self__", None)] if modules is None else modules
        roots = [module for module in known if isinstance(module, nn.Module)]
        self.watch = modules is None
        for module in roots:
            self.add(module)

    @torch.no_grad()
    def add(self, module: nn.Module, _: Any = None) -> None:
        """Notes a module and all within it; the hook that sees every module before it runs."""
        if torch.compiler.is_compiling() or module in self.buffers:
            return
        for m in module.modules():
            if m not in self.buffers:
                named = m._buffers.items()
                if any(b is not None and is_lazy(b) for b in m._buffers.values()):
                    raise ValueError(f"{type(m).__name__} has no shape yet; run the encoder once before")
                self.buffers[m] = {name: (b, None if b is None else b.clone()) for name, b in named}
                if isinstance(m, DistributedDataParallel):
                    self.wrappers[m] = m.require_forward_param_sync
                else:
                    self.attributes[m] = dict(vars(m))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Adds every module that is called."""
        hook = register_module_forward_pre_hook(self.add) if self.watch else None
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()

    @torch.no_grad()
    def restore(self) -> None:
        """Brings buffers and attributes back, so that BatchNorm's running statistics and a count move once.

        An attribute that is a list, a dict or a tensor is the same object again; what was changed within it
        stays.  A buffer that holds what it held is not written to: it may be part of an earlier graph.
        """
        for module, buffers in self.buffers.items():
            for name, (buffer, value) in buffers.items():
                if buffer is not None and value is not None and not torch.equal(buffer, value):
                    buffer.copy_(value)
                module._buffers[name] = buffer
        for module, attributes in self.attributes.items():
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)
        for wrapper, broadcasts in self.wrappers.items():  # its first forward sends rank 0's buffers
            wrapper.require_forward_param_sync = broadcasts

    @contextlib.contextmanager
    def no_synchronisation(self) -> Iterator[None]:
        """DDP and FSDP2 keep their gradients to themselves."""
        with contextlib.ExitStack() as stack:
            for module in self.buffers:
                if isinstance(module, DistributedDataParallel):
                    stack.enter_context(module.no_sync())
                elif callable(synchronise := getattr(module, "set_requires_gradient_sync", None)):
                    synchronise(False)
                    stack.callback(synchronise, True)
            yield

    def assert_complete(self, views: list[Tensor]) -> None:
        """The graph reaches no parameter of a module that was not seen, whose buffers would move twice."""
        if any(hasattr(module, "set_requires_gradient_sync") for module in self.buffers):
            return  # FSDP2 computes with other tensors than the parameters that it shows
        known = {id(p) for module in self.buffers for p in module.parameters(recurse=False)}
        nodes, seen = [z.grad_fn for z in views], set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            nodes += [parent for parent, _ in node.next_functions]
            leaf = getattr(node, "variable", None)  # of an AccumulateGrad
            if isinstance(leaf, nn.Parameter) and id(leaf) not in known:
                raise ValueError(
                    f"encode uses a parameter {tuple(leaf.shape)} of a module that was not seen when called; "
                    "name the modules, as in modules=[backbone, projector] ([] for a parameter of no module)"
                )

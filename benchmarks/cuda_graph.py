"""A training step's forward and backward passes as one CUDA graph.

The methods of `benchmarks.hosts` are small: on a fast GPU their steps take longer to launch than to compute.
A graph is captured once and replayed for every batch; the optimizer stays outside of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class GraphedStep:
    """Calls `loss(batch)` and its backward pass; from the fourth batch on as a replayed graph.

    What a step replaces rather than writes to (the parameters of a momentum teacher, DINO's center) is copied
    back to where the graph reads it.  Random numbers are those of separate calls.

    Args:
        module: holds every parameter and buffer that `loss` uses; its gradients must stay where they are.
        loss: of a batch on a GPU, of one shape, to a scalar; without reads by the host.
    """

    def __init__(self, module: nn.Module, loss: Callable[[Tensor], Tensor]) -> None:
        self.module, self.loss = module, loss
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warmed_up = 0
        self.stream = torch.cuda.Stream()

    def __call__(self, batch: Tensor) -> Tensor:
        """The loss, without its graph; the gradients are in the parameters."""
        if self.warmed_up < 3:  # libraries load and choose their algorithms, on the stream of the capture
            self.warmed_up += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                value = self._forward_and_backward(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
            return value
        if self.graph is None:
            self.batch, self.graph = batch.clone(), torch.cuda.CUDAGraph()
            self.module.zero_grad(set_to_none=True)  # so that the graph writes gradients and does not add
            with torch.cuda.graph(self.graph, stream=self.stream):
                kept = tensors(self.module)
                self.value = self._forward_and_backward(self.batch, zero=False)
                write_back(self.module, kept)
        self.batch.copy_(batch)
        self.graph.replay()
        return self.value

    def _forward_and_backward(self, batch: Tensor, zero: bool = True) -> Tensor:
        if zero:
            self.module.zero_grad(set_to_none=True)
        value = self.loss(batch)
        value.backward()
        return value.detach()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter's and buffer's memory, by name."""
    return {name: t.data for name, t in (*module.named_parameters(), *module.named_buffers())}


@torch.no_grad()
def write_back(module: nn.Module, kept: dict[str, Tensor]) -> None:
    """Copy what has been replaced since `kept` was taken into the memory of then, and use that again."""
    for name, then in kept.items():
        owner, _, attribute = name.rpartition(".")
        now = getattr(module.get_submodule(owner), attribute)
        if now.data_ptr() != then.data_ptr():
            then.copy_(now)
            if isinstance(now, nn.Parameter):
                now.data = then
            else:
                setattr(module.get_submodule(owner), attribute, then)

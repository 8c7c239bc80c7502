"""What the tests of the host adapters share: the hosts' directions, value and gradient, ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.testing import assert_close

Loss = Callable[[Tensor], Tensor]


def seeded_by_step(D: int, K: int, *, seed: Any, step: Any, device: Any, dtype: Any) -> Tensor:
    """The directions of stable-pretraining and eb_jepa: a new generator at every call, seeded by the step."""
    A = torch.randn(D, K, generator=torch.Generator().manual_seed(int(step)))
    return (A / A.norm(dim=0)).to(dtype)


def from_the_global_generator(D: int, K: int, *, seed: Any, step: Any, device: Any, dtype: Any) -> Tensor:
    """The directions of stable-worldmodel, if the global generator was seeded the same."""
    A = torch.randn(D, K)
    return (A / A.norm(p=2, dim=0)).to(dtype)


def embeddings(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator) + 0.1


def assert_same_value_and_gradient(ours: Loss, theirs: Loss, z: Tensor) -> None:
    """Both in float32: the sums round differently, by a few eps relative to the largest entry."""
    results = []
    for loss in (ours, theirs):
        torch.manual_seed(3)
        leaf = z.clone().requires_grad_()
        value = loss(leaf)
        (3 * value).backward()
        results.append((value.detach(), leaf.grad))
    (value, grad), (expected, expected_grad) = results
    assert_close(value, expected, rtol=1e-5, atol=0)
    assert_close(grad, expected_grad, rtol=0, atol=1e-5 * float(expected_grad.abs().max()))


Sizes = tuple[int, ...]


def trained(
    build: Callable[[], nn.Module], call: Callable[[nn.Module, Tensor], Tensor], x: Tensor, wrap: bool
):
    """Loss and gradients of a small network under a criterion, of this process's rows of x (..., N, 6)."""
    torch.manual_seed(1)
    net: nn.Module = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5)).double()
    net = DDP(net) if wrap else net
    loss = call(build(), net(x))
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in net.parameters()])


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def on_this_rank(build: Any, call: Any, shape: Sizes, split: Sizes) -> tuple[Tensor, Tensor]:
    """A job for `pool.on_ranks`: this rank's part of dimension -2."""
    part = torch.split(inputs(*shape), split, dim=-2)[dist.get_rank()]
    return trained(build, call, part, wrap=True)


def assert_ranks_equal_one(build: Any, call: Any, shape: Sizes, split: Sizes, on_ranks: Any) -> None:
    """Value and gradient in float64; sums over ranks round differently in the last digits."""
    loss, gradient = trained(build, call, inputs(*shape), wrap=False)
    for theirs, their_gradient in on_ranks(len(split), on_this_rank, build, call, shape, split):
        assert_close(theirs, loss, rtol=1e-10, atol=0)
        assert_close(their_gradient, gradient, rtol=1e-9, atol=1e-10 * float(gradient.abs().max()))

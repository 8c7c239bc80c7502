"""Mean of a kernel over all pairs of two samples, in blocks: O(N^2 D) time, O(N) memory to keep.

The gradient needs the N x N matrix of slopes; it is computed again, block by block, and never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sigreg.sample import checked

_BLOCK = 1 << 18  # pairs at a time: 2 MiB a buffer in float64


class Kernel(NamedTuple):
    """A function of the squared distance, elementwise, and its derivative."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of x and their squared distances to every y."""
    height = max(1, _BLOCK // y.shape[0])
    x2, y2 = x.square().sum(1), y.square().sum(1)
    for start in range(0, x.shape[0], height):
        rows = slice(start, start + height)
        r2 = torch.addmm(y2 + x2[rows, None], x[rows], y.T, alpha=-2).clamp_(min=0)
        if x is y:
            r2.diagonal(start).mul_(0)  # exactly; far from the origin rounding would leave more (nan stays)
        yield rows, r2


class _PairMean(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor | None, kernel: Kernel) -> Tensor:
        y = x if other is None else other
        ctx.save_for_backward(x, y)
        ctx.kernel = kernel
        ctx.alone = other is None
        ctx.scale = (4 if other is None else 2) / (x.shape[0] * y.shape[0])
        return torch.stack([kernel.value(r2).sum() for _, r2 in _blocks(x, y)]).sum() / (
            x.shape[0] * y.shape[0]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, y = ctx.saved_tensors
        y = x if ctx.alone else y
        gx = torch.empty_like(x)
        for rows, r2 in _blocks(x, y):
            slope = ctx.kernel.slope(r2)
            gx[rows] = slope.sum(1, keepdim=True) * x[rows] - slope @ y
        return gx * (grad * ctx.scale), None, None


def pair_mean(x: Tensor, kernel: Kernel, other: Tensor | None = None) -> Tensor:
    """mean_jk kernel(|x_j - x_k|^2) of `(N, D)`, or of x against a constant `other`; once differentiable."""
    mean: Tensor = _PairMean.apply(x, other, kernel)
    return mean


def per_sample(z: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """`(..., N, D) -> (...)`: `statistic` of every `(N, D)`, in float64, returned in z's precision."""
    z = checked(z)
    with torch.autocast(z.device.type, enabled=False):
        values = [statistic(sample) for sample in z.double().reshape(-1, *z.shape[-2:])]
    return torch.stack(values).reshape(z.shape[:-2]).to(z.dtype)

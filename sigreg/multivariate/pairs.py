"""Weighted mean of a kernel over all pairs of two samples, in blocks: O(N^2 D) time, O(N) memory to keep.

The gradient needs the N x N matrix of slopes; it is computed again, block by block, and never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from sigreg.kernels import no_autocast
from sigreg.sample import Sample, transformed

_BLOCK = 1 << 18  # pairs at a time: 2 MiB a buffer in float64


class Kernel(NamedTuple):
    """A function of the squared distance, elementwise, and its derivative."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


class Rows(NamedTuple):
    """One sample: its rows, their shares of the total weight, and its effective size."""

    x: Tensor
    """`(N, D)`, float64."""
    p: Tensor
    """`(N,)`; they sum to 1, or are all 0 where nothing is valid."""
    N: Tensor | float


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of x and their squared distances to every y."""
    height = max(1, _BLOCK // max(1, y.shape[0]))
    x2, y2 = x.square().sum(1), y.square().sum(1)
    for start in range(0, max(1, x.shape[0]), height):  # an empty block where there are no rows
        rows = slice(start, start + height)
        r2 = torch.addmm(y2 + x2[rows, None], x[rows], y.T, alpha=-2).clamp_(min=0)
        if x is y:
            r2.diagonal(start).mul_(0)  # exactly; far from the origin rounding would leave more (nan stays)
        yield rows, r2


class _PairMean(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor, other: Tensor | None, kernel: Kernel) -> Tensor:
        y, q = (x, p) if other is None else (other, other.new_full((len(other),), 1 / len(other)))
        ctx.save_for_backward(x, p, y, q)
        ctx.kernel, ctx.alone = kernel, other is None
        means = [p[rows] @ (kernel.value(r2) @ q) for rows, r2 in _blocks(x, y)]
        return torch.stack(means).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, p, y, q = ctx.saved_tensors
        y = x if ctx.alone else y
        with torch.no_grad():
            gx = torch.empty_like(x)
            for rows, r2 in _blocks(x, y):
                slope = ctx.kernel.slope(r2) * q
                gx[rows] = p[rows, None] * (slope.sum(1, keepdim=True) * x[rows] - slope @ y)
            gx = gx * (grad * (4 if ctx.alone else 2))
        return _FirstDerivative.apply(gx, x) if torch.is_grad_enabled() else gx, None, None, None


class _FirstDerivative(Function):
    """A gradient whose own derivative is an error.

    (`once_differentiable` makes it an error only where the gradient that comes from above requires a gradient
    itself; elsewhere the result passes for a constant.)
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        raise RuntimeError(
            "exact_sigreg, bhep and henze_zirkler have first derivatives only; take second derivatives of "
            "sigreg.functional.sigreg"
        )


def pair_mean(s: Rows, kernel: Kernel, other: Tensor | None = None) -> Tensor:
    """sum_jk p_j p_k kernel(|x_j - x_k|^2), or against a constant `other`; once differentiable."""
    mean: Tensor = _PairMean.apply(s.x, s.p, other, kernel)
    return mean


def per_sample(z: Tensor, weights: Tensor | None, statistic: Callable[[Rows], Tensor]) -> Tensor:
    """`(..., N, D) -> (...)`: `statistic` of every `(N, D)`, in float64, returned in z's precision."""
    if transformed():
        raise RuntimeError(
            "exact_sigreg, bhep and henze_zirkler compute their N^2 pairs in blocks, which torch.func cannot "
            "differentiate; use torch.autograd, or sigreg.functional.sigreg"
        )
    sample = Sample(z, weights)
    with no_autocast(sample.x.device):
        x = sample.x.double().flatten(0, -3) if sample.x.ndim > 2 else sample.x.double()[None]
        if sample.weights is None:
            p = x.new_full(x.shape[:-1], 1 / x.shape[-2])
        else:
            w = sample.weights.double().reshape(x.shape[:-1])
            total = w.sum(-1, keepdim=True)
            p = w / torch.where(total > 0, total, 1.0)
        sizes = [x.shape[-2]] * len(x) if weights is None else list(_effective_sizes(p))
        values = [statistic(Rows(*row)) for row in zip(x, p, sizes, strict=True)]
    return torch.stack(values).reshape(sample.x.shape[:-2]).to(sample.x.dtype)


def _effective_sizes(p: Tensor) -> Tensor:
    """1 / sum p^2, and 0 where nothing is valid: `(V, N) -> (V,)`."""
    squares = p.square().sum(-1)
    return torch.where(squares > 0, 1 / torch.where(squares > 0, squares, 1.0), 0.0)

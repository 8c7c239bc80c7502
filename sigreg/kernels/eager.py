"""The sums of the empirical characteristic function, by recurrence, in cache-sized chunks.

cos(k theta) and sin(k theta) for k = 1...P follow from one cosine and one sine by
rotation; the gradient is a trigonometric polynomial and is evaluated by Horner's
rule.  Nothing of size (N, K, P) ever exists: beyond the projection itself the
working set is a few buffers of `_CHUNK` numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_CHUNK = 1 << 17  # numbers per buffer: a handful of them stay in a core's cache


def _chunks(x: Tensor) -> Iterator[tuple[int, slice]]:
    """Pieces of `(B, N, K)` with about `_CHUNK` numbers each."""
    width = max(1, _CHUNK // max(1, x.shape[1]))
    for b in range(x.shape[0]):
        for start in range(0, x.shape[2], width):
            yield b, slice(start, start + width)


def _sums(x: Tensor, dt: float, P: int) -> tuple[Tensor, Tensor]:
    """`(B, N, K) -> (B, P, K)` twice: sum_n cos(k dt x_n) and sum_n sin(k dt x_n), k = 1...P."""
    C, S = (x.new_empty(x.shape[0], P, x.shape[2]) for _ in range(2))
    for b, columns in _chunks(x):
        theta = x[b, :, columns] * dt
        c1, s1 = theta.cos(), theta.sin()
        c, s = c1.clone(), s1.clone()
        for k in range(P):
            torch.sum(c, dim=0, out=C[b, k, columns])
            torch.sum(s, dim=0, out=S[b, k, columns])
            if k < P - 1:
                c, s = torch.mul(c, c1).addcmul_(s, s1, value=-1), s.mul_(c1).addcmul_(c, s1)
    return C, S


def _gradient(x: Tensor, gC: Tensor, gS: Tensor, dt: float) -> Tensor:
    """`(B, N, K)`: sum_k k dt (gS_k cos(k dt x) - gC_k sin(k dt x)), in differentiable operations.

    With a_k = k dt (gS_k + i gC_k) this is the real part of sum_k a_k e^{ik theta}; Horner's rule.
    """
    P = gC.shape[1]
    t = torch.arange(1, P + 1, dtype=x.dtype, device=x.device)[:, None] * dt
    re, im = t * gS, t * gC  # (B, P, K)
    c1, s1 = (x * dt).cos(), (x * dt).sin()
    u, v = re[:, P - 1, None], im[:, P - 1, None]
    for k in range(P - 2, -1, -1):
        u, v = u * c1 - v * s1 + re[:, k, None], u * s1 + v * c1 + im[:, k, None]
    return u * c1 - v * s1


class CharacteristicSums(Function):
    """`_sums` with a backward pass that recomputes instead of storing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: float, P: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.dt = dt
        return _sums(x, dt, P)

    @staticmethod
    def backward(ctx: Any, gC: Tensor, gS: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: a form that autograd can differentiate again
            return _gradient(x, gC, gS, ctx.dt), None, None
        grad = torch.empty_like(x)
        for b, columns in _chunks(x):
            piece = slice(b, b + 1), slice(None), columns
            grad[piece] = _gradient(x[piece], gC[piece], gS[piece], ctx.dt)
        return grad, None, None


def characteristic_sums(x: Tensor, dt: float, P: int) -> tuple[Tensor, Tensor]:
    """`(..., N, K) -> (..., P, K)` twice: sums over n of cos(k dt x_n) and sin(k dt x_n), k = 1...P."""
    C, S = CharacteristicSums.apply(x.reshape(-1, *x.shape[-2:]), dt, P)
    shape = (*x.shape[:-2], P, x.shape[-1])
    return C.reshape(shape), S.reshape(shape)

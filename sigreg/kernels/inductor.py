"""Epps-Pulley as plain formulas that torch.compile turns into one loop forward and one backward.

The projections lie transposed, `(K V, N)`, so that each sum runs along memory.  The projection itself
stays a matrix product outside the loops; its result is kept for the backward pass, and nothing larger.
Inside a `torch.compile` of the user's own, the formulas become part of the user's graph.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sigreg.collectives import Ranks
from sigreg.kernels.eager import characteristic_sums
from sigreg.kernels.sums import epps_pulley_from_sums


def _sums(theta: Tensor, P: int) -> tuple[Tensor, Tensor]:
    """`(M, N) -> (P, M)` twice: sum_n cos(k theta_n) and sum_n sin(k theta_n), k = 1...P, by rotation."""
    c1, s1 = theta.cos(), theta.sin()
    c, s = c1, s1
    C, S = [c.sum(-1)], [s.sum(-1)]
    for _ in range(P - 1):
        c, s = c * c1 - s * s1, s * c1 + c * s1
        C.append(c.sum(-1))
        S.append(s.sum(-1))
    return torch.stack(C), torch.stack(S)


def _gradient(theta: Tensor, gC: Tensor, gS: Tensor, P: int) -> Tensor:
    """`(M, N)`: sum_k k (gS_k cos(k theta) - gC_k sin(k theta)) from `(P, M)` slopes, by Horner's rule."""
    c1, s1 = theta.cos(), theta.sin()
    u, v = P * gS[P - 1].unsqueeze(-1), P * gC[P - 1].unsqueeze(-1)
    for k in range(P - 1, 0, -1):
        u, v = (
            u * c1 - v * s1 + k * gS[k - 1].unsqueeze(-1),
            u * s1 + v * c1 + k * gC[k - 1].unsqueeze(-1),
        )
    return u * c1 - v * s1


@functools.cache
def _compiled(formula: Callable[..., Any], P: int) -> Callable[..., Any]:
    """The formula for P frequencies and any shape, so that a new batch size costs no new compilation."""
    # A code object of its own, with P bound: torch.compile allows each code object 8 compilations.
    own = types.FunctionType(formula.__code__.replace(), formula.__globals__, argdefs=(P,))
    loop = torch.compile(own, dynamic=True, fullgraph=True)

    def call(*tensors: Tensor) -> Any:
        try:
            return loop(*tensors)
        except Exception as error:
            if not type(error).__module__.startswith("torch._inductor"):
                raise
            raise RuntimeError(
                "backend='inductor' could not compile here; it needs a working C++ compiler (g++ or clang++) "
                "on a CPU and triton on a GPU.  Install one, or use backend='eager'"
            ) from error

    return call


def _run(formula: Callable[..., Any], *tensors: Tensor, P: int) -> Any:
    if torch.compiler.is_compiling():
        return formula(*tensors, P)
    return _compiled(formula, P)(*tensors)


class _ProjectedSums(Function):
    """The sums of z @ A: `(V, N, D)`, `(D, K)` -> `(P, K, V)` twice."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, A: Tensor, dt: float, P: int) -> tuple[Tensor, Tensor]:
        (V, N, D), K = z.shape, A.shape[1]
        theta = ((dt * A).T @ z.reshape(V * N, D).T).reshape(K * V, N)
        ctx.save_for_backward(z, A, theta)
        ctx.dt, ctx.P = dt, P
        C, S = _run(_sums, theta, P=P)
        return C.reshape(P, K, V), S.reshape(P, K, V)

    @staticmethod
    def backward(ctx: Any, gC: Tensor, gS: Tensor) -> tuple[Tensor | None, ...]:
        z, A, theta = ctx.saved_tensors
        P, K, V = gC.shape
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
            sums = [s.permute(1, 2, 0) for s in characteristic_sums(z @ A, ctx.dt, P)]
            inputs = [v if needed else None for v, needed in zip((z, A), ctx.needs_input_grad, strict=False)]
            wanted = [v for v in inputs if v is not None]
            grads = iter(torch.autograd.grad(sums, wanted, (gC, gS), create_graph=True))
            return *(None if v is None else next(grads) for v in inputs), None, None
        g = _run(_gradient, theta, gC.reshape(P, K * V), gS.reshape(P, K * V), P=P)
        g = g.reshape(K, -1)  # (K, V N)
        gz = (g.T @ (ctx.dt * A).T).reshape(z.shape) if ctx.needs_input_grad[0] else None
        gA = ctx.dt * (g @ z.reshape(g.shape[1], -1)).T if ctx.needs_input_grad[1] else None
        return gz, gA, None, None


def sliced_epps_pulley(
    z: Tensor, A: Tensor, *, t_max: float, num_points: int, unbiased: bool, ranks: Ranks
) -> Tensor:
    """The mean of the statistic of z @ A over views and slices: `(V, N, D)`, `(D, K)` -> scalar."""
    C, S = _ProjectedSums.apply(z, A, t_max / (num_points - 1), num_points - 1)
    # Messages are (V, P, K) in every backend: a rank may run compiled beside one that does not.
    (C, S), N = ranks.sum(C.permute(2, 0, 1), S.permute(2, 0, 1), count=z.shape[1])
    return epps_pulley_from_sums(C, S, N, t_max, num_points, unbiased).mean()

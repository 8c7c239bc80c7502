"""Epps-Pulley as plain formulas that torch.compile turns into one loop forward and one backward.

The projections lie transposed, `(K V, N)`, so that each sum runs along memory; what is summed are the
products of `sigreg.kernels.harmonics`.  The projection itself stays a matrix product outside the loops;
its result is kept for the backward pass, and nothing larger.
Inside a `torch.compile` of the user's own, the formulas become part of the user's graph.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from sigreg.collectives import Ranks
from sigreg.kernels import half_turns
from sigreg.kernels.eager import characteristic_sums
from sigreg.kernels.harmonics import Identities, groups
from sigreg.kernels.sums import epps_pulley_from_sums

_PART = 1 << 19  # numbers

_Pair: TypeAlias = tuple[Tensor, Tensor]
_CosSin: TypeAlias = Callable[[Tensor], _Pair]


def _library(phi: Tensor) -> tuple[Tensor, Tensor]:
    return phi.cos(), phi.sin()


def _rows(phi: Tensor, J: int, cos_sin: _CosSin, turn: _Pair | None) -> tuple[list[Tensor], list[Tensor]]:
    """The short rows c_1, s_1, c_3, s_3 and J long ones c_5, s_5, c_13, ..., turned by an angle or not."""
    c1, s1 = cos_sin(phi)
    v = 4 * s1**2  # 2 - 2 cos 2 phi
    c3, s3 = c1 * (1 - v), s1 * (3 - v)
    long = [(c3, -s3), ((2 - v) * c3 - c1, (2 - v) * s3 - s1)]  # m = -3, 5
    if turn is not None:
        C, S = turn
        long = [(C * c - S * s, C * s + S * c) for c, s in long]
    twice_c8 = (2 - v * (4 - v)) ** 2 - 2
    for _ in range(J - 1):
        (c0, s0), (c, s) = long[-2:]
        long.append((twice_c8 * c - c0, twice_c8 * s - s0))
    return [c1, s1, c3, s3], [part for row in long[1:] for part in row]


def _products(phi: Tensor, turn: _Pair | None, J: int, cos_sin: _CosSin = _library) -> Tensor:
    """`(M, N) -> (M, 8 J)`: every long row times every short one, summed over n."""
    short, long = _rows(phi, J, cos_sin, turn)
    return torch.stack([(a * b).sum(-1) for a in long for b in short], dim=-1)


def _gradient(
    phi: Tensor, weights: Tensor, turn: _Pair | None, J: int, cos_sin: _CosSin = _library
) -> Tensor:
    """`(M, N)`: the sum of all products, each with its weight out of `(M, 8 J)`."""
    short, long = _rows(phi, J, cos_sin, turn)
    total = torch.zeros_like(phi)
    for i, b in enumerate(short):
        part = torch.zeros_like(phi)
        for j, a in enumerate(long):
            part = part + weights[:, 4 * j + i, None] * a
        total = total + part * b
    return total


@functools.cache
def _compiled(formula: Callable[..., Any], J: int) -> Callable[..., Any]:
    """The formula for J long rows and any shape, so that a new batch size costs no new compilation."""
    # A code object of its own, with J bound: torch.compile allows each code object 8 compilations.
    # All products are of two odd rows, so that a common sign does not matter.
    own = types.FunctionType(formula.__code__.replace(), formula.__globals__, argdefs=(J, half_turns.cos_sin))
    options: dict[str, Any] = {
        "cpp.enable_floating_point_contract_flag": "fast",  # multiply and add in one instruction
        "cpp.max_horizontal_fusion_size": 32,  # sums in one loop; each loop computes the rows anew
        "realize_opcount_threshold": 1000,  # operations that a row may have before it is stored: none is
    }
    loop = torch.compile(own, dynamic=True, fullgraph=True, options=options)

    def call(*tensors: Tensor | _Pair | None) -> Any:
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


def _run(formula: Callable[..., Any], *tensors: Tensor | _Pair | None, J: int) -> Any:
    if torch.compiler.is_compiling():
        return formula(*tensors, J)
    return _compiled(formula, J)(*tensors)


_BLOCK = 4  # long rows in one loop: 16 knots; with more the sums no longer fit into registers


def _blocks(phi: Tensor, P: int) -> Iterator[tuple[int, int, _Pair | None]]:
    """The long rows that P knots need, a few at a time: first, last + 1, and the turn that leads there."""
    J = groups(P)
    for first in range(0, J, _BLOCK):
        yield first, min(J, first + _BLOCK), _library(8 * first * phi) if first else None


class _ProjectedSums(Function):
    """The sums of z @ A: `(V, N, D)`, `(D, K)` -> `(V, P, K)` twice."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, A: Tensor, dt: float, P: int) -> tuple[Tensor, Tensor]:
        (V, N, D), K = z.shape, A.shape[1]
        phi = _scaled_product(dt / 2, A.T, z.reshape(V * N, D).T).reshape(K * V, N)
        ctx.save_for_backward(z, A, phi)
        ctx.dt, ctx.P = dt, P
        products = [_run(_products, phi, turn, J=end - first) for first, end, turn in _blocks(phi, P)]
        sums = Identities(P, phi).sums(torch.cat(products, dim=-1))
        C, S = (part.reshape(K, V, P).permute(1, 2, 0) for part in sums)  # still in the order of phi
        return C, S

    @staticmethod
    def backward(ctx: Any, gC: Tensor, gS: Tensor) -> tuple[Tensor | None, ...]:
        z, A, phi = ctx.saved_tensors
        _, P, K = gC.shape
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
            sums = characteristic_sums(z @ A, ctx.dt, P)
            inputs = [v if needed else None for v, needed in zip((z, A), ctx.needs_input_grad, strict=False)]
            wanted = [v for v in inputs if v is not None]
            grads = iter(torch.autograd.grad(sums, wanted, (gC, gS), create_graph=True))
            return *(None if v is None else next(grads) for v in inputs), None, None
        V, N, D = z.shape
        gC, gS = (part.permute(2, 0, 1).reshape(-1, P) for part in (gC, gS))
        with torch.autocast(z.device.type, enabled=False):  # for those who call backward() under it
            weights = Identities(P, phi).weights(gC, gS)
        flat, half = z.reshape(V * N, D), ctx.dt / 2
        need_z, need_A, *_ = ctx.needs_input_grad
        gz, gA = torch.empty_like(flat) if need_z else None, torch.empty_like(A) if need_A else None
        # On a CPU the gradient in phi comes a few slices at a time: memory for a second phi is what the
        # allocator would give back after each step and ask for, page by page, at the next.
        whole = torch.compiler.is_compiling() or z.device.type != "cpu"
        width = K if whole else max(1, _PART // (V * N))
        for start in range(0, K, width):
            columns, rows = slice(start, start + width), slice(start * V, (start + width) * V)
            parts = [
                _run(_gradient, phi[rows], weights[rows, 8 * first : 8 * end], turn, J=end - first)
                for first, end, turn in _blocks(phi[rows], P)
            ]
            g = functools.reduce(Tensor.add_, parts).reshape(-1, V * N)  # (K, V N)
            if gz is not None:
                gz.addmm_(g.T, A[:, columns].T, beta=float(start > 0), alpha=half)
            if gA is not None:
                gA[:, columns] = _scaled_product(half, flat.T, g.T)
        return None if gz is None else gz.reshape(z.shape), gA, None, None


def _scaled_product(scale: float, a: Tensor, b: Tensor) -> Tensor:
    """scale * a @ b, without a tensor for the scaled factor."""
    return torch.addmm(a.new_zeros(()), a, b, beta=0, alpha=scale)


def sliced_epps_pulley(
    z: Tensor, A: Tensor, *, t_max: float, num_points: int, unbiased: bool, ranks: Ranks
) -> Tensor:
    """The mean of the statistic of z @ A over views and slices: `(V, N, D)`, `(D, K)` -> scalar."""
    C, S = _ProjectedSums.apply(z, A, t_max / (num_points - 1), num_points - 1)
    (C, S), N = ranks.sum(C, S, count=z.shape[1])
    return epps_pulley_from_sums(C, S, N, t_max, num_points, unbiased).mean()

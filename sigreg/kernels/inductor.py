"""Epps-Pulley as plain formulas that torch.compile turns into one loop forward and one backward.

The projections are stored transposed, `(K, V, N)`, so that each sum runs over contiguous memory; the
summands are the products of `sigreg.kernels.products`.  The projection itself is a matrix product outside the
loops; its result is kept for the backward pass, and nothing larger.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
import torch._dynamo
from torch import Tensor
from torch.fx.experimental import _config as symbolic

from sigreg.kernels import products, sincos

_PART = 1 << 19  # numbers
# Sizes of 1, weights and dtypes are compiled one by one: their combinations are more than torch's limit of 8.
_NAME = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
_LIMIT = {_NAME: 128}

_Pair: TypeAlias = tuple[Tensor, Tensor]
_CosSin: TypeAlias = Callable[[Tensor], _Pair]


def _library(phi: Tensor) -> _Pair:
    return phi.cos(), phi.sin()


def _rows(phi: Tensor, J: int, cos_sin: _CosSin, rotation: _Pair | None) -> tuple[list[Tensor], list[Tensor]]:
    """The short rows c_3, s_3, c_1, s_1 and J long ones c_5, s_5, c_13, ...

    `rotation`, the cosine and sine of some angle, shifts the long rows to m + angle / phi.
    """
    c1, s1 = cos_sin(phi)
    v = 4 * s1**2  # 2 - 2 cos 2 phi
    c3, s3 = c1 * (1 - v), s1 * (3 - v)
    long = [(c3, -s3), ((2 - v) * c3 - c1, (2 - v) * s3 - s1)]  # m = -3, 5
    if rotation is not None:
        C, S = rotation
        long = [(C * c - S * s, C * s + S * c) for c, s in long]
    twice_c8 = (2 - v * (4 - v)) ** 2 - 2
    for _ in range(J - 1):
        (c0, s0), (c, s) = long[-2:]
        long.append((twice_c8 * c - c0, twice_c8 * s - s0))
    return [c3, s3, c1, s1], [part for row in long[1:] for part in row]


def _products(
    phi: Tensor, weights: Tensor | None, rotation: _Pair | None, J: int, cos_sin: _CosSin = _library
) -> Tensor:
    """`(K, V, N) -> (K, V, 8 J)`: long rows times short rows, summed over n with weights `(V, N)`."""
    short, long = _rows(phi, J, cos_sin, rotation)
    if weights is not None:
        short = [row * weights for row in short]
    return torch.stack([(a * b).sum(-1) for a in long for b in short], dim=-1)


def _gradient(
    phi: Tensor,
    factors: Tensor,
    weights: Tensor | None,
    rotation: _Pair | None,
    J: int,
    cos_sin: _CosSin = _library,
) -> Tensor:
    """`(K, V, N)`: the sum of all products, each with its factor out of `(K, V, 8 J)`."""
    short, long = _rows(phi, J, cos_sin, rotation)
    total = torch.zeros_like(phi)
    for i, b in enumerate(short):
        part = torch.zeros_like(phi)
        for j, a in enumerate(long):
            part = part + factors[..., 4 * j + i, None] * a
        total = total + part * b
    return total if weights is None else total * weights


@functools.cache
def _compiled(formula: Callable[..., Any], J: int) -> Callable[..., Any]:
    """The formula for J long rows and any shape, so that a new batch size costs no new compilation."""
    # A separate code object with J bound, because torch.compile counts compilations by code object.
    # `sincos.cos_sin` may be used: each product has two factors that share its sign.
    own = types.FunctionType(formula.__code__.replace(), formula.__globals__, argdefs=(J, sincos.cos_sin))
    options: dict[str, Any] = {
        "cpp.enable_floating_point_contract_flag": "fast",  # multiply and add in one instruction
        "cpp.max_horizontal_fusion_size": 32,  # sums in one loop; each loop computes the rows anew
        "realize_opcount_threshold": 1000,  # operations that a row may have before it is stored: none is
    }
    loop = torch.compile(own, dynamic=True, fullgraph=True, options=options)

    def call(*tensors: Tensor | _Pair | None) -> Any:
        try:
            # Without use_duck_shape=False, sizes that are equal in the first call must stay equal.
            with torch._dynamo.config.patch(_LIMIT), symbolic.patch(use_duck_shape=False):  # type: ignore[attr-defined]
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


_BLOCK = 4  # long rows in one loop: 16 points; with more the sums no longer fit into registers


def _blocks(phi: Tensor, P: int) -> Iterator[tuple[int, int, _Pair | None]]:
    """The long rows that P points need, a few at a time: first, last + 1, and the rotation to the first."""
    J = products.groups(P)
    for first in range(0, J, _BLOCK):
        yield first, min(J, first + _BLOCK), _library(8 * first * phi) if first else None


def ecf_sums(z: Tensor, A: Tensor | None, weights: Tensor | None, dt: float, P: int) -> tuple[_Pair, Tensor]:
    """C and S `(V, K, P)` of z A, or of z where A is None, and phi `(K, V, N)` for the backward pass."""
    V, N, D = z.shape
    if A is None:
        phi = (z * (dt / 2)).permute(2, 0, 1).contiguous()
    else:
        phi = _scaled_product(dt / 2, A.T, z.reshape(V * N, D).T).reshape(A.shape[1], V, N)
    parts = [
        _run(_products, phi, weights, rotation, J=end - first) for first, end, rotation in _blocks(phi, P)
    ]
    C, S = products.sums(torch.cat(parts, dim=-1).reshape(*phi.shape[:2], -1, 2, 2, 2), P)
    return (C.transpose(0, 1), S.transpose(0, 1)), phi


def ecf_sums_backward(
    z: Tensor,
    A: Tensor | None,
    weights: Tensor | None,
    phi: Tensor,
    dt: float,
    P: int,
    gC: Tensor,
    gS: Tensor,
    need_z: bool,
    need_A: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradient of sum (gC C + gS S) in z and in A."""
    (V, N, D), K, half = z.shape, gC.shape[1], dt / 2
    factors = products.weights(gC.transpose(0, 1), gS.transpose(0, 1)).flatten(2)  # (K, V, 8 J)
    flat = z.reshape(V * N, D)
    gz = torch.empty_like(flat) if need_z and A is not None else None
    gA = torch.empty_like(A) if need_A and A is not None else None
    # On a CPU the gradient in phi is computed a few slices at a time: the allocator would return the memory
    # of a second phi to the system after each step, and page it in again at the next.
    whole = torch.compiler.is_compiling() or z.device.type != "cpu" or A is None
    width = K if whole else max(1, _PART // max(1, V * N))
    for start in range(0, K, width):
        columns = slice(start, start + width)
        parts = [
            _run(_gradient, phi[columns], factors[columns, :, 8 * i : 8 * j], weights, rotation, J=j - i)
            for i, j, rotation in _blocks(phi[columns], P)
        ]
        g = functools.reduce(Tensor.add_, parts)  # (K, V, N)
        if A is None:
            return (g * half).permute(1, 2, 0), None
        if gz is not None:
            gz.addmm_(g.flatten(1).T, A[:, columns].T, beta=float(start > 0), alpha=half)
        if gA is not None:
            gA[:, columns] = _scaled_product(half, flat.T, g.flatten(1).T)
    return None if gz is None else gz.reshape(z.shape), gA


def _scaled_product(scale: float, a: Tensor, b: Tensor) -> Tensor:
    """scale * a @ b, without a tensor for the scaled factor."""
    return torch.addmm(a.new_zeros(()), a, b, beta=0, alpha=scale)

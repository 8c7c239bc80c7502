# mypy: disable-error-code="import-untyped,import-not-found", allow-untyped-defs, allow-untyped-decorators
# mypy: allow-untyped-calls, allow-incomplete-defs
"""Epps-Pulley in three Triton kernels: sums over the samples, statistic and slopes, gradient.

The projections x = z A `(V, N, K)` are one matrix product of the device's library and the only tensor of
that size: the gradient takes their place.  Cosine and sine of every frequency follow by rotation.
No atomic operation is used: a program writes what it owns and the parts are summed in a fixed order, so that
two runs agree bit for bit.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from sigreg.sample import Number

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise RuntimeError("backend='triton' needs triton: pip install triton, or use backend='eager'") from error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_PROGRAMS = 1024  # programs in a launch: some for each multiprocessor of a large GPU
_MAX_PARTS = 32  # partial sums of a slice
_LARGEST = 1 << 28  # projections in memory at a time: 1 GiB
# The fastest of 15 on an H100 for most shapes of `cost`.  In the interpreter the blocks are small, so that
# tests have incomplete ones in every dimension.
_SUMS = {"BLOCK_N": 16, "BLOCK_K": 16 if INTERPRETED else 32, "num_warps": 1}
_GRADIENT = {"BLOCK_N": 16, "BLOCK_K": 16 if INTERPRETED else 64, "num_warps": 4}


@triton.jit
def _sums_kernel(x, w, out, N, K, dt, P: tl.constexpr, P_PADDED: tl.constexpr, WEIGHTED: tl.constexpr,
                 BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """out `(parts, V, 2, P, K)`: this part's sums of w cos and of w sin, for a block of slices of a view."""
    v, part, parts = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.num_programs(2)
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    x += v * N * K
    row = tl.arange(0, P_PADDED)[:, None]  # row p holds frequency p + 1
    C = tl.zeros((P_PADDED, BLOCK_K), dtype=tl.float32)
    S = tl.zeros((P_PADDED, BLOCK_K), dtype=tl.float32)
    for start in range(part * BLOCK_N, N, parts * BLOCK_N):
        n = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        there = (n < N)[:, None] & (k < K)[None, :]
        theta = dt * tl.load(x + n[:, None] * K + k[None, :], mask=there, other=0.0)
        c1, s1 = tl.cos(theta), tl.sin(theta)
        if WEIGHTED:
            weight = tl.load(w + v * N + n, mask=n < N, other=0.0)[:, None]
        else:
            weight = (n < N).to(tl.float32)[:, None]
        c, s = c1 * weight, s1 * weight  # a factor stays what it is under rotation
        for p in tl.static_range(P):
            C += tl.where(row == p, tl.sum(c, axis=0)[None, :], 0.0)
            S += tl.where(row == p, tl.sum(s, axis=0)[None, :], 0.0)
            c, s = c * c1 - s * s1, s * c1 + c * s1
    out += (part * tl.num_programs(1) + v) * 2 * P * K
    mask = (row < P) & (k < K)[None, :]
    tl.store(out + row * K + k[None, :], C, mask=mask)
    tl.store(out + (P + row) * K + k[None, :], S, mask=mask)


@triton.jit
def _statistic_kernel(sums, parts, W_of, N_of, W, N, values, slopes, V, K, dt, P: tl.constexpr,
                      WEIGHTED: tl.constexpr, UNBIASED: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """values `(V, K)`, and slopes `(V, 2, P, K)` of their mean over K in C and S, from the sums of all parts.

    The formulas are those of `sigreg.kernels.quadrature`.
    """
    v = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = k < K
    if WEIGHTED:
        W, N = tl.load(W_of + v), tl.load(N_of + v)
    correction = N / tl.maximum(N - 1, 1e-30)  # of the unbiased value
    correction = tl.where(N > 1, correction, 0.0)
    total = tl.zeros((BLOCK_K,), dtype=tl.float32)
    for p in tl.static_range(P):
        C = tl.zeros((BLOCK_K,), dtype=tl.float32)
        S = tl.zeros((BLOCK_K,), dtype=tl.float32)
        for part in range(parts):
            here = sums + ((part * V + v) * 2 * P + p) * K + k
            C += tl.load(here, mask=mask, other=0.0)
            S += tl.load(here + P * K, mask=mask, other=0.0)
        t = tl.full((1,), (p + 1) * dt, tl.float64)  # exp of a float32 keeps fewer digits on a GPU
        phi = tl.exp(-0.5 * t * t).to(tl.float32)
        w = phi * dt * (1 if p == P - 1 else 2)  # the trapezoid rule halves its last point
        re, im = C / W, S / W
        error = (re - phi) * (re - phi) + im * im
        scale = 2 * N / W * w / K
        if UNBIASED:
            total += correction * w * (N * error - (1 - 2 * phi * re + phi * phi))
            g_re, g_im = scale * (re * correction - phi), scale * (im * correction)
        else:
            total += N * w * error
            g_re, g_im = scale * (re - phi), scale * im
        there = slopes + (v * 2 * P + p) * K + k
        tl.store(there, g_re, mask=mask)
        tl.store(there + P * K, g_im, mask=mask)
    tl.store(values + v * K + k, total, mask=mask)


@triton.jit
def _gradient_kernel(x, w, slopes, N, K, dt, P: tl.constexpr, WEIGHTED: tl.constexpr,
                     BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """The gradient in x, in its place, of what has these slopes `(V, 2, P, K)` in C and S.

    It is dt times the real part of sum_p p (gS_p + i gC_p) e^{ip theta}, by Horner's rule.
    """
    v = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    n = (tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    there = (n < N)[:, None] & (k < K)[None, :]
    here = x + v * N * K + n[:, None] * K + k[None, :]
    slopes += v * 2 * P * K
    theta = dt * tl.load(here, mask=there, other=0.0)
    c1, s1 = tl.cos(theta), tl.sin(theta)
    re = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    im = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    for i in tl.static_range(P):
        gC = tl.load(slopes + (P - 1 - i) * K + k, mask=k < K, other=0.0)[None, :]
        gS = tl.load(slopes + (2 * P - 1 - i) * K + k, mask=k < K, other=0.0)[None, :]
        re, im = re * c1 - im * s1 + (P - i) * gS, re * s1 + im * c1 + (P - i) * gC
    g = (re * c1 - im * s1) * dt
    if WEIGHTED:
        g *= tl.load(w + v * N + n, mask=n < N, other=0.0)[:, None]
    tl.store(here, g, mask=there)


def _sums(x: Tensor, weights: Tensor | None, dt: float, P: int) -> Tensor:
    """The sums of contiguous x `(V, N, K)` in parts of the samples: `(parts, V, 2, P, K)`."""
    V, N, K = x.shape
    blocks = triton.cdiv(K, _SUMS["BLOCK_K"])
    parts = max(1, min(_MAX_PARTS, _PROGRAMS // (V * blocks), triton.cdiv(N, _SUMS["BLOCK_N"])))
    out = x.new_empty(parts, V, 2, P, K)
    with torch.cuda.device_of(x):
        _sums_kernel[(blocks, V, parts)](
            x, x if weights is None else weights, out, N, K, dt,
            P=P, P_PADDED=triton.next_power_of_2(P), WEIGHTED=weights is not None, **_SUMS,
        )  # fmt: skip
    return out


def _to_gradient(x: Tensor, weights: Tensor | None, slopes: Tensor, dt: float, P: int) -> Tensor:
    """Contiguous x `(V, N, K)`, replaced by the gradient in it."""
    V, N, K = x.shape
    grid = triton.cdiv(K, _GRADIENT["BLOCK_K"]), V, triton.cdiv(N, _GRADIENT["BLOCK_N"])
    with torch.cuda.device_of(x):
        _gradient_kernel[grid](
            x, x if weights is None else weights, slopes, N, K, dt,
            P=P, WEIGHTED=weights is not None, **_GRADIENT,
        )  # fmt: skip
    return x


def usable(z: Tensor) -> bool:
    """Whether the kernels take these embeddings."""
    return (z.is_cuda or INTERPRETED) and z.dtype == torch.float32


def _check(z: Tensor) -> None:
    if not usable(z):
        raise RuntimeError(
            f"backend='triton' takes float32 embeddings on a GPU, got {z.dtype} on {z.device}; "
            "use backend='eager'"
        )


def ecf_sums(
    z: Tensor, A: Tensor | None, weights: Tensor | None, dt: float, P: int, name: str
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """C and S `(V, K, P)` of x = z A, or of z where A is None, and x `(V, N, K)` for the backward pass.

    Raises:
        RuntimeError: z is not on a GPU, or not float32.
    """
    _check(z)
    x = (z if A is None else z @ A).contiguous()
    C, S = _sums(x, None if weights is None else weights.contiguous(), dt, P).sum(0).mT.unbind(1)
    return (C, S), x


def ecf_sums_backward(
    z: Tensor,
    A: Tensor | None,
    weights: Tensor | None,
    x: Tensor,
    dt: float,
    P: int,
    gC: Tensor,
    gS: Tensor,
    name: str,
    need_z: bool,
    need_A: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradient of sum (gC C + gS S) in z and in A."""
    slopes = torch.stack([gC, gS], dim=1).mT.contiguous()  # (V, 2, P, K)
    g = _to_gradient(x.clone(), None if weights is None else weights.contiguous(), slopes, dt, P)
    if A is None:
        return g, None
    gz = g @ A.T if need_z else None
    return gz, z.flatten(0, 1).T @ g.flatten(0, 1) if need_A else None


def value_and_gradient(
    z: Tensor,
    A: Tensor,
    weights: Tensor | None,
    W: Number,
    N: Number,
    grid: tuple[float, int, bool],
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """The mean over slices `(V,)`, and its gradient in z; see `sigreg.kernels`.

    Raises:
        RuntimeError: z is not on a GPU, or not float32.
    """
    _check(z)
    (V, rows, _), K, (t_max, num_points, unbiased) = z.shape, A.shape[1], grid
    P, dt = num_points - 1, t_max / (num_points - 1)
    weights = None if weights is None else weights.contiguous()
    values = z.new_empty(V, K)
    grad = torch.empty_like(z, memory_format=torch.contiguous_format) if with_gradient else None
    height = max(1, _LARGEST // max(1, rows * K))
    for v in range(0, V, height):
        own = slice(v, min(V, v + height))
        x, w = z[own] @ A, None if weights is None else weights[own]
        sums, slopes = _sums(x, w, dt, P), x.new_empty(len(x), 2, P, K)
        of_views = [n[own].contiguous() if isinstance(n, Tensor) else x for n in (W, N)]
        numbers = [0.0 if isinstance(n, Tensor) else float(n) for n in (W, N)]
        with torch.cuda.device_of(x):
            _statistic_kernel[(triton.cdiv(K, 64), len(x))](
                sums, len(sums), *of_views, *numbers, values[own], slopes, len(x), K, dt,
                P=P, WEIGHTED=weights is not None, UNBIASED=unbiased, BLOCK_K=64, num_warps=2,
            )  # fmt: skip
        if grad is not None:
            torch.matmul(_to_gradient(x, w, slopes, dt, P), A.T, out=grad[own])
    return values.mean(-1), grad

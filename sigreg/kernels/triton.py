# mypy: disable-error-code="import-untyped,import-not-found", allow-untyped-defs, allow-untyped-decorators
# mypy: allow-untyped-calls, allow-incomplete-defs
"""Epps-Pulley fused in Triton, as FlashAttention is: neither (N, K) nor (N, K, points) is ever in memory.

A program owns a block of slices and walks over the samples (forward), or owns a block of samples and
walks over the slices (backward).  Each tile of projections is formed in registers, transposed,
`(BLOCK_K, BLOCK_N)`, so that the sums over samples run within a thread first; cosine and sine of every
frequency follow by rotation.  No atomic operation is used: a program writes what it owns and the parts
are summed in a fixed order, so that two runs agree bit for bit.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise RuntimeError("backend='triton' needs triton: pip install triton, or use backend='eager'") from error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_PROGRAMS = 256  # programs in a launch: about two for each multiprocessor of a large GPU
_MAX_PARTS = 8  # partial results in memory, each the size of the whole

if INTERPRETED:  # small enough that tests have incomplete blocks in every dimension
    _CONFIGS = [triton.Config({"BLOCK_K": 16, "BLOCK_N": 16, "BLOCK_D": 16}, num_warps=1)]
else:
    _CONFIGS = [
        triton.Config({"BLOCK_K": k, "BLOCK_N": n, "BLOCK_D": d}, num_warps=warps, num_stages=stages)
        for k, n, d, warps, stages in (
            (32, 64, 32, 4, 3),
            (32, 128, 32, 4, 3),
            (64, 64, 32, 4, 3),
            (64, 64, 64, 8, 2),
            (64, 128, 32, 8, 3),
            (128, 64, 32, 8, 3),
        )
    ]


@triton.jit
def _projections(z, a, n, k, N, D, K, stride_zn, stride_zd, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
                 BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """The tile `(BLOCK_K, BLOCK_N)` of a @ z.T for the rows k of a `(K, D)` and n of z."""
    x = tl.zeros((BLOCK_K, BLOCK_N), dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        a_kd = tl.load(a + k[:, None] * D + d[None, :], mask=(k < K)[:, None] & (d < D)[None, :], other=0.0)
        z_dn = tl.load(
            z + n[None, :] * stride_zn + d[:, None] * stride_zd,
            mask=(d < D)[:, None] & (n < N)[None, :],
            other=0.0,
        )
        if PRECISION == "bf16":
            x = tl.dot(a_kd.to(tl.bfloat16), z_dn.to(tl.bfloat16), x)
        else:
            x = tl.dot(a_kd, z_dn, x, input_precision=PRECISION)
    return x


@triton.autotune(configs=_CONFIGS, key=["N_KEY", "D", "K", "P"])
@triton.jit
def _sums_kernel(z, a, w, out, N, N_KEY, D, K, dt, stride_zv, stride_zn, stride_zd, P: tl.constexpr,
                 P_PADDED: tl.constexpr, WEIGHTED: tl.constexpr, PRECISION: tl.constexpr,
                 BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """out `(parts, V, 2, P, K)`: this part's sums of w cos and of w sin, for a block of slices."""
    v, part, parts = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.num_programs(2)
    k = (tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)).to(tl.int64)
    z += v * stride_zv
    row = tl.arange(0, P_PADDED)[None, :]  # row p holds frequency p + 1
    C = tl.zeros((BLOCK_K, P_PADDED), dtype=tl.float32)
    S = tl.zeros((BLOCK_K, P_PADDED), dtype=tl.float32)
    for start in range(part * BLOCK_N, N, parts * BLOCK_N):
        n = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        theta = dt * _projections(z, a, n, k, N, D, K, stride_zn, stride_zd,
                                  BLOCK_D, PRECISION, BLOCK_K, BLOCK_N)  # fmt: skip
        c1, s1 = tl.cos(theta), tl.sin(theta)
        if WEIGHTED:
            weight = tl.load(w + v * N + n, mask=n < N, other=0.0)[None, :]
        else:
            weight = (n < N).to(tl.float32)[None, :]
        c, s = c1 * weight, s1 * weight  # a factor stays what it is under rotation
        for p in tl.static_range(P):
            C += tl.where(row == p, tl.sum(c, axis=1)[:, None], 0.0)
            S += tl.where(row == p, tl.sum(s, axis=1)[:, None], 0.0)
            c, s = c * c1 - s * s1, s * c1 + c * s1
    out += (part * tl.num_programs(1) + v) * 2 * P * K
    mask = (row < P) & (k < K)[:, None]
    tl.store(out + row * K + k[:, None], C, mask=mask)
    tl.store(out + (P + row) * K + k[:, None], S, mask=mask)


# A configuration with larger blocks has fewer parts, and must not find those that another one wrote.
@triton.autotune(configs=_CONFIGS, key=["N_KEY", "D", "K", "P"], reset_to_zero=["out"])
@triton.jit
def _gradient_kernel(z, a, w, slopes, out, N, N_KEY, D, K, dt, stride_zv, stride_zn, stride_zd,
                     P: tl.constexpr, WEIGHTED: tl.constexpr, PRECISION: tl.constexpr,
                     BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """out `(parts, V, N, D)`: the gradient through this part's slices, for a block of samples.

    slopes `(V, 2, P, K)` are of the loss in C and in S.  The gradient in theta is the real part of
    sum_k k (gS_k + i gC_k) e^{ik theta}, by Horner's rule.
    """
    v, part, parts = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.num_programs(2)
    n = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    z += v * stride_zv
    slopes += v * 2 * P * K
    out += (part * tl.num_programs(1) + v) * N * D
    for start in range(part * BLOCK_K, K, parts * BLOCK_K):
        k = (start + tl.arange(0, BLOCK_K)).to(tl.int64)
        theta = dt * _projections(z, a, n, k, N, D, K, stride_zn, stride_zd,
                                  BLOCK_D, PRECISION, BLOCK_K, BLOCK_N)  # fmt: skip
        c1, s1 = tl.cos(theta), tl.sin(theta)
        re = tl.zeros((BLOCK_K, BLOCK_N), dtype=tl.float32)
        im = tl.zeros((BLOCK_K, BLOCK_N), dtype=tl.float32)
        for i in tl.static_range(P):
            gC = tl.load(slopes + (P - 1 - i) * K + k, mask=k < K, other=0.0)
            gS = tl.load(slopes + (2 * P - 1 - i) * K + k, mask=k < K, other=0.0)
            re, im = re * c1 - im * s1 + (P - i) * gS[:, None], re * s1 + im * c1 + (P - i) * gC[:, None]
        g = (re * c1 - im * s1) * dt
        if WEIGHTED:
            g *= tl.load(w + v * N + n, mask=n < N, other=0.0)[None, :]
        g = tl.trans(g)  # (BLOCK_N, BLOCK_K)
        for d_start in range(0, D, BLOCK_D):
            d = d_start + tl.arange(0, BLOCK_D)
            a_kd = tl.load(
                a + k[:, None] * D + d[None, :], mask=(k < K)[:, None] & (d < D)[None, :], other=0.0
            )
            if PRECISION == "bf16":
                update = tl.dot(g.to(tl.bfloat16), a_kd.to(tl.bfloat16))
            else:
                update = tl.dot(g, a_kd, input_precision=PRECISION)
            here = out + n[:, None] * D + d[None, :]
            mask = (n < N)[:, None] & (d < D)[None, :]
            if start != part * BLOCK_K:  # what this program itself wrote for its earlier slices
                update += tl.load(here, mask=mask, other=0.0)
            tl.store(here, update, mask=mask)
        tl.debug_barrier()


def _parts(programs: int, blocks: int) -> int:
    """How many programs share the loop of one block: enough to fill the device, at most one for each step."""
    return max(1, min(_MAX_PARTS, _PROGRAMS // max(1, programs), blocks))


def ecf_sums(
    z: Tensor, A: Tensor, weights: Tensor | None, dt: float, P: int, name: str
) -> tuple[tuple[Tensor, Tensor], None]:
    """C and S `(V, K, P)` of z A.  `name` may end in the precision of the projection.

    "triton" is float32 throughout; "triton-tf32" and "triton-bf16" use tensor cores and keep about 3 and
    2 digits of each projection.

    Raises:
        RuntimeError: z is not on a GPU, or not float32, or there are no directions, or they require grad.
    """
    if A is None or not (z.is_cuda or INTERPRETED) or z.dtype != torch.float32 or A.requires_grad:
        directions = "no" if A is None else "learned" if A.requires_grad else "fixed"
        raise RuntimeError(
            f"backend='triton' takes float32 embeddings on a GPU and fixed directions, got {z.dtype} on"
            f" {z.device} and {directions} directions; use backend='eager'"
        )
    (V, N, D), K = z.shape, A.shape[1]
    a = A.T.contiguous()  # (K, D)
    parts = _parts(V * triton.cdiv(K, 64), triton.cdiv(N, _CONFIGS[0].kwargs["BLOCK_N"]))
    out = z.new_empty(parts, V, 2, P, K)
    _sums_kernel[lambda meta: (triton.cdiv(K, meta["BLOCK_K"]), V, parts)](
        z, a, z if weights is None else weights.contiguous(), out, N, triton.next_power_of_2(N), D, K, dt,
        *z.stride(), P=P, P_PADDED=triton.next_power_of_2(P), WEIGHTED=weights is not None,
        PRECISION=_precision(name),
    )  # fmt: skip
    C, S = out.sum(0).mT.unbind(1)
    return (C, S), None


def ecf_sums_backward(
    z: Tensor,
    A: Tensor,
    weights: Tensor | None,
    phi: None,
    dt: float,
    P: int,
    gC: Tensor,
    gS: Tensor,
    name: str,
    need_z: bool,
    need_A: bool,
) -> tuple[Tensor, None]:
    """The gradient of sum (gC C + gS S) in z."""
    (V, N, D), K = z.shape, A.shape[1]
    slopes = torch.stack([gC, gS], dim=1).mT.contiguous()  # (V, 2, P, K)
    parts = _parts(V * triton.cdiv(N, 64), triton.cdiv(K, _CONFIGS[0].kwargs["BLOCK_K"]))
    # A program without a block writes nothing, so the parts start from zero.
    out = z.new_zeros(parts, V, N, D)
    _gradient_kernel[lambda meta: (triton.cdiv(N, meta["BLOCK_N"]), V, parts)](
        z, A.T.contiguous(), z if weights is None else weights.contiguous(), slopes, out, N,
        triton.next_power_of_2(N), D, K, dt, *z.stride(), P=P, WEIGHTED=weights is not None,
        PRECISION=_precision(name),
    )  # fmt: skip
    return out.sum(0), None


def _precision(name: str) -> str:
    return name.removeprefix("triton").removeprefix("-") or "ieee"

# mypy: disable-error-code="import-untyped,import-not-found", allow-untyped-defs, allow-untyped-decorators
# mypy: allow-untyped-calls, allow-incomplete-defs
"""What a GPU runs for Epps-Pulley: sums over the samples, statistic and slopes, gradient.

Tensors are contiguous; x `(V, N, K)` are projections.  A launch has one long dimension, because CUDA limits
the others to 65,535 programs.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sums_kernel(x, w, out, V, N, K, dt, P: tl.constexpr, P_PADDED: tl.constexpr, WEIGHTED: tl.constexpr,
                 BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """out `(parts, V, 2, P, K)`: this part's sums of w cos and of w sin, for a block of slices of a view."""
    blocks, part, parts = tl.cdiv(K, BLOCK_K), tl.program_id(1), tl.num_programs(1)
    v = (tl.program_id(0) // blocks).to(tl.int64)
    k = tl.program_id(0) % blocks * BLOCK_K + tl.arange(0, BLOCK_K)
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
    out += (part * V + v) * 2 * P * K
    mask = (row < P) & (k < K)[None, :]
    tl.store(out + row * K + k[None, :], C, mask=mask)
    tl.store(out + (P + row) * K + k[None, :], S, mask=mask)


@triton.jit
def statistic_kernel(sums, parts, W_of, N_of, W, N, values, slopes, V, K, dt, P: tl.constexpr,
                      WEIGHTED: tl.constexpr, UNBIASED: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """values `(V, K)`, and slopes `(V, 2, P, K)` of their mean over K in C and S, from the sums of all parts.

    The formulas are those of `sigreg.kernels.quadrature`.
    """
    blocks = tl.cdiv(K, BLOCK_K)
    v = (tl.program_id(0) // blocks).to(tl.int64)
    k = tl.program_id(0) % blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = k < K
    if WEIGHTED:
        W, N = tl.load(W_of + v), tl.load(N_of + v)
    correction = N / tl.maximum(N - 1, 1e-30)  # of the unbiased value
    correction = tl.where(N - 1 > 9.5367431640625e-07, correction, 0.0)  # 8 eps, as in `quadrature`
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
            scale *= (correction > 0).to(tl.float32)
            g_re, g_im = scale * (re * correction - phi), scale * (im * correction)
        else:
            total += N * w * error
            g_re, g_im = scale * (re - phi), scale * im
        there = slopes + (v * 2 * P + p) * K + k
        tl.store(there, g_re, mask=mask)
        tl.store(there + P * K, g_im, mask=mask)
    tl.store(values + v * K + k, total, mask=mask)


@triton.jit
def gradient_kernel(x, w, slopes, out, V, N, K, dt, P: tl.constexpr, WEIGHTED: tl.constexpr,
                     BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """out `(V, N, K)`, which may be x: the gradient in x of what has these slopes `(V, 2, P, K)` in C and S.

    It is dt times the real part of sum_p p (gS_p + i gC_p) e^{ip theta}, by Horner's rule.
    """
    blocks = tl.cdiv(K, BLOCK_K)
    v = (tl.program_id(0) // blocks % V).to(tl.int64)
    k = tl.program_id(0) % blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    n = (tl.program_id(0) // (blocks * V)).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = (n < N)[:, None] & (k < K)[None, :]
    here = v * N * K + n[:, None] * K + k[None, :]
    slopes += v * 2 * P * K
    theta = dt * tl.load(x + here, mask=there, other=0.0)
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
    tl.store(out + here, g, mask=there)

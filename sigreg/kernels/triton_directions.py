# mypy: disable-error-code="import-untyped,import-not-found", allow-untyped-defs, allow-untyped-decorators
# mypy: allow-untyped-calls, allow-incomplete-defs
"""`sigreg.directions.gaussian` as one Triton kernel in place of 36: the same numbers, up to rounding."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from sigreg.random_numbers import offset

_GAMMA = tl.constexpr(0x9E3779B97F4A7C15)  # SplitMix64, as in `sigreg.random_numbers`
_MIX1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MIX2 = tl.constexpr(0x94D049BB133111EB)
_TURN = tl.constexpr(2 * math.pi * 2.0**-32)
_BLOCK = {"BLOCK_D": 64, "BLOCK_K": 16, "num_warps": 4}


@triton.jit
def _normal(i, half, first, offset):
    """Number i of the stream whose first hash is number `first`: Box and Muller, two numbers for a hash."""
    second = i >= half
    hashed = (tl.where(second, i - half, i) + 1 + first).to(tl.uint64) * _GAMMA + offset.to(tl.uint64)
    hashed = (hashed ^ (hashed >> 30)) * _MIX1
    hashed = (hashed ^ (hashed >> 27)) * _MIX2
    hashed = hashed ^ (hashed >> 31)
    uniform = tl.minimum((hashed >> 40).to(tl.int32) + 1, 16777215).to(tl.float32) * 5.9604644775390625e-08
    angle = (hashed & 0xFFFFFFFF).to(tl.float32) * _TURN
    return tl.sqrt(-2 * tl.log(uniform)) * tl.where(second, tl.sin(angle), tl.cos(angle))


@triton.jit(do_not_specialize=["step", "offset"])
def _gaussian_kernel(out, step, offset, D, K, FROM_TENSOR: tl.constexpr,
                     BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """out `(D, K)`: a block of columns, drawn once for their lengths and once more to be written."""
    if FROM_TENSOR:
        step = tl.load(step)
    first = tl.full((1, 1), step, tl.int64) * 4294967296
    offset = tl.full((1, 1), offset, tl.int64)
    k = (tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)).to(tl.int64)[None, :]
    half = (tl.full((1, 1), D, tl.int64) * K + 1) // 2
    square = tl.zeros((BLOCK_K,), dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)[:, None]
        x = tl.where(d < D, _normal(d * K + k, half, first, offset), 0.0)
        square += tl.sum(x * x, axis=0)
    length = tl.sqrt(square)[None, :]
    for start in range(0, D, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)[:, None]
        x = _normal(d * K + k, half, first, offset) / length
        tl.store(out + d * K + k, x, mask=(d < D) & (k < K))


def gaussian(out: Tensor, seed: int, step: int | Tensor) -> Tensor:
    """Fill `out` `(D, K)`, in float32, with unit columns; step is an integer, or a tensor on its device."""
    D, K = out.shape
    with torch.cuda.device_of(out):
        _gaussian_kernel[(-(-K // _BLOCK["BLOCK_K"]),)](
            out, step, offset(seed), D, K, FROM_TENSOR=isinstance(step, Tensor), **_BLOCK
        )
    return out

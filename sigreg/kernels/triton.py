# mypy: disable-error-code="import-untyped,import-not-found", allow-untyped-defs, allow-untyped-decorators
# mypy: allow-untyped-calls, allow-incomplete-defs
"""Epps-Pulley in three Triton kernels (`sigreg.kernels.triton_kernels`) between two matrix products.

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
    from sigreg.kernels.triton_kernels import gradient_kernel, statistic_kernel, sums_kernel
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


def _blocks(numbers: int, block: int) -> int:
    """How many blocks hold so many numbers (`triton.cdiv` takes ten times as long)."""
    return -(-numbers // block)


def _sums(x: Tensor, weights: Tensor | None, dt: float, P: int) -> Tensor:
    """The sums of contiguous x `(V, N, K)` in parts of the samples: `(parts, V, 2, P, K)`."""
    V, N, K = x.shape
    programs = V * _blocks(K, _SUMS["BLOCK_K"])
    parts = max(1, min(_MAX_PARTS, _PROGRAMS // programs, _blocks(N, _SUMS["BLOCK_N"])))
    out = x.new_empty(parts, V, 2, P, K)
    with torch.cuda.device_of(x):
        sums_kernel[(programs, parts)](
            x, x if weights is None else weights, out, V, N, K, dt,
            P=P, P_PADDED=1 << (P - 1).bit_length(), WEIGHTED=weights is not None, **_SUMS,
        )  # fmt: skip
    return out


def _gradient(x: Tensor, weights: Tensor | None, slopes: Tensor, dt: float, P: int, out: Tensor) -> Tensor:
    """The gradient in contiguous x `(V, N, K)`, written to `out`, which may be x."""
    V, N, K = x.shape
    programs = V * _blocks(K, _GRADIENT["BLOCK_K"]) * _blocks(N, _GRADIENT["BLOCK_N"])
    with torch.cuda.device_of(x):
        gradient_kernel[(programs,)](
            x, x if weights is None else weights, slopes, out, V, N, K, dt,
            P=P, WEIGHTED=weights is not None, **_GRADIENT,
        )  # fmt: skip
    return out


def _check(z: Tensor) -> None:
    if not (z.is_cuda or INTERPRETED) or z.dtype != torch.float32:
        raise RuntimeError(
            f"backend='triton' takes float32 embeddings on a GPU, got {z.dtype} on {z.device}; "
            "use backend='eager'"
        )


def ecf_sums(
    z: Tensor, A: Tensor | None, weights: Tensor | None, dt: float, P: int
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
    need_z: bool,
    need_A: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradient of sum (gC C + gS S) in z and in A."""
    slopes = torch.stack([gC, gS], dim=1).mT.contiguous()  # (V, 2, P, K)
    weights = None if weights is None else weights.contiguous()
    g = _gradient(x, weights, slopes, dt, P, out=torch.empty_like(x))
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
    height = min(V, max(1, _LARGEST // max(1, rows * K)))
    # A tensor of our own: what `z @ A` returns may be one that selective checkpointing keeps.
    projections = z.new_empty(height, rows, K)
    for v in range(0, V, height):
        own = slice(v, min(V, v + height))
        x = torch.matmul(z[own], A, out=projections[: own.stop - v])
        w = None if weights is None else weights[own]
        sums, slopes = _sums(x, w, dt, P), x.new_empty(len(x), 2, P, K)
        of_views = [n[own].contiguous() if isinstance(n, Tensor) else x for n in (W, N)]
        numbers = [0.0 if isinstance(n, Tensor) else float(n) for n in (W, N)]
        with torch.cuda.device_of(x):
            statistic_kernel[(len(x) * _blocks(K, 64),)](
                sums, len(sums), *of_views, *numbers, values[own], slopes, len(x), K, dt,
                P=P, WEIGHTED=weights is not None, UNBIASED=unbiased, BLOCK_K=64, num_warps=2,
            )  # fmt: skip
        if grad is not None:
            torch.matmul(_gradient(x, w, slopes, dt, P, out=x), A.T, out=grad[own])
    return values.mean(-1), grad

"""Epps-Pulley, fast: projection, sums and gradient together.  Kernels know no Module.

    eager      tiles that stay in cache, plain tensor operations; runs everywhere, compiles nothing
    inductor   the sums and the gradient as one generated loop each, by torch.compile
    triton     projection, sums and gradient fused, for CUDA; "triton-tf32" and "triton-bf16" project on
               tensor cores, at the precision that they name

Every one computes the same number from `(V, N, D)` embeddings and `(D, K)` directions; they differ in
time and memory only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from sigreg.collectives import ALONE, Ranks
from sigreg.kernels import eager

BACKENDS = ("auto", "eager", "inductor", "triton", "triton-tf32", "triton-bf16")


def chosen(backend: str, device: torch.device) -> str:
    """The backend that runs on a device: what `"auto"` stands for, or the one that was named.

    `"inductor"` is never chosen for anyone: it compiles for a minute or two at the first call.  Nor is
    `"triton"`, on any device, until it has run on a GPU and not only under Triton's interpreter.
    """
    if backend != "auto":
        return backend
    return "eager"


def sliced_epps_pulley(
    z: Tensor,
    A: Tensor,
    *,
    t_max: float = 3.0,
    num_points: int = 17,
    unbiased: bool = False,
    ranks: Ranks = ALONE,
    backend: str = "auto",
) -> Tensor:
    """The mean of Epps-Pulley over views and slices: `(V, N, D)`, `(D, K)` -> scalar.

    Args:
        z: embeddings, float32 or float64.
        A: directions, unit columns, of z's dtype.
        t_max: half-range of the integral.
        num_points: points on the half-line, t = 0 included.
        unbiased: remove the O(1/N) minibatch bias.
        ranks: the processes that share the sample.
        backend: one of `BACKENDS`.

    Raises:
        RuntimeError: the backend that was named cannot run here.

    Example:
        >>> sliced_epps_pulley(torch.zeros(1, 100, 4), torch.eye(4)) / 100
        tensor(0.4020)
    """
    name = chosen(backend, z.device)
    if backend == "auto" and (z.dtype == torch.float64 or A.requires_grad):
        name = "eager"
    kernel: Callable[..., Tensor] = eager.sliced_epps_pulley
    if name == "inductor" or (name == "eager" and torch.compiler.is_compiling()):
        from sigreg.kernels import inductor  # tiles and buffers only stand in a compiler's way

        kernel = inductor.sliced_epps_pulley
    elif name.startswith("triton"):
        from sigreg.kernels import triton

        kernel = functools.partial(triton.sliced_epps_pulley, precision=name[len("triton-") :] or "ieee")
    return kernel(z, A, t_max=t_max, num_points=num_points, unbiased=unbiased, ranks=ranks)

"""The kernels of Epps-Pulley: projection, sums and gradient computed together, on plain tensors.

    reference  the definition, in operations that autograd and torch.func differentiate; stores the most
    eager      tiles of plain tensor operations, their size chosen for the device; compiles nothing
    inductor   the sums and the gradient as one generated loop each, by torch.compile
    triton     projection, sums and gradient fused, for CUDA; "triton-tf32" and "triton-bf16" project on
               tensor cores, at the precision that they name

All compute the same number from `(V, N, D)` embeddings and `(D, K)` directions; they differ in time and
memory only.  "auto" is "eager"; under a transform of `torch.func` it is "reference", and inside the user's
`torch.compile` it is the formulas of "inductor", which become part of the user's graph.
"""

from __future__ import annotations

import contextlib
import math
from types import ModuleType
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.autograd import Function

from sigreg.kernels import eager, reference
from sigreg.kernels.quadrature import epps_pulley_from_sums, points
from sigreg.sample import Sample, transformed

Backend: TypeAlias = Literal["auto", "reference", "eager", "inductor", "triton", "triton-tf32", "triton-bf16"]
BACKENDS: tuple[str, ...] = get_args(Backend)


def chosen(backend: str) -> str:
    """The backend that runs: the one that was named, or what `"auto"` stands for here.

    `"inductor"` compiles for a minute or two at the first call, and `"triton"` has run under Triton's
    interpreter only, so both are used only if they are named.
    """
    if torch.compiler.is_compiling() and backend in ("auto", "eager"):
        return "inductor"  # a compiler cannot fuse across tiles and preallocated buffers
    if transformed() and not backend.startswith("triton"):
        return "reference"
    return "eager" if backend == "auto" else backend


def no_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast disabled: sums of a thousand terms need float32."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def _module(name: str) -> ModuleType:
    """The kernel's `ecf_sums` and `ecf_sums_backward`; those that need more than torch are imported here."""
    if name == "eager":
        return eager
    if name.startswith("triton"):
        from sigreg.kernels import triton

        return triton
    from sigreg.kernels import inductor

    return inductor


class _ECFSums(Function):
    """C and S, `(V, K, P)` each, of the projections z A: `(V, N, D)`, `(D, K)`.

    Where A is None, z holds the projections.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, A: Tensor | None, weights: Tensor | None, dt: float, P: int, name: str
    ) -> tuple[Tensor, Tensor]:
        ctx.arguments = dt, P, name
        sums: tuple[Tensor, Tensor]
        sums, projections = _module(name).ecf_sums(z, A, weights, dt, P, name)
        ctx.save_for_backward(z, A, weights, projections)
        return sums

    @staticmethod
    def backward(ctx: Any, gC: Tensor, gS: Tensor) -> tuple[Tensor | None, ...]:
        z, A, weights, projections = ctx.saved_tensors
        dt, P, name = ctx.arguments
        need_z, need_A, *_ = ctx.needs_input_grad
        with no_autocast(z.device):  # backward() may be called under autocast
            if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
                sums = reference.ecf_sums(z if A is None else z @ A, weights, dt, P)
                wanted = [v for v, needed in ((z, need_z), (A, need_A)) if needed]
                grads = iter(torch.autograd.grad(sums, wanted, (gC, gS), create_graph=True))
                gz, gA = (next(grads) if needed else None for needed in (need_z, need_A))
            else:
                backward = _module(name).ecf_sums_backward
                gz, gA = backward(z, A, weights, projections, dt, P, gC, gS, name, need_z, need_A)
        return gz, gA, None, None, None, None


def ecf_sums(
    z: Tensor, A: Tensor | None, weights: Tensor | None, dt: float, P: int, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """C and S, `(..., K, P)` each, of z A, or of z where A is None; see `sigreg.kernels.quadrature`.

    Raises:
        RuntimeError: the backend that was named cannot run here.
    """
    name, views = chosen(backend), z.shape[:-2]
    with no_autocast(z.device):
        if name == "reference":
            return reference.ecf_sums(z if A is None else z @ A, weights, dt, P)
        flat = z.reshape(math.prod(views), *z.shape[-2:])  # -1 is ambiguous where N is 0
        rows = None if weights is None else weights.reshape(flat.shape[:-1])
        C, S = _ECFSums.apply(flat, A, rows, dt, P, name)
        return C.reshape(*views, *C.shape[1:]), S.reshape(*views, *S.shape[1:])


def sliced_epps_pulley(
    sample: Sample,
    A: Tensor,
    *,
    t_max: float = 3.0,
    num_points: int = 17,
    unbiased: bool = False,
    backend: str = "auto",
) -> Tensor:
    """The mean of Epps-Pulley over the slices: `(..., N, D)`, `(D, K)` -> `(...)`.

    Args:
        sample: embeddings, float32 or float64.
        A: directions, unit columns, of the embeddings' dtype.
        t_max: half-range of the integral.
        num_points: points on the half-line, t = 0 included.
        unbiased: remove the O(1/N) minibatch bias.
        backend: one of `BACKENDS`.

    Raises:
        RuntimeError: the backend that was named cannot run here.

    Example:
        >>> import torch
        >>> from sigreg.sample import Sample
        >>> sliced_epps_pulley(Sample(torch.zeros(1, 100, 4)), torch.eye(4)) / 100
        tensor([0.4020])
    """
    z, P = sample.x, num_points - 1
    alone = sample.group.size == 1
    if alone and not A.requires_grad and chosen(backend) == "eager":  # computes the gradient with the value
        flat = z.reshape(math.prod(z.shape[:-2]), *z.shape[-2:])
        weights, W, N = sample.weights, sample.W, sample.N
        if weights is not None:
            weights, W, N = (v.reshape(len(flat), -1) for v in (weights, W, N))  # type: ignore[union-attr]
        grid, train = (t_max, num_points, unbiased), torch.is_grad_enabled() and z.requires_grad
        with no_autocast(z.device):
            values: Tensor = eager.SlicedEppsPulley.apply(flat, A, weights, W, N, grid, train)
        return values.reshape(z.shape[:-2])
    C, S = ecf_sums(z, A, sample.weights, t_max / P, P, backend)
    C, S = sample.all_reduce(C, S)
    phi, w = points(t_max, num_points, C)
    return epps_pulley_from_sums(C, S, sample.W, sample.N, phi, w, unbiased).mean(-1)

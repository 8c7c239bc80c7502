"""The kernels of Epps-Pulley: projection, sums and gradient computed together, on plain tensors.

    reference  the definition, in operations that autograd and torch.func differentiate; stores the most
    eager      tiles of plain tensor operations, their size chosen for the device; compiles nothing
    inductor   the sums and the gradient as one generated loop each, by torch.compile
    triton     three kernels between two matrix products, for float32 on CUDA

All compute the same number from `(V, N, D)` embeddings and `(D, K)` directions; they differ in time and
memory only.  "auto" is "triton" for float32 on CUDA where Triton works, and "eager" elsewhere; under a
transform of `torch.func` it is "reference", and inside the user's `torch.compile` it is the formulas of
"inductor", which become part of the user's graph.
"""

from __future__ import annotations

import contextlib
import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sigreg.kernels import eager, reference
from sigreg.kernels.choice import BACKENDS as BACKENDS
from sigreg.kernels.choice import Backend as Backend
from sigreg.kernels.choice import chosen
from sigreg.kernels.quadrature import epps_pulley_from_sums, points
from sigreg.sample import Number, Sample


def no_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast disabled: sums of a thousand terms need float32."""
    if device.type == "meta" or not (torch.compiler.is_compiling() or torch.is_autocast_enabled(device.type)):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def _module(name: str) -> ModuleType:
    """The kernel's `ecf_sums` and `ecf_sums_backward`; those that need more than torch are imported here."""
    if name == "eager":
        return eager
    if name == "triton":
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
        sums, projections = _module(name).ecf_sums(z, A, weights, dt, P)
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
                gz, gA = backward(z, A, weights, projections, dt, P, gC, gS, need_z, need_A)
        return gz, gA, None, None, None, None


def ecf_sums(
    z: Tensor, A: Tensor | None, weights: Tensor | None, dt: float, P: int, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """C and S, `(..., K, P)` each, of z A, or of z where A is None; see `sigreg.kernels.quadrature`.

    Raises:
        RuntimeError: the backend that was named cannot run here.
    """
    name, views = chosen(backend, z), z.shape[:-2]
    with no_autocast(z.device):
        if name == "reference":
            return reference.ecf_sums(z if A is None else z @ A, weights, dt, P)
        flat = z.reshape(math.prod(views), *z.shape[-2:])  # -1 is ambiguous where N is 0
        rows = None if weights is None else weights.reshape(flat.shape[:-1])
        C, S = _ECFSums.apply(flat, A, rows, dt, P, name)
        return C.reshape(*views, *C.shape[1:]), S.reshape(*views, *S.shape[1:])


class _ValueAndGradient(Function):
    """The mean over slices for each view, its gradient taken during the forward pass.

    z `(V, N, D)`, A `(D, K)`, weights `(V, N)` or None, W and N numbers or `(V, 1)` -> `(V,)`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        A: Tensor,
        weights: Tensor | None,
        W: Number,
        N: Number,
        grid: tuple[float, int, bool],
        with_gradient: bool,
        name: str,
    ) -> Tensor:
        values: Tensor
        values, grad = _module(name).value_and_gradient(z, A, weights, W, N, grid, with_gradient)
        ctx.arguments = grid, W, N
        ctx.save_for_backward(z, A, weights, grad)
        return values

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        z, A, weights, grad = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: in operations that autograd differentiates again
            (t_max, num_points, unbiased), W, N = ctx.arguments
            with no_autocast(z.device):  # backward() may be called under autocast
                sums = reference.ecf_sums(z @ A, weights, t_max / (num_points - 1), num_points - 1)
                value = epps_pulley_from_sums(*sums, W, N, *points(t_max, num_points, z), unbiased).mean(-1)
                (grad,) = torch.autograd.grad(value, z, grad_output, create_graph=True)
        else:
            grad = grad * grad_output[:, None, None]
        return grad, *[None] * 7


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
    name = chosen(backend, z)
    if sample.group.size == 1 and not A.requires_grad and name in ("eager", "triton"):
        flat = z.reshape(math.prod(z.shape[:-2]), *z.shape[-2:])
        weights, W, N = sample.weights, sample.W, sample.N
        if weights is not None:
            weights, W, N = (v.reshape(len(flat), -1) for v in (weights, W, N))  # type: ignore[union-attr]
        grid, train = (t_max, num_points, unbiased), torch.is_grad_enabled() and z.requires_grad
        with no_autocast(z.device):
            values: Tensor = _ValueAndGradient.apply(flat, A, weights, W, N, grid, train, name)
        return values.reshape(z.shape[:-2])
    C, S = ecf_sums(z, A, sample.weights, t_max / P, P, name)
    C, S = sample.all_reduce(C, S)
    phi, w = points(t_max, num_points, C)
    return epps_pulley_from_sums(C, S, sample.W, sample.N, phi, w, unbiased).mean(-1)

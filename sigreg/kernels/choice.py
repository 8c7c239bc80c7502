"""Which kernel runs."""

from __future__ import annotations

import functools
import warnings
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from sigreg.sample import transformed

Backend: TypeAlias = Literal["auto", "reference", "eager", "inductor", "triton"]
BACKENDS: tuple[str, ...] = get_args(Backend)


def chosen(backend: str, z: Tensor | None = None) -> str:
    """The backend that runs for embeddings z: the one that was named, or what `"auto"` stands for here.

    `"inductor"` compiles for a minute or two at the first call, so it is used only if it is named, or within
    the user's own `torch.compile`.

    Args:
        backend: one of `BACKENDS`.
        z: the embeddings; None for embeddings on the CPU.

    Returns:
        One of `BACKENDS` other than "auto".

    Example:
        >>> import torch
        >>> chosen("auto", torch.zeros(64, 8)), chosen("inductor")
        ('eager', 'inductor')
    """
    if torch.compiler.is_compiling() and backend != "reference":
        return "inductor"  # a compiler cannot fuse across tiles, preallocated buffers and other kernels
    if transformed():
        return "reference"
    if backend == "auto":
        return "triton" if z is not None and takes_triton(z) else "eager"
    return backend


def takes_triton(x: Tensor) -> bool:
    """Whether a Triton kernel should run in place of torch's operators: on plain float32 tensors on CUDA."""
    plain = x.is_cuda and x.dtype == torch.float32 and type(x) in (Tensor, torch.nn.Parameter)
    return plain and not torch.compiler.is_compiling() and not transformed() and _triton_works(x.device)


@functools.cache
def _triton_works(device: torch.device) -> bool:
    """Whether Triton compiles on a GPU and is right for embeddings of 0: tried once in a process.

    Raises:
        RuntimeError: the first call is within the capture of a CUDA graph, where nothing can be tried.
    """
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "SIGReg compiles its kernels in the first call: call it before you capture a CUDA graph"
        )
    try:
        from sigreg.kernels import triton, triton_directions

        z = torch.zeros(1, 2, 1, dtype=torch.float32, device=device)
        A = triton_directions.gaussian(torch.empty_like(z[0, :1]), 0, 0)
        with torch.autocast(device.type, enabled=False):
            value, _ = triton.value_and_gradient(z, A, None, 2, 2, (3.0, 17, False), True)
        right = abs(float(value) / 2 - 0.40205) < 1e-4 and abs(abs(float(A)) - 1) < 1e-4
        if right:  # for embeddings of 0, and for a direction in one dimension
            return True
        error = f"it gives {float(value):.5f} in place of 0.80410, or {float(A):.5f} in place of 1 or -1"
    except Exception as found:  # no Triton, no C compiler, a device that it does not know, ...
        error = f"{type(found).__name__}: {found}"
    warnings.warn(
        f"Triton does not work here, so SIGReg runs on the slower backend='eager': {error}", stacklevel=2
    )
    return False

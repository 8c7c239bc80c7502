"""Implementations of SIGReg side by side: each a function of embeddings (V, N, D) with a scalar loss.

Run as a module, this file measures the peak memory of one of them in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.provenance import resident
from sigreg import SIGReg

Loss = Callable[[Tensor], Tensor]
GRID = 17


class Case(NamedTuple):
    """A shape: views, samples, width, slices, quadrature points."""

    V: int
    N: int
    D: int
    K: int
    points: int = GRID

    @classmethod
    def parse(cls, text: str) -> Case:
        """`8x256x64x1024`, with `x65` after it for another number of points."""
        if not re.fullmatch(r"\d+(x\d+){3,4}", text):
            raise ValueError(
                f"case={text!r} is no shape; write VxNxDxK or VxNxDxKxPOINTS, e.g. 8x256x64x1024"
            )
        return cls(*(int(n) for n in text.split("x")))

    def embeddings(self, device: str) -> Tensor:
        """Standard normal ones."""
        return torch.randn(self.V, self.N, self.D, device=device, requires_grad=True)


def _grid(case: Case) -> dict[str, int]:
    """The setting for the points of a case; the default grid is asked for by no setting."""
    return {} if case.points == GRID else {"num_points": case.points}


def ours(backend: str) -> Callable[[Case], Loss]:
    return lambda case: SIGReg(num_slices=case.K, backend=backend, **_grid(case))


def masked(backend: str) -> Callable[[Case], Loss]:
    """Ours with a mask that keeps about seven of eight samples."""

    def build(case: Case) -> Loss:
        loss = ours(backend)(case)
        mask: dict[torch.device, Tensor] = {}

        def call(z: Tensor) -> Tensor:
            if z.device not in mask:
                mask[z.device] = torch.rand(z.shape[:-1], device=z.device) < 7 / 8
            return loss(z, mask[z.device])  # type: ignore[call-arg]

        return call

    return build


def mix(case: Case) -> Loss:
    """Epps-Pulley with a tenth of VCReg, the mix that needs both a kernel and a statistic of its own."""
    return SIGReg({"epps_pulley": 1.0, "vcreg": 0.1}, num_slices=case.K, **_grid(case))


def two_modules(case: Case) -> Loss:
    """The same objective as `mix` from two modules, each with its own projection."""
    first, second = ours("auto")(case), SIGReg("vcreg", num_slices=case.K)
    return lambda z: first(z) + 0.1 * second(z)


def lightly(case: Case) -> Loss:
    from lightly.loss.lejepa_loss import SIGReg as Theirs

    return Theirs(num_vectors=case.K, knots=case.points)


def lightly_compiled(case: Case) -> Loss:
    torch._dynamo.reset()
    return torch.compile(lightly(case), dynamic=False)


def graphed(case: Case) -> Loss:
    """Ours with both passes recorded as CUDA graphs, which a GPU replays."""
    z = case.embeddings("cuda")
    return torch.cuda.make_graphed_callables(ours("triton")(case).to(z.device), (z,))  # type: ignore[return-value]


def lightly_graphed(case: Case) -> Loss:
    """lightly's under torch.compile, told to record what it compiles as CUDA graphs."""
    return torch.compile(lightly(case), dynamic=False, mode="reduce-overhead")


def stable_pretraining(case: Case) -> Loss:
    from stable_pretraining.methods.lejepa import SlicedEppsPulley

    pooled = SlicedEppsPulley(num_slices=case.K, n_points=case.points)
    return lambda z: pooled(z.flatten(0, 1))  # all views as one sample, as its LeJEPA calls it


def transcription(case: Case) -> Loss:
    """The paper's pseudocode as one would type it: complex exponentials on a grid over both half-lines."""

    def loss(z: Tensor) -> Tensor:
        t = torch.linspace(-5, 5, case.points, device=z.device)
        phi = torch.exp(-t.square() / 2)
        A = torch.randn(case.D, case.K, device=z.device)
        A = A / A.norm(dim=0)
        total = z.new_zeros(())
        for view in z:
            ecf = torch.exp(1j * (view @ A).unsqueeze(-1) * t).mean(0)  # (K, points)
            error = (ecf - phi).abs().square() * phi
            total = total + case.N * torch.trapezoid(error, t, dim=-1).mean()
        return total / case.V

    return loss


def projection(case: Case) -> Loss:
    """z @ A and its backward pass: what every sliced method pays, and nothing else."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    A = torch.nn.functional.normalize(torch.randn(case.D, case.K, device=device), dim=0)
    weights = torch.randn(case.V, case.N, case.K, device=device)

    class Floor(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, z: Tensor) -> Tensor:
            return (z @ A).new_zeros(())

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return weights @ A.T

    return Floor.apply


IMPLEMENTATIONS: dict[str, Callable[[Case], Loss]] = {
    "projection alone": projection,
    "eager": ours("eager"),
    "eager, masked": masked("eager"),
    "inductor": ours("inductor"),
    "mix": mix,
    "mix as two modules": two_modules,
    "triton": ours("triton"),
    "triton, masked": masked("triton"),
    "triton, CUDA graph": graphed,
    "lightly": lightly,
    "lightly compiled": lightly_compiled,
    "lightly compiled, CUDA graph": lightly_graphed,
    "paper's pseudocode": transcription,
    "stable-pretraining": stable_pretraining,
}
COMPILED = ("inductor", "lightly compiled", "lightly compiled, CUDA graph")
ON_GPU = ("triton", "triton, masked", "triton, CUDA graph", "lightly compiled, CUDA graph")


def step(loss: Loss, z: Tensor) -> None:
    """One forward and one backward pass."""
    z.grad = None
    loss(z).backward()
    if z.is_cuda:
        torch.cuda.synchronize()


def extra_mib(name: str, case: str) -> float | None:
    """Resident peak of one pass beyond what was there, in a process of its own; None where it fails."""
    command = [sys.executable, "-m", "benchmarks.competitors", name, case]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    return float(run.stdout.split()[-1]) if run.returncode == 0 and run.stdout.strip() else None


def on_gpu(loss: Loss, z: Tensor) -> dict[str, float]:
    """What a GPU does in one pass: kernels, the time that they run, and memory beyond what was there."""
    z.grad = torch.zeros_like(z)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(loss, z)
    extra = (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        step(loss, z)
    kernels = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(e.time_range.elapsed_us() for e in kernels) / 1e3
    return {"launches": len(kernels), "busy_ms": busy, "extra_mib": extra}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("case", type=Case.parse)
    arguments = parser.parse_args()
    z = arguments.case.embeddings("cpu")
    loss = IMPLEMENTATIONS[arguments.name](arguments.case)
    z.grad = torch.zeros_like(z)
    # What the first call loads or generates is not the method's own.
    if arguments.name in COMPILED:
        step(loss, z)
    else:
        tiny = arguments.case._replace(V=1, N=8, K=8)
        step(IMPLEMENTATIONS[arguments.name](tiny), tiny.embeddings("cpu"))
    _return_to_system()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the resident peak starts anew
    step(loss, z)
    print((resident("VmHWM") - before) / 2**20)


def _return_to_system() -> None:
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


if __name__ == "__main__":
    main()

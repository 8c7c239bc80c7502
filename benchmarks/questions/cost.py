"""What does SIGReg cost, in time and memory, beside others and beside its own projection?

Forward plus backward in float32.  Implementations take turns in one process, each turn one pass that warms
the caches and one that counts, and a ratio is the median over rounds of the ratio within a round, so that
changes of the machine's speed cancel.  Memory is the resident peak of one pass beyond what was there before
it, in a process of its own; on a GPU, of what is allocated there.
Triton, the default on a GPU, is measured where there is one; the tests run it in its interpreter, too.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from benchmarks.competitors import COMPILED, IMPLEMENTATIONS, ON_GPU, Case, Loss, extra_mib, on_gpu, step
from benchmarks.cost_figure import FLOOR, KEEP, RIVAL, STEP, figure, table

__all__ = ["check", "figure", "measure", "measured_code", "table"]

measured_code = ("sigreg", "benchmarks/competitors.py")


def check(cfg: DictConfig) -> None:
    """A case is a shape, or the training step."""
    if cfg.case != STEP:
        Case.parse(str(cfg.case))
    if cfg.allocator not in (None, KEEP) or (cfg.allocator and platform.libc_ver()[0] != "glibc"):
        raise ValueError(f"allocator={cfg.allocator!r} must be null or {KEEP}, which needs glibc")


def measure(cfg: DictConfig) -> list[dict[str, Any]]:
    """One case: a row for each implementation."""
    if cfg.allocator is None:
        return _measured(cfg)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _keep_freed_memory) as pool:
        return pool.submit(_measured, cfg).result()


def _keep_freed_memory() -> None:
    """Tell this process's allocator to give no freed memory back to the system."""
    trim_threshold, mmap_max = -1, -4  # glibc's M_TRIM_THRESHOLD and M_MMAP_MAX
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(mmap_max, 0)


def _measured(cfg: DictConfig) -> list[dict[str, Any]]:
    torch.set_num_threads(cfg.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if cfg.case == STEP:
        return _training_step(cfg, device)
    case = Case.parse(cfg.case)
    z = case.embeddings(device)
    losses: dict[str, Loss] = {}
    passes: dict[str, Callable[[], None]] = {}
    rows = []
    for name in _names(cfg, device):
        try:
            loss = IMPLEMENTATIONS[name](case)
            loss = loss.to(device) if isinstance(loss, nn.Module) else loss
            step(loss, z)  # compiles, tunes, allocates
        except Exception as error:  # a rival that is not installed, or fails, is a row that says so
            rows.append({"implementation": name, "note": f"{type(error).__name__}: {error}".splitlines()[0]})
            continue
        losses[name] = loss
        passes[name] = lambda loss=loss: step(loss, z)  # type: ignore[misc]
    times = _in_turns(passes, cfg.rounds)
    for name, seconds in times.items():
        row = {"implementation": name, "ms": 1e3 * median(seconds)}
        row["x_projection"] = _ratio(seconds, times.get(FLOOR))
        row["faster_than_lightly"] = _ratio(times.get(RIVAL), seconds)
        row["x_unmasked"] = (
            _ratio(seconds, times.get(name.removesuffix(", masked"))) if "masked" in name else None
        )
        row["faster_than_compiled"] = _ratio(times.get("lightly compiled"), seconds)
        if device == "cuda":
            row |= on_gpu(losses[name], z)
            if "CUDA graph" in name:
                row["extra_mib"] = None  # a graph holds its memory between passes
        elif cfg.memory:
            row["extra_mib"] = extra_mib(name, cfg.case)
        rows.append(row)
    return rows


def _names(cfg: DictConfig, device: str) -> list[str]:
    replaced = ("inductor",)  # by the GPU's default
    left_out = {*(ON_GPU if device == "cpu" else replaced), *(() if cfg.compiled else COMPILED)}
    return [name for name in IMPLEMENTATIONS if name not in left_out]


def _in_turns(passes: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every pass in every round, one after the other; each after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(rounds):
        for name, run in passes.items():
            run()  # the one before has left its own memory in the caches
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def _ratio(slower: list[float] | None, faster: list[float] | None) -> float | None:
    """The median over rounds of the ratio within a round."""
    if slower is None or faster is None:
        return None
    return median(a / b for a, b in zip(slower, faster, strict=True))


def _training_step(cfg: DictConfig, device: str) -> list[dict[str, Any]]:
    """A ResNet-18 for 32 pixels, batch 256, 4 views: the step alone, and what ours and lightly's add to it.

    What is added is timed by itself, on embeddings of the step's shape: the difference of two whole steps
    would drown in their scatter.
    """
    from torchvision.models import resnet18

    encoder = resnet18(num_classes=64)
    encoder.conv1, encoder.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    encoder = encoder.to(device)
    V, N = cfg.views, cfg.batch_size
    images = torch.randn(V * N, 3, 32, 32, device=device)
    case = Case(V, N, 64, 1024)
    z = case.embeddings(device)

    def train() -> None:
        z = encoder(images).reshape(V, N, -1)
        (z - z.mean(0)).square().mean().backward()
        encoder.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    passes: dict[str, Callable[[], None]] = {}
    for name in ("triton" if device == "cuda" else "eager", RIVAL):
        loss = IMPLEMENTATIONS[name](case)
        loss = loss.to(device) if isinstance(loss, nn.Module) else loss
        passes[name] = lambda loss=loss: step(loss, z)  # type: ignore[misc]
    (without,) = _in_turns({"without": train}, cfg.step_rounds).values()
    added = {"without": [0.0], **_in_turns(passes, cfg.rounds)}
    alone = median(without)
    return [
        {
            "implementation": name,
            "ms": 1e3 * (alone + median(seconds)),
            "added_ms": 1e3 * median(seconds),
            "added_share": median(seconds) / alone,
        }
        for name, seconds in added.items()
    ]

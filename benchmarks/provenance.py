"""Where a number comes from: commit, versions, machine, time, memory."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "lightning", "timm", "scikit-learn", "numpy", "lightly", "stable-pretraining")
# What numbers depend on.  Rows, figures and the report are what numbers end in.
SOURCES = (
    *("sigreg", "adapters", "benchmarks", "integrations", "pyproject.toml", "constraints.txt"),
    "constraints-hosts.txt",
    *(":!benchmarks/results", ":!benchmarks/figures", ":!*.md"),
)


@functools.cache
def source() -> dict[str, Any]:
    """Commit, dirty flag and versions, as they were when this process first asked."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    try:
        commit = git("rev-parse", "--short=10", "HEAD")
        dirty = bool(git("status", "--porcelain", "--", *SOURCES))
    except (OSError, subprocess.CalledProcessError):
        commit, dirty = None, None  # not a checkout
    return {"commit": commit, "dirty": dirty, **versions, "python": platform.python_version()}


def git(*command: str) -> str:
    """What git prints in this checkout."""
    done = subprocess.run(["git", *command], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def device() -> str:
    """The GPU's name, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Fills a dict with date, device, seconds and peak memory of what runs inside."""
    now = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    row: dict[str, Any] = {"date": now, "device": device(), "cores": os.cpu_count()}
    _reset_peak()
    start = time.perf_counter()
    yield row
    row["seconds"] = round(time.perf_counter() - start, 3)
    row["peak_mib"] = round(_peak() / 2**20)


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the resident peak starts anew


def allocated() -> int:
    """Bytes in use now: on the GPU, else resident in this process."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else resident("VmRSS")


def _peak() -> int:
    """The most bytes since `_reset_peak`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident("VmHWM")


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (at most) of this process in bytes; without Linux, the most it ever had."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

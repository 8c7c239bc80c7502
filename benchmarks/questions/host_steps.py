"""What do a training step and its memory cost, method by method, in lightly's pipeline?

Augmentation, forward, backward and optimizer; the methods take turns in one process, and a ratio is the
median over rounds of the ratio within a round.  Memory is the resident peak of a process that takes two
steps, beyond what it had before it made the model (allocated on a GPU).
"""

from __future__ import annotations

import multiprocessing
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from benchmarks import picture, provenance
from benchmarks.host_figures import LOOKS
from benchmarks.hosts import METHODS
from benchmarks.report import markdown

OURS = "lejepa"
measured_code = ("benchmarks/hosts.py", "benchmarks/augment.py", "sigreg")


class _Stepper:
    """One method with its optimizer, ready to step."""

    def __init__(self, name: str, cfg: DictConfig, batch: Tensor) -> None:
        self.batch = batch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # weight_norm in lightly's DINO head
            self.method = METHODS[name](cfg, batch.shape[1], 100).to(batch.device)
        self.optimizer, _ = self.method.optimizer()

    def __call__(self) -> float:
        """Seconds of one step."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        self.method(self.batch).backward()
        self.optimizer.step()
        if self.batch.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _batch(cfg: DictConfig) -> Tensor:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = (cfg.batch_size, 3, cfg.pixels, cfg.pixels)
    return torch.randint(256, shape, dtype=torch.uint8, device=device)


def _peak_mib(name: str, cfg: DictConfig) -> float:
    """In a process of its own: two steps' peak beyond the libraries and the batch."""
    torch.set_num_threads(cfg.threads)
    batch = _batch(cfg)
    _Stepper("simclr", cfg, batch[:8])()  # what first calls load is no method's own
    before = provenance.allocated()
    with provenance.measured() as row:
        stepper = _Stepper(name, cfg, batch)
        stepper(), stepper()
    return round(row["peak_mib"] - before / 2**20, 1)


def measure(cfg: DictConfig) -> list[dict[str, Any]]:
    """A row for each method."""
    batch = _batch(cfg)
    steppers = {name: _Stepper(name, cfg, batch) for name in METHODS}
    rounds = [{name: step() for name, step in steppers.items()} for _ in range(cfg.rounds + 2)][2:]
    rows = []
    for name in METHODS:
        row = {"method": name, "ms": 1e3 * median(r[name] for r in rounds)}
        row["ours_over_this"] = median(r[OURS] / r[name] for r in rounds)
        if cfg.memory:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                row["extra_mib"] = pool.submit(_peak_mib, name, cfg).result()
        rows.append(row)
    return rows


def table(frame: pd.DataFrame) -> str:
    """The newest rows."""
    newest = frame[frame.date == frame.date.max()].set_index("method")
    columns = {"ms": "step, ms", "ours_over_this": "LeJEPA's step over this one", "extra_mib": "peak MiB"}
    return markdown(newest.reindex(columns=list(columns)).rename(columns=columns))


def figure(frame: pd.DataFrame) -> Figure:
    """Step time and memory as bars."""
    newest = frame[frame.date == frame.date.max()].set_index("method")
    first = newest.iloc[0]
    fig, axes = picture.panels(
        1,
        2,
        title="A training step of each method",
        note=f"Medians over {first['rounds']:g} rounds, without an interval; batch of {first.batch_size:g} "
        f"images of {first.pixels:g} pixels, {first.device}. "
        "Memory: peak of two steps in a process of its own.",
        size=(10, 4),
        sharey=True,
    )
    names, colours = zip(*(LOOKS[method] for method in newest.index), strict=True)
    for ax, column, title, x in (
        (axes[0], "ms", "Time", "milliseconds a step"),
        (axes[1], "extra_mib", "Memory", "peak MiB"),
    ):
        if column in newest:
            bars = ax.barh(names, newest[column], color=colours)
            ax.bar_label(bars, fmt="%.0f", padding=2, fontsize=9)
            ax.margins(x=0.12)
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", color=picture.PALE, linewidth=0.6)
        picture.label(ax, title, x, "")
    axes[0].invert_yaxis()
    return fig

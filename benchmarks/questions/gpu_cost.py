"""What would a GPU run for SIGReg?

Kernels, bytes and memory of value and gradient are counted on tensors without data, by
`benchmarks.kernel_count`; the time is a model and no measurement.  `cost` draws these rows beside its own.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import nn

from benchmarks import picture
from benchmarks.competitors import IMPLEMENTATIONS, Case
from benchmarks.kernel_count import BANDWIDTH, LAUNCH, count
from benchmarks.report import markdown

measured_code = ("sigreg", "benchmarks/competitors.py", "benchmarks/kernel_count.py")
COUNTED = ("eager", "eager, masked", "mix", "lightly", "paper's pseudocode")
TITLE = "On a GPU: a model, not a measurement"
NOTE = (
    "operators and bytes counted on tensors without data, value and gradient; a kernel takes the longer of "
    f"{1e6 * LAUNCH:g} µs and its bytes at {BANDWIDTH / 1e12:g} TB/s, arithmetic is free"
)


def check(cfg: DictConfig) -> None:
    """A case is a shape."""
    Case.parse(str(cfg.case))


def measure(cfg: DictConfig) -> list[dict[str, Any]]:
    """A row for each implementation, counted on the meta device, which takes the path of a GPU."""
    case, rows = Case.parse(cfg.case), []
    for name in COUNTED:
        try:
            loss = IMPLEMENTATIONS[name](case)
            loss = loss.to("meta") if isinstance(loss, nn.Module) else loss
            z = case.embeddings("meta")
            loss(z)  # what the first call prepares is not counted
            counted = count(loss, z)
        except Exception as error:  # a rival that is not installed, or fails, is a row that says so
            rows.append({"implementation": name, "note": f"{type(error).__name__}: {error}".splitlines()[0]})
            continue
        rows.append(
            {
                "implementation": name,
                "launches": counted.total,
                "moved_mib": counted.bytes / 2**20,
                "held_mib": counted.peak / 2**20,
                "host_transfers": len(counted.transfers),
                "modelled_ms": 1e3 * counted.seconds,
            }
        )
    return rows


def table(frame: pd.DataFrame) -> str:
    """What was counted, a row for each shape and implementation."""
    columns = ["launches", "moved_mib", "held_mib", "host_transfers", "modelled_ms", "note"]
    shown = frame.set_index(["case", "implementation"]).reindex(columns=columns)
    return f"{TITLE}: {NOTE}\n\n{markdown(shown.dropna(axis=1, how='all'))}"


def figure(frame: pd.DataFrame) -> Figure:
    """The modelled time of every implementation."""
    size = (8.5, 0.45 * len(frame) + 1.5)
    fig, (ax,) = picture.panels(title="What a GPU would run for SIGReg", note=NOTE, size=size)
    draw(ax, frame)
    return fig


def draw(ax: Axes, frame: pd.DataFrame) -> None:
    """A bar for each row, with its launches and bytes."""
    rows = frame.dropna(subset="modelled_ms").iloc[::-1]
    colours = [picture.RED if name == "lightly" else picture.BLUE for name in rows.implementation]
    labels = [f"{row.case}\n{row.implementation}" for row in rows.itertuples()]
    bars = ax.barh(labels, rows.modelled_ms, color=colours)
    texts = [f"{row.launches:.0f} launches, {row.moved_mib / 1024:.2g} GiB" for row in rows.itertuples()]
    ax.bar_label(bars, texts, padding=3, fontsize=8.5)
    ax.margins(x=0.45)
    ax.grid(axis="x", color=picture.PALE, linewidth=0.6)
    picture.label(ax, TITLE, "modelled ms", "")

"""What does SIGReg cost, in time and memory, beside others and beside its own projection?

Forward plus backward in float32.  Implementations take turns in one process, each turn one pass that warms
the caches and one that counts, and a ratio is the median over rounds of the ratio within a round, so that
changes of the machine's speed cancel.  Memory is the resident peak of one pass beyond what was there before
it, in a process of its own; on a GPU, of what is allocated there.
Triton, the default on a GPU, is measured where there is one; the tests run it in its interpreter, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import nn

from benchmarks import picture
from benchmarks.competitors import COMPILED, GRID, IMPLEMENTATIONS, Case, Loss, extra_mib, on_gpu, step
from benchmarks.report import markdown

FLOOR, RIVAL = "projection alone", "lightly"
STEP = "resnet18"
measured_code = ("sigreg", "benchmarks/competitors.py")


def check(cfg: DictConfig) -> None:
    """A case is a shape, or the training step."""
    if cfg.case != STEP:
        Case.parse(str(cfg.case))


def measure(cfg: DictConfig) -> list[dict[str, Any]]:
    """One case: a row for each implementation."""
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
        elif cfg.memory:
            row["extra_mib"] = extra_mib(name, cfg.case)
        rows.append(row)
    return rows


def _names(cfg: DictConfig, device: str) -> list[str]:
    names = list(IMPLEMENTATIONS)
    names.remove("triton" if device == "cpu" else "inductor")  # which the GPU's default has replaced
    return [name for name in names if name not in COMPILED or cfg.compiled]


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


def table(frame: pd.DataFrame) -> str:
    """Every shape, then growth, then the training step."""
    shapes, training = _parts(frame)
    growing = {shapes.case[i] for axis in ("N", "K", "points") for i in _series(_parsed(shapes), axis).index}
    columns = [
        "ms",
        "x_projection",
        "faster_than_lightly",
        "faster_than_compiled",
        "x_unmasked",
        "launches",
        "busy_ms",
        "extra_mib",
        "note",
    ]
    parts = []
    if _on_gpu(shapes):
        parts.append(
            "`launches`: kernels, copies and fills of a pass; `busy_ms`: how long the GPU works on them."
        )
    for case, rows in shapes.groupby("case", sort=False):
        if case not in growing or growing.issuperset(shapes.case):  # those are for the slopes
            known = [c for c in columns if c in rows and rows[c].notna().any()]
            shown = rows.set_index("implementation")[known]
            parts.append(f"(V, N, D, K) = ({', '.join(str(case).split('x'))})\n\n{markdown(shown)}")
    parts.append(_growth(shapes))
    if len(training):
        shown = training.set_index("implementation")[["ms", "added_ms", "added_share"]].round(4)
        parts.append(f"A training step (ResNet-18, 32 pixels)\n\n{markdown(shown)}")
    return "\n\n".join(parts)


def _on_gpu(frame: pd.DataFrame) -> bool:
    return "busy_ms" in frame and bool(frame.busy_ms.notna().any())


def _parts(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of shapes, and of the training step."""
    return frame[frame.case != STEP], frame[frame.case == STEP]


def _parsed(frame: pd.DataFrame) -> pd.DataFrame:
    cases = pd.DataFrame([Case.parse(c) for c in frame.case], index=frame.index)
    return pd.concat([frame[["implementation", "ms"]], cases], axis=1).dropna(subset=["ms"])


def _series(frame: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The rows that differ in `axis` alone: the largest such family of shapes."""
    others = [c for c in Case._fields if c != axis]
    eager = frame[frame.implementation == "eager"]
    families = eager.groupby(others)[axis].nunique()
    if not len(families) or families.max() < 2:
        return frame.iloc[:0]
    chosen = dict(zip(others, families.idxmax(), strict=True))
    return frame[(frame[others] == pd.Series(chosen)).all(axis=1)].sort_values(axis)


def _growth(frame: pd.DataFrame) -> str:
    """Slopes on log-log axes, and what 65 points cost beyond the projection against 17."""
    parsed, slopes = _parsed(frame), {}
    for axis in ("N", "K"):
        for name, rows in _series(parsed, axis).groupby("implementation"):
            if len(rows) > 1:
                slope = np.polyfit(np.log(rows[axis]), np.log(rows.ms), 1)[0]
                slopes.setdefault(name, {})[f"slope in {axis}"] = round(float(slope), 2)
    points = _series(parsed, "points").pivot_table(index="points", columns="implementation", values="ms")
    if {GRID, 65} <= set(points.index):
        knots = points.sub(points[FLOOR], axis=0)
        for name in knots.columns.drop(FLOOR):
            slopes.setdefault(name, {})["65 points / 17"] = round(
                float(knots[name][65] / knots[name][GRID]), 2
            )
    return f"Growth\n\n{markdown(pd.DataFrame(slopes).T)}" if slopes else ""


SHOWN = {
    "triton": (picture.PURPLE, "v"),
    "eager": (picture.BLUE, "o"),
    "inductor": (picture.GREEN, "s"),
    "lightly compiled": (picture.ORANGE, "^"),
    "lightly": (picture.RED, "D"),
}


def figure(frame: pd.DataFrame) -> Figure:
    """Speed beside lightly as shipped, a GPU's time, peak memory, and the share of a training step."""
    shapes, training = _parts(frame)
    shapes = shapes[shapes.implementation.isin(SHOWN)]
    training = training[training.added_share > 0] if len(training) else training
    drawn = [
        (column, title, x)
        for column, title, x in (
            ("faster_than_lightly", "Speed beside lightly as shipped", "times faster"),
            ("busy_ms", "Time that the GPU works", "ms"),
            ("extra_mib", "Peak memory of a pass", "MiB"),
        )
        if column in shapes and shapes[column].notna().any()
    ]
    threads = "1 thread" if frame.threads.iloc[0] == 1 else f"{frame.threads.iloc[0]} threads"
    count = len(drawn) + (len(training) > 0)
    height = 0.3 * shapes.case.nunique()
    fig, axes = picture.panels(
        *((2, 2) if count > 3 else (1, max(1, count))),
        title="What SIGReg costs beside lightly's",
        note=f"Forward and backward, float32, {threads}, {frame.device.iloc[0]}; "
        "a ratio is the median over rounds of the ratio within a round, one case a shape. "
        "A label is V x N x D x K (x points).",
        size=(12, height + 5.8) if count > 3 else (5.4 * count + 0.8, height + 3.0),
    )
    by = shapes[shapes.implementation == ("triton" if _on_gpu(shapes) else "eager")]
    order = list(by.sort_values("faster_than_lightly").case)
    for ax, (column, title, x) in zip(axes, drawn, strict=False):
        values = shapes.pivot_table(index="case", columns="implementation", values=column, dropna=False)
        _draw_shapes(ax, values.reindex(order))
        picture.label(ax, title, x, "")
    picture.legend(axes[0], below=True, ncols=4)
    if len(training):
        _draw_training_step(axes[len(drawn)], training)
    return fig


def _draw_shapes(ax: Axes, values: pd.DataFrame) -> None:
    """A line for each shape, a marker for each implementation, a little apart where they could meet."""
    for y in range(len(values)):
        ax.axhline(y, color=picture.PALE, linewidth=0.5, zorder=0)
    for i, (name, (colour, marker)) in enumerate(SHOWN.items()):
        if name in values and values[name].notna().any():
            ax.plot(
                values[name],
                np.arange(len(values)) + 0.16 * (2 - i),
                marker,
                color=colour,
                ms=5.5,
                label=name,
            )
    ax.set_xscale("log")
    ax.grid(axis="x", color=picture.PALE, linewidth=0.6)
    ax.set_yticks(range(len(values)), [str(case) for case in values.index])
    picture.plain_log(ax.xaxis)


def _draw_training_step(ax: Axes, training: pd.DataFrame) -> None:
    bars = ax.bar(
        list(training.implementation),
        100 * training.added_share,
        color=[SHOWN[name][0] for name in training.implementation],
        width=0.5,
    )
    ax.bar_label(bars, [f"{100 * share:.2f} %" for share in training.added_share])
    picture.label(ax, "A pass alone, in % of a ResNet-18 step", "", "% of the step without SIGReg")
    ax.margins(y=0.1)

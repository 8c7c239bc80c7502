"""The table and the figure of the question `cost`: time and memory, and the share of a training step."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import picture
from benchmarks.competitors import GRID, Case
from benchmarks.report import markdown

FLOOR, RIVAL = "projection alone", "lightly"
STEP = "resnet18"
KEEP = "keep"  # the allocator keeps freed memory; the default returns large blocks to the system


def table(frame: pd.DataFrame) -> str:
    """Every shape, then growth, then the training step, then shapes with an allocator that keeps memory."""
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
    kept = frame[frame.allocator.eq(KEEP)] if "allocator" in frame else frame.iloc[:0]
    if len(kept):
        shown = kept.pivot_table(index="case", columns="implementation", values="ms", sort=False)
        shown["lightly / eager"] = kept[kept.implementation == "eager"].set_index("case").faster_than_lightly
        shown = shown[["eager", RIVAL, "lightly / eager"]]
        parts.append(f"Times in ms where the allocator keeps freed memory\n\n{markdown(shown)}")
    return "\n\n".join(parts)


def _on_gpu(frame: pd.DataFrame) -> bool:
    return "busy_ms" in frame and bool(frame.busy_ms.notna().any())


def _parts(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of shapes, and of the training step, with the default allocator."""
    frame = frame[frame.allocator.isna()] if "allocator" in frame else frame
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
    "triton, CUDA graph": (picture.SKY, "P"),
    "triton": (picture.PURPLE, "v"),
    "eager": (picture.BLUE, "o"),
    "inductor": (picture.GREEN, "s"),
    "lightly compiled, CUDA graph": (picture.YELLOW, "X"),
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
        f"{_rounds(shapes, training)}, without an interval; a ratio is the median of the "
        "ratios within a round, one case a shape. A label is V x N x D x K (x points).",
        size=(12, height + 5.8) if count > 3 else (5.4 * count + 0.8, height + 3.0),
    )
    by = shapes[shapes.implementation == ("triton" if _on_gpu(shapes) else "eager")]
    order = list(by.sort_values("faster_than_lightly").case)
    for ax, (column, title, x) in zip(axes, drawn, strict=False):
        values = shapes.pivot_table(index="case", columns="implementation", values=column, dropna=False)
        _draw_shapes(ax, values.reindex(order))
        picture.label(ax, title, x, "")
    picture.legend(axes[0], below=True, ncols=2 if _on_gpu(shapes) else 4)
    if len(training):
        _draw_training_step(axes[len(drawn)], training)
    return fig


def _rounds(shapes: pd.DataFrame, training: pd.DataFrame) -> str:
    """`medians over 9 rounds (the ResNet-18 step itself: 2)`."""
    said = f"medians over {_numbers(shapes['rounds'])} rounds"
    return said + (f" (the ResNet-18 step itself: {_numbers(training.step_rounds)})" if len(training) else "")


def _numbers(values: pd.Series) -> str:
    return " or ".join(f"{value:g}" for value in sorted(values.dropna().unique()))


def _draw_shapes(ax: Axes, values: pd.DataFrame) -> None:
    """A line for each shape, a marker for each implementation, a little apart where they could meet."""
    for y in range(len(values)):
        ax.axhline(y, color=picture.PALE, linewidth=0.5, zorder=0)
    drawn = [name for name in SHOWN if name in values and values[name].notna().any()]
    for i, name in enumerate(drawn):
        colour, marker = SHOWN[name]
        y = np.arange(len(values)) + 0.7 * (0.5 - (i + 0.5) / len(drawn))
        ax.plot(values[name], y, marker, color=colour, ms=5.5, label=name)
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

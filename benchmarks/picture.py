"""How every figure looks: titles that say what is shown, labels at the lines, numbers of runs, baselines.

No function here touches pyplot's global state.  Colours are Okabe and Ito's, which colour-blind readers can
tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

GREY, INK, PALE = "#8a8f98", "#30343c", "#d5d8dd"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#AA4499", "#56B4E9", "#B8A800"),
)
BROWN, PINK = "#8c5a2b", "#e58fb5"
COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, YELLOW, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


def panels(
    rows: int = 1,
    columns: int = 1,
    *,
    title: str,
    note: str = "",
    size: tuple[float, float] | None = None,
    sharey: bool | str = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with a title above, a note below (what a point is, how many runs), and its axes in order."""
    width, height = size or (5.4 * columns + 0.8, 3.7 * rows + 0.9)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    heading(figure, title, note)
    axes = [ax for row in grid for ax in row]
    for ax in axes:
        ax.grid(axis="y", color=PALE, linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def heading(figure: Figure, title: str, note: str = "") -> None:
    """The title above all panels and the note below them."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold", color=INK)
    if note:
        text = fill(note, int(figure.get_figwidth() * 15))
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color=GREY)


def dataset(name: str) -> str:
    """A data set, or the folder that holds it, as papers spell its name."""
    folder = name.rpartition("/")[2]
    return {"cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST"}.get(folder, folder)


def seeds(counts: pd.Series) -> str:
    """`3 seeds`, or `1 to 3 seeds` where the points of a figure have different numbers of them."""
    low, high = counts.min(), counts.max()
    number = f"{low}" if low == high else f"{low} to {high}"
    return f"{number} seed{'s' if high > 1 else ''}"


def label(ax: Axes, title: str, x: str, y: str) -> None:
    """The panel's claim or subject, and what its axes are."""
    ax.set_title(title, loc="left", fontweight="bold", fontsize=10.5, color=INK)
    ax.set(xlabel=x, ylabel=y)


def log_ticks(ax: Axes, values: Iterable[float], text: Iterable[str] | None = None, base: float = 10) -> None:
    """A logarithmic x axis with a tick at each value that was measured."""
    values = sorted(values)
    ax.set_xscale("log", base=base)
    ax.set_xticks(values, list(text) if text is not None else [f"{value:g}" for value in values])
    ax.set_xticks([], minor=True)


def plain_log(axis: Axis) -> None:
    """A logarithmic axis with ticks at 1, 2, 5 (1 and 3 over three decades), written as plain numbers."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1000 * low else (1.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def legend(ax: Axes, below: bool = False, **settings: Any) -> None:
    """A legend without a frame, beside the axes or below them: never over data."""
    place = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.14)} if below else {}
    place = place or {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    ax.legend(frameon=False, fontsize=8.5, **{**place, **settings})


def curve(
    ax: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    colour: str,
    marker: str = "o",
    dashed: bool = False,
    scale: float = 100.0,
    shift: float = 1.0,
    offset: float = 0.0,
    alone: float | None = None,
) -> tuple[float, float]:
    """Mean of `y` at each `x` with the sd over runs as bars; gives its right end, for a label there.

    `shift` multiplies x and `offset` is added, so that the bars of several lines do not cover each other.
    The point at `alone` is not joined to the next.
    """
    stats = frame.groupby(x)[y].agg(["mean", "std"]).sort_index()
    if alone is not None and alone in stats.index:
        stats.loc[alone * 1.01] = np.nan  # a gap in the line
        stats = stats.sort_index()
    at = stats.index.to_numpy(dtype=float) * shift + offset
    ax.errorbar(
        *(at, scale * stats["mean"]),
        yerr=scale * stats["std"].fillna(0),
        color=colour,
        marker=marker,
        linestyle="--" if dashed else "-",
        markerfacecolor="white" if dashed else colour,
        capsize=2.5,
        elinewidth=1,
        linewidth=1.6,
        markersize=5,
    )
    return float(at[-1]), float(scale * stats["mean"].iloc[-1])


def ranges(stats: pd.DataFrame) -> list[pd.Series]:
    """Bars from the mean down to the least value and up to the greatest; rounding is not negative."""
    return [(stats["mean"] - stats["min"]).clip(lower=0), (stats["max"] - stats["mean"]).clip(lower=0)]


def same_height(axes: Sequence[Axes]) -> None:
    """The same limits of y for all these panels."""
    limits = [ax.get_ylim() for ax in axes]
    for ax in axes:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def name_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]], gap: float = 0.055) -> None:
    """Labels `(x, y, text, colour)` right of the axes, at the height of their lines, moved apart where they
    meet.

    Call it when the limits of the axes are final.  `gap` is the least distance in heights of the axes.
    """
    ax.get_xlim(), ax.get_ylim()  # brings the transformation up to date
    to_axes = ax.transData + ax.transAxes.inverted()
    heights = [float(to_axes.transform((x, y))[1]) for x, y, _, _ in ends]
    placed = _apart(heights, gap)
    for (_, _, text, colour), height in zip(ends, placed, strict=True):
        ax.annotate(
            text,
            (1.0, height),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9,
        )


def _apart(heights: list[float], gap: float) -> list[float]:
    """The same order, each at least `gap` from the next, within the axes, moved little."""
    order = np.argsort(heights)
    y = np.clip(np.array(heights)[order], 0.0, 1.0)
    for _ in range(200):
        close = np.diff(y) < gap - 1e-6
        if not close.any():
            break
        for i in np.flatnonzero(close):
            push = (gap - (y[i + 1] - y[i])) / 2
            y[i], y[i + 1] = y[i] - push, y[i + 1] + push
    steps = gap * np.arange(len(y))
    y = np.maximum(np.minimum(y, 1 - steps[::-1]), steps)  # keeps the gaps
    placed = np.empty_like(y)
    placed[order] = y
    return [float(height) for height in placed]


def baselines(ax: Axes, values: dict[str, float]) -> list[tuple[float, float, str, str]]:
    """A dotted line for what pixels and an untrained network reach; gives ends for `name_ends`."""
    for value in values.values():
        ax.axhline(100 * value, color=GREY, linestyle=":", linewidth=1.2, zorder=0)
    right = ax.get_xlim()[1]
    return [(right, 100 * value, f"{name} {100 * value:.1f}", GREY) for name, value in values.items()]

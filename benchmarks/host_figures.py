"""Accuracy curves of the host comparison: mean and band over seeds, named at the ends of the lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Okabe and Ito's colours, told apart with any colour vision; ours is the strong blue.
LOOKS = {
    "lejepa": ("LeJEPA", "#0072B2"),
    "lejepa-2048": ("LeJEPA, default head", "#7A5195"),
    "lejepa-4": ("LeJEPA, 4 views", "#56B4E9"),
    "lightly-lejepa": ("lightly's LeJEPA, 4 views", "#000000"),
    "byol": ("BYOL", "#D55E00"),
    "dino": ("DINO", "#009E73"),
    "simsiam": ("SimSiam", "#CC79A7"),
    "simclr": ("SimCLR", "#E69F00"),
}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def panels(rows: int, columns: int) -> tuple[Figure, NDArray[Any]]:
    """A figure of panels that share the y axis within a row, in the look of the demo's report."""
    with plt.rc_context(STYLE):
        return plt.subplots(rows, columns, figsize=(11, 4 * rows), layout="constrained", sharey="row")


def headline(figure: Figure, text: str) -> None:
    """The line over all panels: data, network, number of runs; the panels' own titles in bold at the left."""
    for ax in figure.axes:
        title = ax.get_title()
        ax.set_title("")
        ax.set_title(title, loc="left", weight="bold", size=10.5)
    figure.suptitle(text, fontsize=13, x=0.01, ha="left")


def numbers(row: Any, name: str) -> Floats:
    """A list in a cell, such as `curve_knn`."""
    return np.array([float(value) for value in str(row[name]).split()])


End = tuple[str, str, float, float]  # a line's name and colour, and its last point


def curve(ax: Axes, runs: pd.DataFrame, y: str, x: Floats, setting: str | None = None) -> End:
    """Mean over seeds in percent, their sd as a band; dashed and named by `setting` where that is given."""
    name, colour = LOOKS[runs.method.iloc[0]]
    values = 100 * np.stack([numbers(row, f"curve_{y}") for _, row in runs.iterrows()])
    mean = values.mean(0)
    ax.plot(x, mean, "--" if setting else "-", color=colour, marker="o", markersize=3)
    if len(values) > 1:
        sd = values.std(0, ddof=1)
        ax.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
    return f"{name}, {setting}" if setting else name, colour, float(x[-1]), float(mean[-1])


def label(ax: Axes, ends: list[End]) -> None:
    """Names beside the last points, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    gap, previous = 0.055 * (high - low), -np.inf
    right = ax.get_xlim()[1]
    for name, colour, x, y in sorted(ends, key=lambda end: end[3]):
        previous = max(y, previous + gap)
        ax.annotate(
            name,
            (x, y),
            xytext=(right, previous),
            color=colour,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.4, "linewidth": 0.8},
            annotation_clip=False,
        )

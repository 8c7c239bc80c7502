"""What the figures of the host comparison share: names and colours of methods, accuracy curves."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from benchmarks import picture
from benchmarks.hosts import BASELINES
from benchmarks.rows import numbers

LOOKS = {  # a method's name and colour
    "lejepa": ("LeJEPA, width 512", picture.BLUE),
    "lejepa-2048": ("LeJEPA, width 2,048 (default)", picture.SKY),
    "lejepa-4": ("LeJEPA, 4 views", picture.YELLOW),
    "lightly-lejepa": ("lightly's LeJEPA, 4 views", picture.INK),
    "byol": ("BYOL", picture.RED),
    "dino": ("DINO", picture.GREEN),
    "simsiam": ("SimSiam", picture.PURPLE),
    "simclr": ("SimCLR", picture.ORANGE),
}


def curve(
    ax: Axes, runs: pd.DataFrame, y: str, x: np.ndarray, setting: str | None = None
) -> tuple[float, float, str, str]:
    """Mean over seeds in percent, their sd as a band; gives its end for `picture.name_ends`.

    With a setting the line is dashed and its name has it; the default head is dash-dotted.
    """
    name, colour = LOOKS[runs.method.iloc[0]]
    style = "--" if setting else "-." if runs.method.iloc[0] == "lejepa-2048" else "-"
    values = 100 * np.stack([numbers(cell) for cell in runs[f"curve_{y}"]])
    mean = values.mean(0)
    ax.plot(x, mean, style, color=colour, marker="o", markersize=3)
    if len(values) > 1:
        sd = values.std(0, ddof=1)
        ax.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
    name = f"{name}, {setting}" if setting else name
    return float(x[-1]), float(mean[-1]), f"{name} (n = {len(values)})", colour


def baselines(ax: Axes, runs: pd.DataFrame, column: str) -> list[tuple[float, float, str, str]]:
    """A dotted line for pixels and for the untrained network, where there are rows; their ends."""
    own = runs[runs.method.isin(BASELINES)]
    return picture.baselines(ax, own.groupby("method")[column].mean().to_dict())

"""How fine and how wide must the quadrature of Epps-Pulley be?

The paper: it hardly matters beyond a half-range of 3; 5, 17 or 41 points make no difference.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import accuracy, picture
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Both accuracies by slices, half-range and points, against the default grid."""
    return accuracy.table(frame, ["num_slices", "t_max", "num_points"], {"t_max": 3, "num_points": 17})


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the half-range: a panel per slices and probe, a line per number of points."""
    slices = sorted(frame.num_slices.unique())
    fig, axes = picture.panels(
        len(slices),
        2,
        title="The quadrature: accuracy against its half-range",
        note=accuracy.note(frame),
        size=(11, 3.2 * len(slices) + 1),
    )
    for i, K in enumerate(slices):
        for ax, (column, what) in zip(axes[2 * i :], accuracy.probes(frame).items(), strict=False):
            rows = frame[frame.num_slices == K]
            rows.attrs.update(frame.attrs)
            accuracy.panel(ax, rows, "t_max", "num_points", column, name="{} points")
            picture.label(ax, f"{K} slices, {what}", "half-range of t", "test accuracy, %")
    return fig

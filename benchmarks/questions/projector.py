"""How wide should the projector's output be, given the number of slices?

The paper: narrow is better with few slices.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import accuracy, picture
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Both accuracies by slices and width against 64; `none` is SIGReg on the features themselves."""
    return accuracy.table(frame, ["num_slices", "projector_width"], {"projector_width": 64})


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against width; without a projector at the left."""
    widths = sorted(frame.projector_width.dropna().unique())
    placed = frame.assign(width=frame.projector_width.fillna(widths[0] / 4))
    placed.attrs.update(frame.attrs)
    fig = accuracy.figure(
        placed,
        x="width",
        lines="num_slices",
        title="The width of the projector's output, and what happens without a projector",
        xlabel="output width of the projector",
        name="{} slices",
        alone=widths[0] / 4,
    )
    values = sorted(placed.width.unique())
    names = ["none" if value < widths[0] else f"{value:g}" for value in values]
    for ax in fig.axes:
        picture.log_ticks(ax, values, names)
    return fig

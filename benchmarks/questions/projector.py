"""How wide should the projector's output be, given the number of slices?

The paper: narrow is better with few slices.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report import curves, means
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Accuracy, width by slices; `none` is SIGReg on the features themselves."""
    return means(frame, rows="projector_width", columns="num_slices")


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against width."""
    return curves(
        frame.dropna(subset=["projector_width"]), x="projector_width", lines="num_slices", logx=True
    )

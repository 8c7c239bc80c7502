"""Does LeJEPA need a large batch?

The paper: it works at 128 and below.  Every run sees the same number of images, so a large batch makes few
steps; each batch size has its best learning rate of four.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report import best, curves, means
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Accuracy at the best learning rate."""
    return means(best(frame, ["batch_size"], "lr"), rows=["batch_size", "lr", "steps"])


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against batch size, at every learning rate."""
    return curves(frame, x="batch_size", lines="lr", logx=True)

"""Does a large batch help at as many steps?

`batch_size` compares equal images; here every run takes the same number of steps, so a larger batch sees more
images.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report import curves, means
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Accuracy by setting."""
    return means(frame, rows=["batch_size", "lr"])


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the learning rate."""
    return curves(frame, x="lr", lines="batch_size", logx=True)

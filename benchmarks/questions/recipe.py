"""Which learning rate, weight decay and length of training, at one objective?

The objective stays as it is, so that `model_selection` may compare the training losses of these runs.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report import curves, means
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Accuracy by setting."""
    return means(frame, rows=["epochs", "weight_decay", "lr"])


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the learning rate."""
    return curves(frame, x="lr", lines="epochs", logx=True)

"""Does a large batch help at as many steps?

`batch_size` draws these rows beside its own, which compare equal images.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import accuracy
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Both accuracies at every batch and learning rate."""
    return accuracy.table(frame, ["batch_size", "lr"])


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the learning rate, a line per batch."""
    return accuracy.figure(
        frame,
        x="lr",
        lines="batch_size",
        title="Equal steps: what a larger batch adds, at every learning rate",
        xlabel="learning rate",
        name="N = {}",
    )

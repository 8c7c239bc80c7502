"""How many views, and how many of them global?

The paper: more views help; one global view hurts.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import accuracy
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Both accuracies by global and local views."""
    return accuracy.table(frame, ["global_views", "local_views"])


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the number of local views, a line per number of global ones."""
    return accuracy.figure(
        frame,
        x="local_views",
        lines="global_views",
        title="Accuracy against the number of local views",
        xlabel="local views",
        name="{} global",
        log=False,
        more="One lambda and one learning rate for all.",
    )

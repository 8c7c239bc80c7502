"""How many views, and how many of them global?

The paper: more views help; one global view hurts.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report import curves, means
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Accuracy, local by global views."""
    return means(frame, rows="local_views", columns="global_views")


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the number of views in all."""
    return curves(frame, x="views", lines="global_views")

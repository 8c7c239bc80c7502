"""How fine and how wide must the quadrature of Epps-Pulley be?

The paper: it hardly matters beyond a half-range of 3; 5, 17 or 41 points make no difference.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report import curves, means
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Accuracy, half-range and slices by points."""
    return means(frame, rows=["num_slices", "t_max"], columns="num_points")


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the half-range."""
    return curves(frame, x="t_max", lines="num_points")

"""How many slices, of which kind, and new ones at every step or fixed?

The paper: few resampled slices beat many fixed ones.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report import curves, means
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    drawn = frame["resample"].map({True: "resampled", False: "fixed"})
    return frame.assign(slices=frame.directions + ", " + drawn)


def table(frame: pd.DataFrame) -> str:
    """Accuracy, number by kind."""
    return means(_named(frame), rows="num_slices", columns="slices")


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the number of slices."""
    return curves(_named(frame), x="num_slices", lines="slices", logx=True)

"""How much does lambda, the weight of SIGReg, matter, with few views and with many?

The paper: flat from 0.01 to 0.1 (within 2 points), falling off at both ends.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report import curves, means
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Accuracy, lambda by views."""
    return means(frame, rows="lambda_param", columns="views")


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against lambda."""
    return curves(frame, x="lambda_param", lines="views", logx=True)

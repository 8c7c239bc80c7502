"""How much does lambda, the weight of SIGReg, matter, with few views and with many?

The paper: flat from 0.01 to 0.1 (within 2 points), falling off at both ends.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import accuracy
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Both accuracies at every lambda, and the paired difference to 0.05, the paper's."""
    usual = 0.05 if 0.05 in set(frame.lambda_param) else frame.lambda_param.max()
    parts = [
        f"{views} views\n\n{accuracy.table(rows, ['lambda_param'], {'lambda_param': usual})}"
        for views, rows in frame.groupby("views")
    ]
    return "\n\n".join(parts)


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against lambda, a line per number of views."""
    return accuracy.figure(
        frame,
        x="lambda_param",
        lines="views",
        title="Accuracy against lambda, the weight of SIGReg",
        xlabel="lambda",
        name="{} views",
    )

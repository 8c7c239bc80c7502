"""How much does lambda, the weight of SIGReg, matter, with few views and with many?

The paper: flat from 0.01 to 0.1 (within 2 points), falling off at both ends.
"""

from benchmarks.report import curves, means
from benchmarks.training import check, measure

__all__ = ["check", "figure", "measure", "table"]


def table(frame):
    return means(frame, rows="lambda_param", columns="views")


def figure(frame):
    return curves(frame, x="lambda_param", lines="views", logx=True)

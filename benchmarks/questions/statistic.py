"""Which test of normality makes the best regularizer, and what happens without one?

The paper: Epps-Pulley is stable, moments explode, tests on the distribution function are slow, none
collapses.  Each statistic has its best lambda of three.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report import axes, best, markdown, spread
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def _ranked(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy, statistic by lambda, the best one last."""
    mean = frame.groupby(["statistic", "lambda_param"]).accuracy.mean().unstack()
    return mean.loc[mean.max(axis=1).fillna(0).sort_values().index]


def table(frame: pd.DataFrame) -> str:
    """Accuracy at the best lambda and over all of them, effective rank, time against Epps-Pulley's."""
    usual = frame[frame.statistic == "epps_pulley"].seconds.median()
    lines = {}
    for name, rows in frame.groupby("statistic"):
        top = best(rows, ["statistic"], "lambda_param")
        lines[name] = {
            "accuracy": spread(top.accuracy),
            "lambda": top.lambda_param.iloc[0] if len(top) else "",
            "worst lambda": f"{100 * rows.groupby('lambda_param').accuracy.mean().min():.1f}",
            "effective rank": spread(top.effective_rank, percent=False),
            "diverged": f"{int(rows.diverged.sum())} of {len(rows)}",
            "time / Epps-Pulley's": f"{rows.seconds.median() / usual:.2f}",
        }
    chosen = pd.DataFrame.from_dict(lines, orient="index").rename_axis("statistic")
    return markdown(chosen.loc[reversed(_ranked(frame).index)])


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy of every statistic at every lambda, best on top."""
    picture, ax = axes("", "accuracy", "")
    mean = _ranked(frame)
    for value in mean:
        ax.plot(mean[value], range(len(mean)), "o", label=f"lambda={value}")
    ax.set_yticks(range(len(mean)), mean.index)
    ax.legend()
    return picture

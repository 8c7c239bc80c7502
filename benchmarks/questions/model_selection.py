"""Can the training loss choose the model, without a label?

The paper: the Spearman correlation of training loss with accuracy is 0.60 to 0.90, and 0.93 to 0.99 for
loss / lambda^alpha with alpha about 0.4.  Measured over all runs of the other questions, nothing is trained.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from benchmarks.report import axes, markdown

sources = ("lambda", "batch_size", "views", "slices", "grid", "projector")
ALPHAS = np.linspace(0, 1, 101)


def _varies(*columns: pd.Series) -> bool:
    return all(column.nunique() > 1 for column in columns)


def _correlation(rows: pd.DataFrame, alpha: float) -> float:
    """Of low loss / lambda^alpha with high accuracy."""
    scaled = rows.loss / rows.lambda_param**alpha
    return (
        float(-spearmanr(scaled, rows.accuracy).statistic) if _varies(scaled, rows.accuracy) else float("nan")
    )


def _fitted(rows: pd.DataFrame) -> float:
    found = [_correlation(rows, alpha) for alpha in ALPHAS]
    return float(ALPHAS[int(np.nanargmax(found))]) if np.isfinite(found).any() else float("nan")


def table(frame: pd.DataFrame) -> str:
    """Spearman correlations, question by question and over all; alpha fitted on the same runs."""
    frame = frame.dropna(subset=["loss", "accuracy"])
    lines = {}
    for name, rows in [*frame.groupby("question"), ("all", frame)]:
        alpha = _fitted(rows) if rows.lambda_param.nunique() > 1 else float("nan")
        lines[name] = {
            "runs": len(rows),
            "loss": f"{_correlation(rows, 0):.2f}",
            "loss / lambda^0.4": f"{_correlation(rows, 0.4):.2f}",
            "alpha": "" if np.isnan(alpha) else f"{alpha:.2f}",
            "loss / lambda^alpha": "" if np.isnan(alpha) else f"{_correlation(rows, alpha):.2f}",
        }
    return markdown(pd.DataFrame.from_dict(lines, orient="index").rename_axis("runs of"))


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the scaled loss, one colour per question."""
    frame = frame.dropna(subset=["loss", "accuracy"])
    picture, ax = axes("", "training loss / lambda^0.4", "accuracy")
    for name, rows in frame.groupby("question"):
        ax.plot(rows.loss / rows.lambda_param**0.4, rows.accuracy, ".", label=name)
    ax.set_xscale("log")
    ax.legend()
    return picture

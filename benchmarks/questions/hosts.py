"""What does lightly's user gain by replacing the teacher: accuracy, time, memory, lines?

BYOL, DINO, SimSiam, SimCLR by lightly's CIFAR-10 recipes, lightly's own LeJEPALoss and ours, on the same
backbone, augmentations, batch and images.  Every method has its own learning rate times 1, 0.3 and 3.
k-NN is lightly's (k = 200, t = 0.1), linear is logistic regression on all training images.
Time is steps times the step time that `host_steps` measured, methods in turns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from benchmarks.host_runs import check, measure
from benchmarks.hosts import METHODS
from benchmarks.report import markdown, spread

__all__ = ["check", "figure", "measure", "sources", "table"]

sources = ("hosts", "host_steps")


def _spearman(curve: dict[str, list[float]]) -> float | None:
    """Of low training loss with high k-NN accuracy over checkpoints; None for a constant."""
    if len(set(curve["loss"])) < 2 or len(set(curve["knn"])) < 2:
        return None
    return round(float(-spearmanr(curve["loss"], curve["knn"]).statistic), 3)


def _split(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training runs, and the newest rows of `host_steps` by method, or before those the runs' own time."""
    runs, steps = frame[frame.question == "hosts"], frame[frame.question == "host_steps"]
    if steps.empty:
        steps = runs.groupby("method").step_ms.median().rename("ms").reset_index().assign(date="")
    newest = steps[steps.date == steps.date.max()].set_index("method")
    return runs, newest.reindex(columns=["ms", "ours_over_this", "extra_mib"])


def _curve(row: Any, name: str) -> np.ndarray:
    return np.array([float(value) for value in str(row[f"curve_{name}"]).split()])


def _minutes(row: Any, steps: pd.DataFrame) -> np.ndarray:
    """Training time at each checkpoint of a run."""
    each = steps.ms.get(row["method"], np.nan)
    epochs = _curve(row, "epoch")
    return epochs / epochs[-1] * row["steps"] * each / 6e4


def _best(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of each method at its best learning rate: mean k-NN accuracy over the seeds that tried all."""
    chosen = []
    for _, own in runs.groupby("method"):
        tried = own.pivot_table(index="seed", columns="lr_times", values="knn").dropna()
        chosen.append(own[own.lr_times == tried.mean().idxmax()])
    return pd.concat(chosen)


def _at(runs: pd.DataFrame, steps: pd.DataFrame, minutes: float) -> pd.Series:
    """k-NN accuracy of each run after so many minutes, between checkpoints linearly."""
    return runs.apply(lambda row: np.interp(minutes, _minutes(row, steps), _curve(row, "knn")), axis=1)


def table(frame: pd.DataFrame) -> str:
    """A line per method: the learning rate that is documented, and the best of three."""
    runs, steps = _split(frame)
    documented, best = runs[runs.lr_times == 1], _best(runs)
    searched = set(runs.method[runs.lr_times != 1])
    shortest = min(_minutes(row, steps)[-1] for _, row in documented.iterrows())
    table = {}
    for name in [name for name in METHODS if name in set(documented.method)]:
        own, tuned = documented[documented.method == name], best[best.method == name]
        cost = steps.loc[name] if name in steps.index else pd.Series(dtype=float)
        table[name] = {
            "k-NN": spread(own.knn),
            "linear": spread(own.linear),
            "k-NN, best lr": f"{spread(tuned.knn)} (x {tuned.lr_times.iloc[0]:g})"
            if name in searched
            else "",
            f"k-NN after {shortest:.1f} min": spread(_at(own, steps, shortest)),
            "step, ms": cost.get("ms"),
            "LeJEPA's step / its": cost.get("ours_over_this"),
            "peak MiB": cost.get("extra_mib"),
            "lines": int(own.lines.iloc[0]),
            "effective rank, least": float(own.effective_rank.min()),
            "Spearman": spread(own.spearman, percent=False),
        }
    return markdown(pd.DataFrame.from_dict(table, orient="index").rename_axis("method"))


def figure(frame: pd.DataFrame) -> Figure:
    """k-NN accuracy against images seen and against time, a mean over seeds, best learning rate dashed."""
    runs, steps = _split(frame)
    fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    best = _best(runs)
    for color, name in enumerate(name for name in METHODS if name in set(runs.method)):
        for chosen, style in ((runs[runs.lr_times == 1], "-"), (best[best.lr_times != 1], "--")):
            rows = [row for _, row in chosen[chosen.method == name].iterrows()]
            if not rows:
                continue
            knn = np.mean([_curve(row, "knn") for row in rows], axis=0)
            seen = _curve(rows[0], "epoch") / rows[0].epochs * rows[0].images_seen / 1000
            label = name if style == "-" else None
            for ax, x in zip(axes, (seen, _minutes(rows[0], steps)), strict=True):
                ax.plot(x, 100 * knn, style, color=f"C{color}", label=label, marker="o", markersize=3)
    axes[0].set(xlabel="images seen, thousands", ylabel="k-NN accuracy, %")
    axes[1].set(xlabel="minutes of training (dashed: the best of three learning rates)")
    axes[1].legend(fontsize=8)
    return fig

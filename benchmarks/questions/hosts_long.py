"""Does LeJEPA stay ahead of BYOL, DINO, SimSiam and SimCLR when all of CIFAR-10 is seen 30 times?

50,000 images (100 epochs at scale=long), the backbone, augmentations and probes of `hosts`, and the
setting that its search chose for each method.
Nothing is chosen here, so all training images train.  A run is hours long: with
`checkpoints=DIR` it is saved after every epoch, and the same command goes on with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from benchmarks import host_figures, host_runs
from benchmarks.host_runs import measure
from benchmarks.hosts import METHODS
from benchmarks.questions.hosts import measured_code, runs_of, setting, spread, steps_of
from benchmarks.report import markdown

__all__ = ["check", "figure", "measure", "measured_code", "sources", "table"]

sources = ("hosts_long", "host_steps")


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what cannot run, or could not go on after an interruption."""
    if cfg.checkpoints is None:
        raise ValueError(
            "a run takes hours: say checkpoints=DIR, a folder to go on from when it is interrupted"
        )
    host_runs.check(cfg)


def _settings(runs: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Method by method, and setting by setting of it: their runs."""
    for name in [name for name in METHODS if name in set(runs.method)]:
        own = runs[runs.method == name]
        for says, chosen in own.groupby(own.apply(setting, axis=1), sort=True):
            yield name, str(says), chosen


def table(frame: pd.DataFrame) -> str:
    """Accuracies after a fifth, a half and all of the training, where all methods have a checkpoint."""
    runs, steps = runs_of(frame), steps_of(frame)
    lines = []
    for name, says, own in _settings(runs):
        line = {"method": name, "setting": says}
        for title, column in (("k-NN", "knn"), ("linear", "linear")):
            for share in (0.2, 0.5, 1.0):
                values = own.apply(lambda row, c=column, s=share: _at(row, c, s), axis=1)
                line[f"{title} at {100 * share:g} %"] = spread(values)
        if name in steps.index:
            line["hours of steps, by host_steps"] = round(
                float((own.steps * steps.ms[name]).mean() / 3.6e6), 2
            )
        line["effective rank, least"] = float(own.effective_rank.min())
        lines.append(line)
    return markdown(pd.DataFrame(lines).set_index("method"))


def _at(row: pd.Series, column: str, share: float) -> float:
    """The accuracy at the last checkpoint within a share of the epochs; NaN where there is none."""
    epochs, values = host_figures.numbers(row, "curve_epoch"), host_figures.numbers(row, f"curve_{column}")
    within = values[epochs <= share * row.epochs]
    return float(within[-1]) if len(within) else float("nan")


def figure(frame: pd.DataFrame) -> Figure:
    """k-NN and linear accuracy, above against images seen, below against training time where it is known."""
    runs, steps = runs_of(frame), steps_of(frame)
    fig, axes = host_figures.panels(1 if steps.empty else 2, 2)
    for row, (above, *under) in zip(("knn", "linear"), axes.reshape(-1, 2).T, strict=True):
        ends: dict[str, list[host_figures.End]] = {"above": [], "below": []}
        drawn: set[str] = set()
        for name, says, own in _settings(runs[~runs.diverged.astype(bool)]):
            other = says if name in drawn else None
            drawn.add(name)
            share = host_figures.numbers(own.iloc[0], "curve_epoch") / own.epochs.iloc[0]
            ends["above"].append(
                host_figures.curve(above, own, row, share * own.images_seen.iloc[0] / 1e6, other)
            )
            for below in under if name in steps.index else ():
                hours = share * own.steps.iloc[0] * steps.ms[name] / 3.6e6
                ends["below"].append(host_figures.curve(below, own, row, hours, other))
        title = "k-NN" if row == "knn" else "Linear"
        above.set(title=f"{title} accuracy against images", xlabel="images seen, millions")
        host_figures.label(above, ends["above"])
        for below in under:
            below.set(title=f"{title} accuracy against time", xlabel="hours of training steps (host_steps)")
            host_figures.label(below, ends["below"])
    for ax in axes.reshape(-1, 2)[:, 0]:
        ax.set_ylabel("accuracy on test images, %")
    host_figures.headline(fig, f"CIFAR-10, narrow ResNet-9, {runs.epochs.max():g} epochs; {_seeds(runs)}")
    return fig


def _seeds(runs: pd.DataFrame) -> str:
    counts = runs.groupby("method").seed.nunique()
    low, high = counts.min(), counts.max()
    return "one seed" if high == 1 else f"n = {low} to {high} seeds, band: sd"

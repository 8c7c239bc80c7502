"""Does LeJEPA stay ahead of BYOL, DINO, SimSiam and SimCLR when all of CIFAR-10 is seen 30 times?

50,000 images (100 epochs at scale=long), the backbone, augmentations and probes of `hosts`, and the
setting that its search chose for each method.
Nothing is chosen here, so all training images train.  A run is hours long: with
`checkpoints=DIR` it is saved after every epoch, and the same command goes on with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig

from benchmarks import host_figures, host_runs, picture
from benchmarks.host_runs import measure
from benchmarks.hosts import BASELINES, METHODS
from benchmarks.questions.hosts import measured_code, runs_of, setting, steps_of
from benchmarks.report import markdown, spread
from benchmarks.rows import Table, numbers

__all__ = ["check", "figure", "measure", "measured_code", "sources", "table"]

sources = ("hosts_long", "host_steps")
needed_arguments = ("checkpoints=DIR",)  # that the command cannot do without


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what cannot run, or could not go on after an interruption."""
    if cfg.checkpoints is None:
        raise ValueError(
            "a run takes hours: say checkpoints=DIR, a folder to go on from when it is interrupted"
        )
    host_runs.check(cfg)


def _times(frame: pd.DataFrame) -> pd.DataFrame:
    """The step times of the same scale; for scale=long, which `host_steps` does not have, of scale=cpu."""
    steps = steps_of(frame)
    if len(steps) or not frame.get("scale", pd.Series(dtype=str)).eq("long").any():
        return steps
    timed = Table("host_steps").frame()
    return steps_of(timed[timed.scale == "cpu"].assign(question="host_steps")) if len(timed) else steps


def _devices(runs: pd.DataFrame) -> str:
    """Which runs were finished on a GPU, by method and seed; empty where none was."""
    gpu = runs[runs.device.str.contains("NVIDIA")]
    if gpu.empty:
        return ""
    parts = []
    for name in [name for name in METHODS if name in set(gpu.method)]:
        seeds = sorted(gpu.seed[gpu.method == name].unique())
        parts.append(f"{host_figures.LOOKS[name][0]} (seed {', '.join(map(str, seeds))})")
    named = f"({', '.join(sorted(gpu.device.unique()))}): {', '.join(parts)}"
    return f" Finished on a GPU {named}; the verdict names those that began on one."


def _settings(runs: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Method by method, and setting by setting of it: their runs."""
    for name in [name for name in METHODS if name in set(runs.method)]:
        own = runs[runs.method == name]
        for says, chosen in own.groupby(own.apply(setting, axis=1), sort=True):
            yield name, str(says), chosen


def table(frame: pd.DataFrame) -> str:
    """Accuracies after a fifth, a half and all of the training, where all methods have a checkpoint."""
    runs, steps = runs_of(frame), _times(frame)
    lines = []
    for name, says, own in _settings(runs):
        line = {"method": name, "setting": says}
        for title, column in (("k-NN", "knn"), ("linear", "linear")):
            for share in (0.2, 0.5, 1.0):
                values = own.apply(lambda row, c=column, s=share: _at(row, c, s), axis=1)
                line[f"{title} at {100 * share:g} %"] = spread(values, none="diverged")
        if name in steps.index:
            line["hours of steps, by host_steps"] = round(
                float((own.steps * steps.ms[name]).mean() / 3.6e6), 2
            )
        line["effective rank, least"] = float(own.effective_rank.min())
        lines.append(line)
    for name in [name for name in BASELINES if name in set(runs.method)]:
        own = runs[runs.method == name].drop_duplicates(["knn", "linear"])
        said = {"k-NN at 100 %": spread(own.knn), "linear at 100 %": spread(own.linear)}
        lines.append({"method": name, "setting": "", **said})
    return markdown(pd.DataFrame(lines).set_index("method"))


def _at(row: pd.Series, column: str, share: float) -> float:
    """The accuracy at the last checkpoint within a share of the epochs; NaN where there is none."""
    epochs, values = numbers(row.curve_epoch), numbers(row[f"curve_{column}"])
    within = values[epochs <= share * row.epochs]
    return float(within[-1]) if len(within) else float("nan")


def figure(frame: pd.DataFrame) -> Figure:
    """k-NN and linear accuracy, above against images seen, below against training time where it is known."""
    every, steps = runs_of(frame), _times(frame)
    runs = every[every.method.isin(METHODS)]
    timed = not steps.empty
    several = len(list(_settings(runs))) > runs.method.nunique()
    dashed = " Dashed: another setting of a method." if several else ""
    hours = " Time: images times the step time on two cores of a CPU (host_steps)." if timed else ""
    fig, axes = picture.panels(
        2 if timed else 1,
        2,
        title=f"Accuracy when all images of CIFAR-10 are seen {runs.epochs.max():g} times",
        note=f"Narrow ResNet-9; mean over n seeds, band: sd where n > 1.{dashed}{hours}"
        f"{_devices(runs)} Dotted: pixels and the untrained network.",
        size=(12, 8 if timed else 4.2),
        sharey="row",
    )
    ends: dict[Axes, list[tuple[float, float, str, str]]] = {ax: [] for ax in axes}
    for i, (row, title) in enumerate((("knn", "k-NN"), ("linear", "Linear"))):
        above, under = axes[i], axes[2 + i :: 2]
        drawn: set[str] = set()
        for name, says, own in _settings(runs[~runs.diverged.astype(bool)]):
            other = says if name in drawn else None
            drawn.add(name)
            share = numbers(own.curve_epoch.iloc[0]) / own.epochs.iloc[0]
            images = share * own.images_seen.iloc[0] / 1e6
            ends[above].append(host_figures.curve(above, own, row, images, other))
            for below in under if name in steps.index else ():
                hours = share * own.steps.iloc[0] * steps.ms[name] / 3.6e6
                ends[below].append(host_figures.curve(below, own, row, hours, other))
        picture.label(above, f"{title} accuracy against images", "images seen, millions", "")
        for below in under:
            picture.label(below, f"{title} accuracy against time", "hours of training steps", "")
    for ax in axes[::2]:
        ax.set_ylabel("accuracy on test images, %")
    for i, (ax, found) in enumerate(ends.items()):
        found += host_figures.baselines(ax, every, "linear" if i % 2 else "knn")
    for ax, found in ends.items():
        picture.name_ends(ax, found)
    return fig

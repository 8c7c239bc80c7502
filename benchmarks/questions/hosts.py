"""What does lightly's user gain by replacing the teacher: accuracy, time, memory, lines?

BYOL, DINO, SimSiam, SimCLR by lightly's CIFAR-10 recipes, lightly's own LeJEPALoss and ours, on the same
backbone, augmentations, batch and images.  Every method has its own learning rate times 1, 0.3 and 3.
k-NN is lightly's (k = 200, t = 0.1), linear is logistic regression on all training images.
Time is steps times the step time that `host_steps` measured, methods in turns.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightly.utils.benchmarking.knn import knn_predict
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from omegaconf import DictConfig
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from benchmarks import data, probes
from benchmarks.hosts import METHODS, lines
from benchmarks.report import markdown, spread
from benchmarks.training import Batches

sources = ("hosts", "host_steps")


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what cannot run."""
    if cfg.method not in METHODS:
        raise ValueError(f"method={cfg.method!r} is unknown; use one of {', '.join(METHODS)}")
    data.check(cfg.data, cfg.data_root)


class _Checkpoints(L.Callback):
    """Loss, accuracy and training time after every epoch; probing takes none of that time."""

    def __init__(self, images: data.Images, every: int) -> None:
        self.images, self.every = images, every
        self.seconds, self.losses = 0.0, []  # type: float, list[float]
        self.curve: dict[str, list[float]] = {"epoch": [], "loss": [], "knn": [], "linear": []}

    def on_train_batch_start(self, *args: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.seconds += time.perf_counter() - self.start

    def on_train_epoch_end(self, trainer: Any, method: Any) -> None:
        epoch, loss = trainer.current_epoch + 1, float(np.mean(self.losses))
        self.losses = []
        if epoch % self.every and epoch != trainer.max_epochs:
            return
        train, test = (embedded(method.backbone, x) for x in (self.images.train, self.images.test))
        self.test = test
        knn, linear = accuracies(train, self.images.train_labels, test, self.images.test_labels)
        for name, value in zip(self.curve, (epoch, loss, knn, linear), strict=True):
            self.curve[name].append(round(value, 5))


@torch.no_grad()
def embedded(backbone: torch.nn.Module, images: Tensor) -> Tensor:
    """Frozen features `(n, F)` on the CPU; leaves the backbone in training."""
    device = next(backbone.parameters()).device
    backbone.eval()
    parts = [backbone(part.to(device).float().div(255)).float().cpu() for part in images.split(500)]
    backbone.train()
    return torch.cat(parts)


def accuracies(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> tuple[float, float]:
    """k-NN as lightly has it, and linear."""
    if not (train.isfinite().all() and test.isfinite().all()):
        return float("nan"), float("nan")
    classes, bank = int(train_labels.max()) + 1, normalize(train, dim=1).T
    k = min(200, len(train))
    parts = zip(normalize(test, dim=1).split(500), test_labels.split(500), strict=True)
    hits = sum((knn_predict(x, bank, train_labels, classes, k, 0.1)[:, 0] == y).sum() for x, y in parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the number of iterations is a fixed budget
        linear = probes.classifier("linear", "all").fit(train.numpy(), train_labels.numpy())
    return float(hits) / len(test), float(linear.score(test.numpy(), test_labels.numpy()))


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Train one method; its checkpoints as lists, its last accuracies as numbers."""
    images = data.load(cfg.data, cfg.data_root, cfg.size, cfg.images)
    loader = DataLoader(Batches(images.train), cfg.batch_size, shuffle=True, drop_last=True, collate_fn=_same)
    checkpoints = _Checkpoints(images, cfg.every)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers; weight_norm in lightly's DINO head
        method = METHODS[cfg.method](cfg, images.train.shape[1], cfg.epochs * len(loader))
        L.Trainer(
            max_epochs=cfg.epochs,
            accelerator=cfg.accelerator,
            precision=cfg.precision,
            callbacks=[checkpoints],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(method, loader)
    curve = checkpoints.curve
    return {
        "views": method.views,
        "steps": method.steps,
        "images_seen": method.steps * cfg.batch_size,
        "knn": curve["knn"][-1],
        "linear": curve["linear"][-1],
        "effective_rank": round(probes.effective_rank(checkpoints.test.numpy()), 3),
        "spearman": _spearman(curve),
        "step_ms": round(1e3 * checkpoints.seconds / method.steps, 2),
        "lines": lines(cfg.method),
        **{f"curve_{name}": values for name, values in curve.items()},
    }


def _same(batch: Tensor) -> Tensor:
    return batch


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

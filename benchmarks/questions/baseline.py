"""What do pixels and an untrained network reach with the same probes?

The floor that every other accuracy stands on, and what the default settings add to it.
"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from benchmarks import training
from benchmarks.report import axes, means

KINDS = ("pixels", "untrained", "trained")


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what cannot run."""
    if cfg.features not in KINDS:
        raise ValueError(f"features={cfg.features!r} is unknown; use one of {', '.join(KINDS)}")
    training.check(cfg)


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Accuracies of pixels, of a network that took no step (one epoch for BatchNorm), of the trained one."""
    if cfg.features == "pixels":
        images, selection = training.splits(cfg)
        parts = [images.train, images.test, *([selection.images] if selection else [])]
        train, test, *held = (x.flatten(1).float().div(255).numpy() for x in parts)
        found = training.probed(train, test, images, cfg, held[0] if held else None, selection)
        return {"method": "none", **found}
    if cfg.features == "untrained":
        cfg = OmegaConf.merge(cfg, {"lr": 0.0, "epochs": 1})
    return training.measure(cfg)


def _probes(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame if name.startswith(("knn_", "linear_", "rbf_"))]


def table(frame: pd.DataFrame) -> str:
    """Every probe at every number of labels a class."""
    return means(frame, rows="features", values=tuple(_probes(frame)))


def figure(frame: pd.DataFrame) -> Figure:
    """The same as lines."""
    picture, ax = axes("", "probe and labels a class", "accuracy")
    for kind, rows in frame.groupby("features"):
        ax.plot(_probes(frame), rows[_probes(frame)].mean(), "o-", label=kind)
    ax.tick_params(axis="x", rotation=45)
    ax.legend()
    return picture

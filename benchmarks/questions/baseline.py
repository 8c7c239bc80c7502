"""What do pixels and an untrained network reach with the same probes?

The baselines that every other accuracy is compared with, and what the default settings add to it.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from benchmarks import accuracy, picture, training
from benchmarks.report import means

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
    names = [name for name in frame if name.startswith(("knn_", "linear_", "rbf_"))]
    return [name for name in names if frame[name].notna().any()]


def table(frame: pd.DataFrame) -> str:
    """Every probe at every number of labels a class; pixels, which have no seed, count once."""
    probes = _probes(frame)
    again = (frame.features == "pixels") & frame.duplicated(["features", *probes])
    return means(frame[~again], "features", probes)


def figure(frame: pd.DataFrame) -> Figure:
    """The same as bars, their values written in."""
    names = _probes(frame)
    fig, (ax,) = picture.panels(
        title="What pixels and an untrained network reach, and what training adds",
        note=accuracy.note(frame, "Pixels have no seed."),
        size=(1.3 * len(names) + 3.2, 4.6),
    )
    colours = {"pixels": picture.GREY, "untrained": picture.ORANGE, "trained": picture.BLUE}
    for offset, (kind, colour) in enumerate(colours.items()):
        rows = 100 * frame[frame.features == kind][names]
        bars = ax.bar(
            np.arange(len(names)) + 0.27 * (offset - 1),
            rows.mean(),
            0.25,
            yerr=rows.std().fillna(0) if kind != "pixels" else None,
            color=colour,
            label=kind,
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        ax.bar_label(
            bars, [f"{v:.1f}" for v in rows.mean()], label_type="center", color="white", fontsize=8.5
        )
    ax.set_xticks(range(len(names)), [_spoken(name) for name in names])
    picture.label(ax, "Accuracy by the number of labels a class", "", "test accuracy, %")
    ax.set_ylim(0, min(100, 120 * frame[names].max().max()))
    picture.legend(ax, below=True, ncols=3)
    return fig


def _spoken(name: str) -> str:
    probe, _, number = name.partition("_")
    return (
        f"{ {'knn': 'k-NN', 'linear': 'linear', 'rbf': 'RBF'}[probe] }, {number} label{'s' * (number != '1')}"
    )

"""The demo's picture: losses beside the value under N(0, I), accuracy, and the embedding."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from integrations.lightly.probes import DRAWS
from sigreg.directions import gaussian

EXPECTED = 1.0525  # Epps-Pulley's mean under N(0, I), at any N
GREY, INK, BLUE, RED = "#b8bcc4", "#30343c", "#3366aa", "#cc4433"


def draw(
    log: pd.DataFrame,
    knn: dict[str, dict[str, dict[str, float]]],
    embedding: np.ndarray,
    labels: np.ndarray,
    projection: np.ndarray,
) -> Figure:
    """Loss curves, few-shot bars, two principal components, slices against N(0,1)."""
    style = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "legend.frameon": False,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(2, 2, figsize=(11, 8.5), layout="constrained")
        _losses(axes[0, 0], log)
        _bars(axes[0, 1], knn)
        _components(axes[1, 0], embedding, labels)
        _slices(axes[1, 1], projection)
        figure.suptitle(
            "LeJEPA on scikit-learn's digits, through a lightly pipeline", fontsize=13, x=0.01, ha="left"
        )
    return figure


def _losses(axis: Axes, log: pd.DataFrame) -> None:
    epochs = log["epoch"] + 1
    axis.plot(epochs, log["sigreg"], color=BLUE, label="SIGReg")
    axis.axhline(EXPECTED, color=BLUE, linestyle=":", label=f"SIGReg under N(0, I), {EXPECTED:.2f}")
    axis.plot(epochs, log["prediction"], color=RED, label="prediction")
    axis.plot(epochs, log["loss"], color=INK, label="total")
    axis.set(title="Loss terms during training", xlabel="epoch", yscale="log")
    axis.set_ylabel("mean of the epoch")
    axis.legend()


def _bars(axis: Axes, knn: dict[str, dict[str, dict[str, float]]]) -> None:
    names = {"pixels": ("raw pixels", GREY), "random": ("untrained", INK), "lejepa": ("LeJEPA", BLUE)}
    shots = list(knn["pixels"])
    for offset, (key, (name, colour)) in enumerate(names.items()):
        x = np.arange(len(shots)) + 0.27 * (offset - 1)
        mean, sd = ([knn[key][n][part] for n in shots] for part in ("mean", "sd"))
        bars = axis.bar(x, mean, 0.25, yerr=sd, color=colour, label=name, error_kw={"elinewidth": 1})
        axis.bar_label(
            bars, [f"{m:.2f}".lstrip("0") for m in mean], label_type="center", color="white", fontsize=9
        )
    axis.set_xticks(range(len(shots)), [f"{n} label{'s' * (n != '1')} a class" for n in shots])
    axis.set(title="k-NN accuracy with few labels", ylabel="accuracy on test images", ylim=(0.0, 1.0))
    axis.set_xlabel(f"one run; mean and sd over {DRAWS} draws of the labels", fontsize=9)
    axis.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.13))


def _components(axis: Axes, embedding: np.ndarray, labels: np.ndarray) -> None:
    x, y = PCA(2).fit_transform(embedding).T
    axis.scatter(x, y, c=labels, cmap="tab10", s=9)
    for digit in np.unique(labels):
        here = labels == digit
        axis.annotate(
            str(digit),
            (float(np.median(x[here])), float(np.median(y[here]))),
            ha="center",
            va="center",
            weight="bold",
            bbox={"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )
    axis.set(title="Test digits, first two principal components", xticks=[], yticks=[])
    axis.set(xlabel="first component", ylabel="second component")


def _slices(axis: Axes, projection: np.ndarray) -> None:
    """Random one-dimensional views of the projection: what SIGReg sees."""
    z = torch.from_numpy(projection)
    slices = (z @ gaussian(z.shape[1], 12, seed=1)).numpy()
    edges = np.linspace(-4, 4, 41)
    centres = (edges[1:] + edges[:-1]) / 2
    for k, column in enumerate(slices.T):
        density, _ = np.histogram(column, edges, density=True)
        axis.plot(
            centres, density, color=BLUE, alpha=0.35, linewidth=1, label="random slices" if k == 0 else None
        )
    normal = np.exp(-(centres**2) / 2) / np.sqrt(2 * np.pi)
    axis.plot(centres, normal, color=INK, linestyle="--", label="N(0, 1)")
    axis.set(title="Slices of the projection", xlabel="projected value", ylabel="density")
    axis.legend()

"""Is the isotropic Gaussian the best embedding for a linear, a k-NN and a kernel probe?

Embeddings of one total variance and other shapes, tasks that are drawn without regard to the density, and
three probes, each with the setting that is best for its embedding.  Every risk stands beside that of the
isotropic Gaussian on the same tasks.  `part=bias` is what the paper's Theorem 1 speaks of: the squared bias
alone, computed exactly, at every bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from benchmarks import choices, picture
from benchmarks.densities import EMBEDDINGS, Array, fisher, kernel_bias, sample
from benchmarks.report import markdown

measured_code = ("benchmarks/densities.py",)
BANDWIDTHS = np.geomspace(0.03, 4, 18)
NOISE = 0.5  # sd of the labels' noise; a task has variance 1 under the identity covariance
LENGTH = 3.0  # of the smooth tasks
FEATURES = 256  # random Fourier features of a smooth task
Task = Callable[[Array], Array]  # embeddings (n, D) -> values (n, tasks)


def check(cfg: DictConfig) -> None:
    """Raises ValueError for an embedding or a part that is not here."""
    if cfg.embedding not in EMBEDDINGS:
        raise ValueError(f"embedding={cfg.embedding!r} is unknown; use one of {', '.join(EMBEDDINGS)}")
    if cfg.part not in ("risk", "bias"):
        raise ValueError(f"part={cfg.part!r} is unknown; use risk or bias")


def measure(cfg: DictConfig) -> list[dict[str, Any]]:
    """Risks of all probes and tasks beside the Gaussian's, or the exact bias at every bandwidth."""
    if cfg.part == "bias":
        return [
            {"h": float(h), "bias": kernel_bias(cfg.embedding, h, cfg.D), "J": fisher(cfg.embedding, cfg.D)}
            for h in BANDWIDTHS
        ]
    rng = np.random.default_rng(cfg.seed)
    tasks = {"linear": linear(cfg.tasks, cfg.D, rng), "smooth": smooth(cfg.tasks, cfg.D, rng)}
    pooled = np.concatenate([sample(name, cfg.queries // 8, cfg.D, rng) for name in EMBEDDINGS])
    own, reference = (
        list(risks(name, tasks, pooled, cfg, np.random.default_rng([cfg.seed, stream])))
        for stream, name in enumerate((cfg.embedding, "gaussian"))
    )
    return [
        {**one, "ratio": one["risk"] / other["risk"], "worst_ratio": one["worst"] / other["worst"]}
        for one, other in zip(own, reference, strict=True)
    ]


def linear(count: int, D: int, rng: np.random.Generator) -> Task:
    """Tasks w'z with isotropic w, variance 1 on average under total variance D."""
    w = rng.standard_normal((D, count)) / math.sqrt(D)
    return lambda z: z @ w


def smooth(count: int, D: int, rng: np.random.Generator) -> Task:
    """Stationary Gaussian random functions of variance 1 with a Gaussian covariance of length LENGTH."""
    w = rng.standard_normal((D, FEATURES)) / LENGTH
    b = rng.uniform(0, 2 * math.pi, FEATURES)
    c = rng.standard_normal((FEATURES, count)) * math.sqrt(2 / FEATURES)
    return lambda z: np.cos(z @ w + b) @ c


def risks(
    name: str, tasks: dict[str, Task], pooled: Array, cfg: DictConfig, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Rows for one embedding: squared error of noise-free predictions, over the tasks' variance there.

    The query points are of the embedding itself, and of the pooled measure, an equal mixture of all
    embeddings.  A probe's setting has the least risk on the first half of the tasks; the second half reports.
    """
    z = sample(name, cfg.n, cfg.D, rng)
    queries = {"own": sample(name, cfg.queries, cfg.D, rng), "pooled": pooled}
    half = cfg.tasks // 2
    for task, f in tasks.items():
        y = f(z) + NOISE * rng.standard_normal((cfg.n, cfg.tasks))
        for where, q in queries.items():
            truth = f(q)
            variance = float(truth[:, half:].var(0).mean())
            for probe, predictions in PROBES.items():
                found = {s: ((p - truth) ** 2).mean(0) for s, p in predictions(z, y, q)}
                best = min(found, key=lambda s: float(found[s][:half].mean()))
                per_task = np.sort(found[best][half:]) / variance
                yield {
                    "probe": probe,
                    "task": task,
                    "where": where,
                    "setting": best,
                    "risk": float(per_task.mean()),
                    "worst": float(per_task[-max(1, half // 10) :].mean()),
                }


def ridge(z: Array, y: Array, q: Array) -> Iterator[tuple[float, Array]]:
    """Linear with an intercept; penalties from 1e-3 to 1e4."""
    u, s, vt = np.linalg.svd(z - z.mean(0), full_matrices=False)
    for penalty in np.geomspace(1e-3, 1e4, 15):
        w = vt.T @ ((s / (s**2 + penalty))[:, None] * (u.T @ (y - y.mean(0))))
        yield float(penalty), (q - z.mean(0)) @ w + y.mean(0)


def knn(z: Array, y: Array, q: Array) -> Iterator[tuple[float, Array]]:
    """The mean of the k nearest labels."""
    counts = [k for k in (1, 2, 3, 5, 8, 12, 18, 27, 40, 60) if k <= len(z) // 2]
    _, nearest = cKDTree(z).query(q, counts[-1])
    total = np.zeros((len(q), y.shape[1]))
    for j in range(counts[-1]):
        total += y[nearest[:, j]]
        if j + 1 in counts:
            yield float(j + 1), total / (j + 1)


def kernel(z: Array, y: Array, q: Array) -> Iterator[tuple[float, Array]]:
    """Nadaraya and Watson's mean with a Gaussian kernel."""
    squared = cdist(q, z, "sqeuclidean")
    squared -= squared.min(1, keepdims=True)  # the nearest has weight 1, however far it is
    for h in np.geomspace(0.25, 4, 13):
        weights = np.exp(-squared / (2 * h**2))
        yield float(h), weights @ y / weights.sum(1, keepdims=True)


PROBES = {"ridge": ridge, "k-NN": knn, "kernel": kernel}
WHERE = {"own": "queries of the embedding itself", "pooled": "queries of all embeddings mixed"}


def interval(ratios: pd.Series) -> tuple[float, float, float]:
    """Geometric mean of ratios over seeds and its 95 % Student interval."""
    mean, low, high = np.exp(choices.student(np.log(ratios.astype(float))))
    return float(mean), float(low), float(high)


def _cell(ratios: pd.Series) -> str:
    mean, low, high = interval(ratios)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]" if len(ratios) > 1 else f"{mean:.2f}"


def table(frame: pd.DataFrame) -> str:
    """Risk over the Gaussian's, a table for each query measure and size; then the bias."""
    parts = []
    risk = frame[frame.part == "risk"]
    for (where, n), rows in risk.groupby(["where", "n"]):
        cells = rows.groupby(["embedding", "task", "probe"], sort=False).ratio.agg(_cell).unstack([1, 2])
        cells.columns = [f"{probe}, {task}" for task, probe in cells.columns]
        cells = cells.loc[[name for name in EMBEDDINGS if name in cells.index]]
        seeds = rows.seed.nunique()
        parts.append(f"Risk over that of the Gaussian, {WHERE[where]}, n = {int(n)}, {seeds} seeds:")
        parts.append(markdown(cells))
    bias = frame[frame.part == "bias"]
    if {"gaussian"} < set(bias.embedding):
        ratios = _bias_ratios(bias)
        shown = ratios[
            [h for h in ratios if any(abs(math.log(h / at)) < 0.1 for at in (0.03, 0.13, 0.42, 1, 2.2, 4))]
        ]
        shown.columns = [f"h = {h:.2g}" for h in shown.columns]
        J = bias.groupby("embedding").J.first()
        shown.insert(0, "J(p) / J(Gaussian)", J / J["gaussian"])
        parts.append("Squared bias of the kernel probe over that of the Gaussian, linear tasks, n infinite:")
        parts.append(markdown(shown.loc[[name for name in EMBEDDINGS if name in shown.index]]))
    return "\n\n".join(parts)


def _bias_ratios(bias: pd.DataFrame) -> pd.DataFrame:
    pivot = bias.pivot_table(index="embedding", columns="h", values="bias")
    return pivot / pivot.loc["gaussian"]


COLOURS = dict(zip(EMBEDDINGS, picture.COLOURS, strict=True))
SHOWN = {  # probe and task: marker
    ("ridge", "linear"): "o",
    ("ridge", "smooth"): "P",
    ("k-NN", "linear"): "^",
    ("kernel", "linear"): "s",
    ("k-NN", "smooth"): "v",
    ("kernel", "smooth"): "D",
}


def figure(frame: pd.DataFrame) -> Figure:
    """The bias at every bandwidth, and the risks of the largest n, all over the Gaussian's."""
    risk = frame[frame.part == "risk"]
    largest = risk[risk.n == risk.n.max()]
    fig, axes = picture.panels(
        1,
        3,
        title="Bias and risk of other embeddings over the isotropic Gaussian's: below 1 the Gaussian loses",
        note=f"D = {frame.D.iloc[0]}, equal total variance. Left: exact, Gaussian kernel, linear tasks, "
        f"infinitely many samples. Middle and right: n = {int(largest.n.iloc[0])} labels with noise, "
        f"{int(largest.tasks.iloc[0]) // 2} random tasks a seed, each probe at its best setting; geometric "
        f"mean and 95 % interval over {largest.seed.nunique()} seeds. The Gaussian there is a second sample.",
        size=(16, 5.2),
    )
    _bias_panel(axes[0], frame[frame.part == "bias"], largest)
    for ax, where in zip(axes[1:], ("own", "pooled"), strict=True):
        _risk_panel(ax, largest[largest["where"] == where], f"Risk, {WHERE[where]}")
    picture.legend(axes[2])
    return fig


def _title(name: str) -> str:
    """An embedding's name with a capital: `Student t`."""
    return name[0].upper() + name[1:]


def _bias_panel(ax: Axes, bias: pd.DataFrame, risk: pd.DataFrame) -> None:
    """Lines of the bias, and the range of bandwidths that the risks on the right chose."""
    if {"gaussian"} < set(bias.embedding):
        ratios, ends = _bias_ratios(bias), []
        for name, line in ratios.iterrows():
            ax.plot(line.index, line, color=COLOURS[str(name)], linewidth=1.8)
            ends.append((line.index[0], float(line.iloc[0]), str(name)))
        chosen = risk[(risk.probe == "kernel") & (risk["where"] == "own")].setting
        ax.axvspan(chosen.min(), chosen.max(), color=picture.PALE, alpha=0.5, linewidth=0)
        ax.annotate(
            "bandwidths chosen\nat right by the\nkernel probe",
            (chosen.min() * 0.93, 5.5),
            fontsize=8.5,
            color=picture.GREY,
        )
        ax.set(yscale="log", ylim=(0.15, 12))
        picture.log_ticks(ax, (0.03, 0.1, 0.3, 1, 3))
        ax.set_xlim(4, 0.03)
        picture.name_ends(ax, [(x, min(y, 12), _title(name), COLOURS[name]) for x, y, name in ends])
    picture.plain_log(ax.yaxis)
    picture.label(
        ax, "Squared bias of the kernel probe", "bandwidth h (smaller to the right)", "over the Gaussian's"
    )


def _risk_panel(ax: Axes, rows: pd.DataFrame, title: str) -> None:
    names = [name for name in EMBEDDINGS if name in set(rows.embedding)]
    for i, ((probe, task), marker) in enumerate(SHOWN.items()):
        own = rows[(rows.probe == probe) & (rows.task == task)]
        for y, name in enumerate(names):
            mean, low, high = interval(own[own.embedding == name].ratio)
            ax.errorbar(
                [mean],
                [y + 0.12 * (i - 2.5)],
                xerr=[[mean - low], [high - mean]],
                fmt=marker,
                color=picture.COLOURS[i],
                ms=5,
                elinewidth=1,
                label=f"{probe}, {task} tasks" if y == 0 else None,
            )
    ax.axvline(1, color=picture.INK, linewidth=1)
    ax.set_yticks(range(len(names)), [_title(name) for name in names])
    ax.invert_yaxis()
    ax.set_xscale("log")
    picture.plain_log(ax.xaxis)
    ax.grid(axis="x", color=picture.PALE, linewidth=0.6)
    picture.label(ax, title, "risk over the Gaussian's", "")

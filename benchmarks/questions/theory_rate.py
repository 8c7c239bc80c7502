"""How fast does the mean over K slices approach the mean over all, and do K = O(D) slices suffice?

`part=rate`: one coordinate, along a random direction c, has another distribution than the Gaussian rest, so
the statistic depends on a slice a through u = a.c alone and its mean over all slices is an integral over u.
The characteristic function has a kink |u|^nu; alpha = nu + 1/2 is its Sobolev smoothness on the sphere, the
alpha of the paper's Theorem 5.  The theorem bounds the mean square discrepancy over all directions by
K^(-2 alpha / (D - 1)) when the statistic is 0 on K well-spread ones; the error of a mean over K well-spread
slices has the matching exponent -alpha / (D - 1) for the worst function of that smoothness (Brauchart, Saff,
Sloan and Womersley, Math. Comp. 83, 2014).  Independent slices have -1/2.

`part=toy`: a collapsed cloud in 1,024 dimensions is moved by Adam to lower SIGReg with K slices, resampled at
every step or fixed; the statistic over all slices, in closed form, says what came of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig
from scipy.special import roots_jacobi

from benchmarks import picture
from benchmarks.choices import student
from benchmarks.report import markdown, spread
from benchmarks.spherical import Array, design
from sigreg import SIGReg
from sigreg.directions import gaussian, orthogonal, sobol
from sigreg.multivariate import exact_sigreg

measured_code = (
    *("benchmarks/spherical.py", "sigreg/directions.py", "sigreg/random_numbers.py"),
    "sigreg/multivariate/exact.py",
)
T = np.linspace(0, 3, 17)  # the reference grid
W = 2 * (T[1] - T[0]) * np.exp(-(T**2) / 2) * np.array([0.5] + [1.0] * 15 + [0.5])
REST = 0.7  # sd of the Gaussian coordinates: a statistic that is 0 somewhere would be smoother than its parts
TURNS = 64  # random directions c for each set of slices
NULL = 1.0594  # mean of the exact statistic of N(0, I) samples
STEPS = (0, 10, 20, 50, 100, 150)  # at which the toy is looked at

CHARACTERISTIC: dict[str, Callable[[Array], Array]] = {  # of the one coordinate; its smoothness is in ALPHA
    "Student t, 1": lambda s: np.exp(-np.abs(s)),
    "Student t, 3": lambda s: np.exp(-np.abs(s)) * (1 + np.abs(s)),
    "Student t, 5": lambda s: np.exp(-np.abs(s)) * (1 + np.abs(s) + s**2 / 3),
    "two Gaussians": lambda s: np.exp(-0.1 * s**2) * np.cos(s),
}
ALPHA = {"Student t, 1": 1.5, "Student t, 3": 3.5, "Student t, 5": 5.5, "two Gaussians": math.inf}


def _library(kind: Callable[..., torch.Tensor]) -> Callable[[int, int, int], Array]:
    return lambda D, K, seed: kind(D, K, seed=seed, dtype=torch.float64).numpy()


SLICES: dict[str, Callable[[int, int, int], Array]] = {
    "independent": _library(gaussian),
    "orthogonal": _library(orthogonal),
    "Sobol": _library(sobol),
    "design": lambda D, K, seed: design(D, K, np.random.default_rng(seed)),
}


def check(cfg: DictConfig) -> None:
    """Raises ValueError for a part or a kind of slices that is not here."""
    if cfg.part not in ("rate", "toy"):
        raise ValueError(f"part={cfg.part!r} is unknown; use rate or toy")
    if cfg.slices not in SLICES:
        raise ValueError(f"slices={cfg.slices!r} is unknown; use one of {', '.join(SLICES)}")


def measure(cfg: DictConfig) -> list[dict[str, Any]]:
    """Relative rms errors for every K and density, or the statistic along the fit with each K."""
    if cfg.part == "rate":
        return rate(cfg)
    return [{"K": K, **row} for K in cfg.sizes for row in toy(cfg, K)]


def statistic(name: str, u: Array) -> Array:
    """The statistic over N of the projection on a slice with a.c = u, on the reference grid."""
    s = T[:, None] * u.ravel()
    rest = np.exp(-(REST**2) * (T[:, None] ** 2 - s**2) / 2)
    difference = CHARACTERISTIC[name](s) * rest - np.exp(-(T**2) / 2)[:, None]
    found: Array = (W @ difference**2).reshape(u.shape)
    return found


@functools.cache
def over_all_slices(name: str, D: int, nodes: int = 1000) -> float:
    """Its mean over the sphere: u has the density (1 - u^2)^((D-3)/2); both sides of the kink are alike."""
    x, w = roots_jacobi(nodes, (D - 3) / 2, 0.0)
    u = (1 + x) / 2  # [0, 1]; (1 - u)^e from the weight, (1 + u)^e here
    w = w * (1 + u) ** ((D - 3) / 2)
    return float((w * statistic(name, u)).sum() / w.sum())


def rate(cfg: DictConfig) -> list[dict[str, Any]]:
    """A row for each K and density; the error is a root mean square over random directions c."""
    c = np.random.default_rng([cfg.seed, 1]).standard_normal((TURNS, cfg.D))
    c /= np.linalg.norm(c, axis=1, keepdims=True)
    rows = []
    for K in cfg.sizes:
        u = c @ SLICES[cfg.slices](cfg.D, K, cfg.seed)
        for name, alpha in ALPHA.items():
            error = statistic(name, u).mean(1) / over_all_slices(name, cfg.D) - 1
            rms = float(np.sqrt((error**2).mean()))
            rows.append({"K": K, "density": name, "alpha": alpha, "error": rms})
    return rows


def toy(cfg: DictConfig, K: int) -> list[dict[str, Any]]:
    """N points with variances j^-1.5, total D, then Adam; `exact` is the statistic over all slices."""
    generator = torch.Generator().manual_seed(cfg.seed)
    spectrum = torch.arange(1, cfg.D + 1) ** -1.5
    sd = (spectrum * cfg.D / spectrum.sum()).sqrt()
    z = (torch.randn(cfg.N, cfg.D, generator=generator) * sd).requires_grad_()
    sigreg = SIGReg(num_slices=K, directions="gaussian", seed=cfg.seed)
    optimizer = torch.optim.Adam([z], lr=cfg.lr)
    rows = []
    for step in range(STEPS[-1] + 1):
        loss = sigreg(z, step=step if cfg.resample else 0)
        if step in STEPS:
            rows.append({"step": step, "loss": loss.item(), "exact": exact_sigreg(z.detach()).item()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rows


def slopes(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Slope of log error against log K, fitted seed by seed: mean and its 95 % Student interval.

    Errors below 1e-10 are rounding and left out.
    """
    found = []
    for _, own in rows[rows.error > 1e-10].groupby("seed"):
        if own.K.nunique() > 1:
            found.append(np.polyfit(np.log(own.K.astype(float)), np.log(own.error.astype(float)), 1)[0])
    return student(found)


def _slope(rows: pd.DataFrame) -> str:
    mean, low, high = slopes(rows)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]" if math.isfinite(low) else f"{mean:.2f}"


def chosen(frame: pd.DataFrame) -> pd.DataFrame:
    """The toy's rows at the learning rate with the least exact statistic at the end, for each K and kind.

    The choice is made at the seeds that all learning rates of that K and kind have.
    """
    parts = []
    for _, rows in frame.groupby(["resample", "K"]):
        seeds = set.intersection(*rows.groupby("lr").seed.agg(set))
        last = rows[(rows.step == rows.step.max()) & rows.seed.isin(seeds)]
        parts.append(rows[rows.lr == last.groupby("lr").exact.mean().idxmin()])
    return pd.concat(parts, ignore_index=True)


def table(frame: pd.DataFrame) -> str:
    """Fitted slopes beside the theorem's exponent; errors at the largest K; the toy's end."""
    parts = []
    rate = frame[frame.part == "rate"]
    if len(rate):
        lines = {}
        for (D, density), rows in rate.groupby(["D", "density"]):
            alpha = rows.alpha.iloc[0]
            line = {"-alpha / (D - 1)": f"{-alpha / (D - 1):.2f}"}
            for kind, own in rows.groupby("slices"):
                largest = own[own.K.max() == own.K].error.mean()
                line |= {f"{kind}: slope": _slope(own), f"{kind}: error": f"{largest:.1e}"}
            lines[int(D), density] = line
        index = pd.MultiIndex.from_tuples(lines, names=["D", "density"])
        least, most = int(rate.K.min()), int(rate.K.max())
        parts.append(f"Slope of the relative rms error, K = {least} to {most}, and the error at K = {most}:")
        parts.append(markdown(pd.DataFrame(list(lines.values()), index=index)))
    toys = frame[frame.part == "toy"]
    if len(toys):
        best = chosen(toys)
        last = best[best.step == best.step.max()]
        lines = []
        for (K, resample), rows in last.groupby(["K", "resample"]):
            lines.append(
                {
                    "K": int(K),
                    "slices": "resampled" if resample else "fixed",
                    "lr": rows.lr.iloc[0],
                    "loss seen by the optimizer": f"{rows.loss.mean():.2f}",
                    "statistic over all slices": spread(rows.exact, percent=False),
                }
            )
        start = toys[toys.step == 0].exact.mean()
        parts.append(
            f"The toy after {int(last.step.iloc[0])} steps; at its start {start:.1f}, N(0, I) {NULL}:"
        )
        parts.append(markdown(pd.DataFrame(lines).set_index("K")))
    return "\n\n".join(parts)


def figure(frame: pd.DataFrame) -> Figure:
    """Above, error against K for each density at the least and greatest D; below, the toy."""
    rate, toys = frame[frame.part == "rate"], frame[frame.part == "toy"]
    dimensions = sorted(rate.D.unique())
    between = " and ".join(f"{D:g}" for D in dimensions[1:-1])
    left_out = f" D = {between} are in the table only." if between else ""
    fig, axes = picture.panels(
        3,
        4,
        title="The error of a mean over K slices (above); a cloud in high dimension fitted with K (below)",
        note=f"Above: relative rms error over {TURNS} random directions, mean and range over "
        f"{rate.seed.nunique()} seeds; the grey line has Theorem 5's exponent -alpha/(D-1), through the "
        f"first point of the design.{left_out} Below: {int(toys.N.max()) if len(toys) else 0} points, Adam, "
        f"mean and sd of {toys.seed.nunique()} seeds, at the learning rate that is best for each curve.",
        size=(16, 11),
    )
    for row, D in enumerate([*dimensions[:1], *dimensions[1:][-1:]]):
        for ax, density in zip(axes[4 * row : 4 * row + 4], ALPHA, strict=True):
            _rate_panel(ax, rate[(rate.D == D) & (rate.density == density)], f"D = {int(D)}, {density}")
        picture.same_height(axes[4 * row : 4 * row + 4])
    if len(dimensions):
        handles, labels = axes[0].get_legend_handles_labels()
        picture.legend(axes[3], handles=handles, labels=labels)
    if len(toys):
        _toy_panels(axes[8:], chosen(toys))
    for ax in axes:  # a part or a D may have no rows
        ax.set_visible(bool(ax.get_title(loc="left")))
    return fig


def _rate_panel(ax: Axes, rows: pd.DataFrame, title: str) -> None:
    for i, kind in enumerate(SLICES):
        stat = rows[rows.slices == kind].groupby("K").error.agg(["mean", "min", "max"])
        if len(stat):
            style = {"color": picture.COLOURS[i], "marker": picture.MARKERS[i], "ms": 4, "capsize": 2}
            ax.errorbar(
                stat.index, stat["mean"], yerr=picture.ranges(stat), elinewidth=0.8, label=kind, **style
            )
    alpha, design = rows.alpha.iloc[0], rows[rows.slices == "design"].groupby("K").error.mean()
    if math.isfinite(alpha) and len(design):
        K = design.index.to_numpy(dtype=float)
        line = design.iloc[0] * (K / K[0]) ** (-alpha / (rows.D.iloc[0] - 1))
        ax.plot(K, line, color=picture.GREY, linestyle="--", linewidth=1.2, label="Theorem 5's exponent")
    picture.log_ticks(ax, sorted(rows.K.unique()))
    ax.set_yscale("log")
    said = f", alpha = {alpha:g}" if math.isfinite(alpha) else ", smooth"
    picture.label(ax, title + said, "slices K", "relative rms error")


def _toy_panels(axes: list[Axes], best: pd.DataFrame) -> None:
    """The end against K, the way there with resampled and with fixed slices, and the loss at the end."""
    named: list[tuple[Axes, list[tuple[float, float, str, str]]]] = []
    last = best[best.step == best.step.max()]
    steps = int(last.step.iloc[0])
    for ax, column, title, y in (
        (axes[0], "exact", f"After {steps} steps", "statistic over all slices"),
        (axes[3], "loss", f"After {steps} steps, as the optimizer sees it", "statistic over its K slices"),
    ):
        ends = []
        for resample, colour, name in ((True, picture.BLUE, "resampled"), (False, picture.RED, "fixed")):
            own = last[last["resample"] == resample]
            end = picture.curve(ax, own, "K", column, colour=colour, scale=1.0, dashed=not resample)
            ends.append((*end, name, colour))
        picture.log_ticks(ax, sorted(last.K.unique()))
        ax.axvline(int(best.D.iloc[0]), color=picture.PALE, zorder=0)
        picture.label(ax, title, "slices K", y)
        ax.set_yscale("log")
        named.append((ax, ends))
    for ax, resample in zip(axes[1:3], (True, False), strict=True):
        ends = []
        for i, (K, rows) in enumerate(best[best["resample"] == resample].groupby("K")):
            mean = rows.groupby("step").exact.mean()
            style = {"color": picture.COLOURS[i], "marker": picture.MARKERS[i], "ms": 4}
            ax.plot(mean.index, mean, **style)
            ends.append((float(mean.index[-1]), float(mean.iloc[-1]), f"K = {int(K)}", style["color"]))
        picture.label(
            ax, "Resampled slices" if resample else "Fixed slices", "step", "statistic over all slices"
        )
        named.append((ax, ends))
    for ax in axes:
        ax.axhline(NULL, color=picture.GREY, linestyle=":", linewidth=1.2)
        ax.set_yscale("log")
    picture.same_height(axes[:3])
    for ax in axes:
        picture.plain_log(ax.yaxis)
    for ax, ends in named:
        picture.name_ends(ax, [*ends, (ax.get_xlim()[1], NULL, "N(0, I)", picture.GREY)])

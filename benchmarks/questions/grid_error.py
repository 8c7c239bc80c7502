"""How far is each quadrature grid from the exact Epps-Pulley statistic, and what does it cost?

The exact value is the closed form over the whole line, in float64, for normal samples of several
spreads.  A narrow grid errs by truncation, near the Gaussian; a coarse one by aliasing, far from it:
points 2 pi / dt apart look identical to it.
"""

from __future__ import annotations

import math
import time
from statistics import median
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from benchmarks import picture
from benchmarks.report import markdown
from sigreg.functional import sigreg
from sigreg.univariate import epps_pulley


def check(cfg: DictConfig) -> None:
    """A grid is T_MAX/POINTS."""
    _parsed(cfg.grid)


def measure(cfg: DictConfig) -> dict[str, Any]:
    """One grid at one spread: mean relative error over slices, and time beside the customary grid."""
    t_max, num_points = _parsed(cfg.grid)
    generator = torch.Generator().manual_seed(cfg.seed)
    x = torch.randn(cfg.N, cfg.K, generator=generator, dtype=torch.float64) * cfg.spread
    expected = exact(x)
    error = (epps_pulley(x, t_max=t_max, num_points=num_points) - expected).abs() / expected
    z = torch.randn(4, 256, 64, generator=generator, requires_grad=True)
    A = torch.nn.functional.normalize(torch.randn(64, 1024, generator=generator), dim=0)
    ratios = []
    for _ in range(cfg.rounds + 1):
        ours, customary = (_seconds(z, A, *g) for g in ((t_max, num_points), (3.0, 17)))
        ratios.append(ours / customary)
    return {"error": float(error.mean()), "worst": float(error.max()), "cost": median(ratios[1:])}


def exact(x: Tensor) -> Tensor:
    """The statistic over the whole line, `(N, K) -> (K,)`: BHEP's closed form with beta = 1."""
    pairs = torch.stack([torch.exp(-((x - row) ** 2) / 2).mean(0) for row in x]).mean(0)
    singles = torch.exp(-(x**2) / 4).mean(0)
    return len(x) * math.sqrt(2 * math.pi) * (pairs - math.sqrt(2) * singles + 1 / math.sqrt(3))


def _seconds(z: Tensor, A: Tensor, t_max: float, num_points: int) -> float:
    start = time.perf_counter()
    sigreg(z, A, backend="eager", group=None, t_max=t_max, num_points=num_points).backward()
    return time.perf_counter() - start


def _parsed(grid: str) -> tuple[float, int]:
    try:
        t_max, num_points = grid.split("/")
        return float(t_max), int(num_points)
    except ValueError:
        raise ValueError(f"grid={grid!r} is not T_MAX/POINTS; write e.g. 3/17") from None


def table(frame: pd.DataFrame) -> str:
    """Mean relative error, a line per grid; cost beside 3/17."""
    errors = frame.pivot_table(index="grid", columns="spread", values="error", sort=False)
    errors.columns = [f"sd {spread:g}" for spread in errors.columns]
    cost = frame.groupby("grid", sort=False).cost.median().rename("cost beside 3/17")
    alias = pd.Series({g: 2 * math.pi * (_parsed(g)[1] - 1) / _parsed(g)[0] for g in errors.index})
    return markdown(errors.assign(**{"blind at": alias.round(1), cost.name: cost}))


def figure(frame: pd.DataFrame) -> Figure:
    """Error against the sd of the sample, a line per grid; what a grid costs stands in its label."""
    fig, (ax,) = picture.panels(
        title="Error of each quadrature grid against the closed form",
        note=f"Epps-Pulley of {frame.N.iloc[0]} normal numbers of that standard deviation, {frame.K.iloc[0]} "
        f"samples and {frame.seed.nunique()} seeds a point. A grid is half-range / points; in brackets its "
        "time beside 3/17. Up to sd 1 a grid errs by truncation, beyond by aliasing. Dashed: "
        "3/17, which lies on 3/65 up to sd 2.",
        size=(8.6, 5.2),
    )
    costs, ends = frame.groupby("grid").cost.median(), []
    for i, (grid, rows) in enumerate(frame.groupby("grid", sort=False)):
        mean = rows.groupby("spread").error.mean()
        style = {"color": picture.COLOURS[i % 8], "marker": picture.MARKERS[i % 8]}
        above = {"linestyle": "--", "zorder": 3} if grid == "3/17" else {}  # 3/65 lies on it up to sd 2
        ax.plot(mean.index, mean, **style, **above)
        ends.append((mean.index[-1], mean.iloc[-1], f"{grid} ({costs[grid]:.2f} x)", style["color"]))
    ax.set_yscale("log")
    picture.log_ticks(ax, frame.spread.unique())
    picture.label(ax, "Mean relative error", "standard deviation of the sample", "relative error")
    picture.name_ends(ax, ends)
    return fig

"""How far is a K-slice estimate from exact_sigreg, and which directions bring it closer?

One batch of embeddings, its exact value, and the estimate at many steps: bias and variance.  Gain is
the variance of K independent slices (known from the values of single slices) over the measured one.
"""

import time
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from benchmarks import picture
from benchmarks.report import markdown
from sigreg.directions import DIRECTIONS, by_name
from sigreg.multivariate import exact_sigreg
from sigreg.univariate import epps_pulley

GRID = {"t_max": 5.0, "num_points": 21}  # close enough to the whole line, which exact_sigreg integrates


def embeddings(N: int, D: int, seed: int) -> dict[str, Tensor]:
    """N(0, I), and what an encoder gives early on: a falling spectrum, heavy tails, off-center."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(2, N, D, generator=generator)
    spectrum = torch.arange(1, D + 1).float() ** -0.5
    spectrum *= (D / spectrum.square().sum()).sqrt()
    tails = torch.randn(N, 1, generator=generator).abs() + 0.3
    return {"gaussian": normal[0], "anisotropic": normal[1] * spectrum * tails + 0.2}


def check(cfg: DictConfig) -> None:
    by_name(cfg.directions)


def measure(cfg: DictConfig) -> list[dict[str, Any]]:
    """Bias and variance of the estimate over `repeats` steps, for both kinds of embeddings."""
    draw, K = by_name(cfg.directions), cfg.num_slices
    batches = embeddings(cfg.N, cfg.D, cfg.seed)
    z = torch.stack(list(batches.values()))
    exact = exact_sigreg(z)  # (2,)
    draw(cfg.D, K)  # once for what is cached
    values, seconds = [], 0.0
    for step in range(cfg.repeats):
        start = time.perf_counter()
        A = draw(cfg.D, K, seed=cfg.seed, step=step)
        seconds += time.perf_counter() - start
        values.append(epps_pulley(z @ A, **GRID))  # (2, K)
    slices = torch.stack(values).double()  # (repeats, 2, K)
    estimates = slices.mean(-1)
    variance, single = estimates.var(0), slices.transpose(1, 2).reshape(-1, 2).var(0)
    error = (variance / cfg.repeats).sqrt()
    return [
        {
            "embeddings": name,
            "exact": float(exact[i]),
            "bias": float(estimates[:, i].mean() - exact[i]),
            "standard_error": float(error[i]),
            "variance": float(variance[i]),
            "slice_variance": float(single[i]),
            "draw_ms": 1e3 * seconds / cfg.repeats,
        }
        for i, name in enumerate(batches)
    ]


def _gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Variance of independent slices over the measured one, both averaged over seeds."""
    by = ["embeddings", "directions", "D", "num_slices"]
    mean = frame.groupby(by)[["variance", "slice_variance", "draw_ms"]].mean().reset_index()
    mean["gain"] = mean.slice_variance / mean.num_slices / mean.variance
    return mean


def table(frame: pd.DataFrame) -> str:
    """Gain in variance over independent slices; then what a draw costs, and the bias."""
    mean = _gains(frame)
    gain = mean.pivot(index=["embeddings", "D", "directions"], columns="num_slices", values="gain")
    gain.columns = [f"K={k}" for k in gain.columns]
    largest = mean[mean.num_slices == mean.num_slices.max()]
    cost = largest.groupby(["D", "directions"]).draw_ms.mean().unstack()
    cost.columns = [f"{name}, ms" for name in cost.columns]
    scores = (frame.bias / frame.standard_error).abs()
    bias = (
        f"|bias| is within 2 standard errors in {100 * (scores < 2).mean():.0f} % of the {len(frame)} rows "
        f"(95 % is chance), at most {scores.max():.1f}."
    )
    one_draw = f"One draw at K={mean.num_slices.max()}:"
    return "\n\n".join([markdown(gain.round(2)), one_draw, markdown(cost.round(2)), bias])


def figure(frame: pd.DataFrame) -> Figure:
    """Gain against K: a row per kind of embeddings, a column per D, a line per kind of directions."""
    by = ["embeddings", "D", "directions", "num_slices"]
    single = frame.assign(gain=frame.slice_variance / frame.num_slices / frame.variance)
    pooled = _gains(frame).set_index(by).gain.sort_index()
    kinds, widths = sorted(frame.embeddings.unique()), sorted(frame.D.unique())
    fig, axes = picture.panels(
        len(kinds),
        len(widths),
        title="How much less variance an estimate has than independent slices give",
        note="Variance gain: the variance that K independent slices have, over that of the estimate; 2 is "
        f"half the variance. Points: both averaged over n = {frame.seed.nunique()} seeds, as in the table; "
        f"bars: range of the seeds. A seed has {frame.repeats.iloc[0]} draws, so independent slices "
        "themselves scatter around 1 by a quarter. The vertical line is K = D, from where on orthogonal "
        "slices are complete bases.",
        size=(3.9 * len(widths) + 0.9, 3.2 * len(kinds) + 1),
        sharey="row",
    )
    colours = dict(zip(DIRECTIONS, picture.COLOURS, strict=False))
    for ax, (name, D) in zip(axes, ((name, D) for name in kinds for D in widths), strict=True):
        ends = []
        for marker, (kind, rows) in zip(
            picture.MARKERS,
            single[(single.embeddings == name) & (single.D == D)].groupby("directions"),
            strict=False,
        ):
            stats = rows.groupby(by[-1]).gain.agg(["min", "max"]).assign(mean=pooled.loc[name, D, kind])
            mean, bars = stats["mean"], picture.ranges(stats)
            colour = colours.get(kind, picture.INK)
            ax.errorbar(
                mean.index, mean, yerr=bars, color=colour, marker=marker, ms=4, capsize=2, elinewidth=0.8
            )
            label = {"gaussian": "independent", "sobol": "Sobol"}.get(kind, kind)
            ends.append((float(mean.index[-1]), float(mean.iloc[-1]), label, colour))
        ax.axhline(1, color=picture.GREY, linestyle=":", linewidth=1.2)
        ax.axvline(D, color=picture.PALE, linewidth=1.2, zorder=0)
        ax.set_yscale("log")
        ax.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
        ax.set_yticks([], minor=True)
        picture.log_ticks(ax, single.num_slices.unique())
        y = "variance gain (1: independent)" if widths[0] == D else ""
        picture.label(ax, f"{name.capitalize()} embeddings, D = {D}", "slices K", y)
        picture.name_ends(ax, ends, gap=0.08)
    return fig

"""Do the paper's lemmas and theorems show in numbers?

Each claim is measured, and the line it predicts is computed from its formula, not fitted.
"""

import math
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig
from scipy.spatial import cKDTree
from torch import Tensor

from benchmarks import picture
from benchmarks.report import markdown
from sigreg.directions import gaussian
from sigreg.univariate import epps_pulley, moments

Point = tuple[str, float, float, float]  # series, x, measured, predicted

T_MAX, POINTS = 3.0, 17  # the reference grid: t, phi of N(0,1), and weights with the window inside
T = torch.linspace(0, T_MAX, POINTS, dtype=torch.float64)
PHI = torch.exp(-T.square() / 2)
W = 2 * (T[1] - T[0]) * PHI * torch.tensor([0.5] + [1.0] * (POINTS - 2) + [0.5], dtype=torch.float64)


def _spectrum(kappa: float, D: int) -> np.ndarray:
    """Variances in geometric progression, largest over smallest kappa, sum D."""
    variances = np.geomspace(1, kappa, D)
    return variances * D / variances.sum()


def _least_squares(kappa: float, ridge: float, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Estimates `(repeats, 16)` of the worst task, along the least variance, from 200 noisy targets each."""
    n, D = 200, 16
    Q, _ = np.linalg.qr(rng.standard_normal((n, D)))
    Z = math.sqrt(n) * Q * np.sqrt(_spectrum(kappa, D))  # covariance exactly diag(spectrum)
    y = Z[:, :1] + rng.standard_normal((n, repeats))
    return np.linalg.solve(Z.T @ Z + ridge * np.eye(D), Z.T @ y).T


def lemma1(effort: int, rng: np.random.Generator) -> Iterator[Point]:
    """Ridge: squared bias against the condition number, at equal total variance."""
    for ridge in (10.0, 100.0):
        for kappa in (1, 2, 5, 10, 30, 100):
            bias = _least_squares(kappa, ridge, 200 * effort, rng).mean(0) - np.eye(16)[0]
            shrunk = ridge / (200 * _spectrum(kappa, 16)[0] + ridge)
            yield f"ridge {ridge:g}", kappa, float(bias @ bias), shrunk**2


def lemma2(effort: int, rng: np.random.Generator) -> Iterator[Point]:
    """Least squares: total variance of the estimate against the condition number, noise variance 1."""
    for kappa in (1, 2, 5, 10, 30, 100):
        estimates = _least_squares(kappa, 0.0, 200 * effort, rng)
        yield "", kappa, float(estimates.var(0, ddof=1).sum()), float((1 / _spectrum(kappa, 16)).sum() / 200)


def theorem1(effort: int, rng: np.random.Generator) -> Iterator[Point]:
    """Neighbours within r in the plane: integrated squared bias of a linear task against J(p).

    A ball of radius r has its mean displaced by r^2/(D+2) grad log p, so the bias is (r^2/(D+2))^2 J(p).
    """
    r, D, n, queries = 0.15, 2, 20_000 * effort, 3000 * effort
    for kappa in (1, 2, 4, 8):
        sd = np.sqrt(_spectrum(kappa, D))
        yield (
            "Gaussian",
            float((sd**-2.0).sum()),
            _displaced(rng.standard_normal((n + queries, D)) * sd, n, r),
            (r**2 / (D + 2)) ** 2 * float((sd**-2.0).sum()),
        )
    for gap in (0.7, 0.8, 0.9):  # two Gaussians along one axis, total variance still D
        s2 = 1 - gap**2
        x = rng.standard_normal((n + queries, D)) * np.array([math.sqrt(s2), 1.0])
        x[:, 0] += gap * rng.choice([-1.0, 1.0], n + queries)
        grid = np.linspace(-6, 6, 4001)
        p = np.exp(-((grid - gap) ** 2) / (2 * s2)) + np.exp(-((grid + gap) ** 2) / (2 * s2))
        p /= p.sum() * (grid[1] - grid[0])
        J = 1 + float((np.gradient(p, grid) ** 2 / p).sum() * (grid[1] - grid[0]))
        yield "two Gaussians", J, _displaced(x, n, r), (r**2 / (D + 2)) ** 2 * J


def _displaced(x: np.ndarray, n: int, r: float) -> float:
    """Mean over queries of |mean displacement of the neighbours|^2, its own sampling noise removed."""
    reference, queries = x[:n], x[n:]
    found = []
    for query, near in zip(queries, cKDTree(reference).query_ball_point(queries, r), strict=True):
        if (k := len(near)) > 1:
            d = reference[near] - query
            found.append((float(d.sum(0) @ d.sum(0)) - float((d * d).sum())) / (k * (k - 1)))
    return float(np.mean(found))


def theorem3(effort: int, rng: np.random.Generator) -> Iterator[Point]:
    """Impostors: m points share 2m - 1 moments with N(0,1).  Four moments see nothing, Epps-Pulley does."""
    N = 50_000 * effort
    for m in (2, 3, 4, 5, 6):
        nodes, weights = np.polynomial.hermite_e.hermegauss(m)
        weights = weights / weights.sum()
        x = torch.from_numpy(np.repeat(nodes, np.round(weights * N).astype(int)))[:, None]
        phi = (torch.from_numpy(weights) * torch.cos(T[:, None] * torch.from_numpy(nodes))).sum(1)
        yield (
            "Epps-Pulley / N",
            2 * m - 1,
            epps_pulley(x).item() / len(x),
            float((W * (phi - PHI) ** 2).sum()),
        )
        if m > 2:
            yield "4 moments / N", 2 * m - 1, moments(x).item() / len(x), 0.0


def theorem4(effort: int, rng: np.random.Generator) -> Iterator[Point]:
    """Training: the largest gradient of the N-scaled statistic, step by step, under its bound.

    |dEP/dx| <= sum_k 2 w_k t_k (1 + phi_k) whatever the sample; moments have no bound, so none is drawn.
    """
    bound = float((2 * W * T * (1 + PHI)).sum())
    for name, statistic in (("Epps-Pulley", epps_pulley), ("4 moments", moments)):
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
        x0 = torch.randn(256, 32, generator=generator)
        net = torch.nn.Sequential(torch.nn.Linear(32, 128), torch.nn.ReLU(), torch.nn.Linear(128, 16))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for step in range(15 * effort):
            x = 10 * net(x0) @ gaussian(16, 64, step=step)
            largest = _gradient(statistic, x).abs().max().item()
            if step % effort == 0:
                yield name, step, largest, bound if statistic is epps_pulley else math.nan
            optimizer.zero_grad()
            statistic(x).mean().backward()
            optimizer.step()


def _gradient(statistic: Any, x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(statistic(leaf).sum(), leaf)
    return gradient


def theorem5(effort: int, rng: np.random.Generator) -> Iterator[Point]:
    """Error of the mean over K slices, for ever smoother distributions, against sd over directions / sqrt(K).

    Eight points smeared by a Gaussian of width s: the smoother, the fewer slices.
    """
    D, N = 16, 512
    centres = torch.from_numpy(rng.standard_normal((8, D))).float() * 2
    for s in (0.1, 0.5, 1.0):
        noise = torch.from_numpy(rng.standard_normal((N, D))).float()
        z = (centres.repeat(N // 8, 1) + s * noise).double()
        z = (z - z.mean(0)) / z.std()
        per_slice = epps_pulley(z @ gaussian(D, 20_000, seed=1, dtype=torch.float64)) / N
        for K in (4, 16, 64, 256):
            drawn = epps_pulley(z @ gaussian(D, K * 20 * effort, seed=2 + K, dtype=torch.float64)) / N
            error = drawn.reshape(-1, K).mean(1) - per_slice.mean()
            yield f"s = {s}", K, error.square().mean().sqrt().item(), per_slice.std().item() / math.sqrt(K)


def theorem6(effort: int, rng: np.random.Generator) -> Iterator[Point]:
    """Minibatches: the bias of Epps-Pulley / N is (1/N) integral w (1 - |phi_P|^2) dt."""
    for name, phi in (("normal", PHI), ("Laplace", 1 / (1 + T**2))):
        population = float((W * (phi - PHI) ** 2).sum())
        slope = float((W * (1 - phi**2)).sum())
        for N in (4, 8, 16, 32, 64, 128):
            size = (N, 2000 * effort)
            x = rng.standard_normal(size) if name == "normal" else rng.laplace(size=size)
            mean = (epps_pulley(torch.from_numpy(x)) / N).mean().item()
            yield name, N, mean - population, slope / N


CLAIMS = {f.__name__: f for f in (lemma1, lemma2, theorem1, theorem3, theorem4, theorem5, theorem6)}
AXES = {  # x, y, scale of x, scale of y
    "lemma1": ("condition number", "squared bias", "log", "log"),
    "lemma2": ("condition number", "variance", "log", "log"),
    "theorem1": ("Fisher information J(p)", "integrated squared bias", "linear", "linear"),
    "theorem3": ("moments shared with N(0,1)", "Epps-Pulley / N", "linear", "log"),
    "theorem4": ("training step", "largest gradient", "linear", "log"),
    "theorem5": ("slices K (s: smoothing)", "rms error", "log", "log"),
    "theorem6": ("N", "bias", "log", "log"),
}


def check(cfg: DictConfig) -> None:
    """Raises ValueError for a claim that is not here."""
    if cfg.claim not in CLAIMS:
        raise ValueError(f"claim={cfg.claim!r} is unknown; use one of {', '.join(CLAIMS)}")


def measure(cfg: DictConfig) -> list[dict[str, Any]]:
    """The points of one claim."""
    points = CLAIMS[cfg.claim](cfg.effort, np.random.default_rng(cfg.seed))
    return [{"series": s, "x": x, "measured": m, "predicted": p} for s, x, m, p in points]


def table(frame: pd.DataFrame) -> str:
    """Measured over predicted, least and greatest: of the means over seeds, and of single rows."""
    frame = frame.assign(series=frame.series.fillna(""))
    lines = []
    for (claim, series), rows in frame.groupby(["claim", "series"]):
        averaged = rows.assign(x=rows.x.round(9)).groupby("x")[["measured", "predicted"]].mean()
        lines.append(
            {
                "claim": claim,
                "what": " ".join((CLAIMS[claim].__doc__ or "").partition("\n")[0].split()),
                "series": series,
                "measured, all rows": f"{rows.measured.min():.3g} ... {rows.measured.max():.3g}",
                "measured / predicted, means over seeds": _range(averaged),
                "the same, single rows": _range(rows),
            }
        )
    return markdown(pd.DataFrame(lines).set_index("claim"))


def _range(rows: pd.DataFrame) -> str:
    ratio = (rows.measured / rows.predicted)[rows.predicted > 0]
    return f"{ratio.min():.3f} ... {ratio.max():.3f}" if len(ratio) else ""


SAYS = {
    "lemma1": "Lemma 1: ridge is biased\nwhere variances are unequal",
    "lemma2": "Lemma 2: least squares scatter\nwhere variances are unequal",
    "theorem1": "Theorem 1 (in part): neighbours'\nbias is c J(p)",
    "theorem3": "Theorem 3: impostors that\nfour moments cannot see",
    "theorem4": "Theorem 4: the gradient's bound\n(outputs times 10)",
    "theorem5": "Error of a mean over K random slices:\nsd / sqrt(K). Theorem 5: `theory_rate`",
    "theorem6": "Theorem 6: the bias\nof a minibatch",
}
ROWS = ("AAABBBCCCDDD", "EEEEFFFFGGGG")


def figure(frame: pd.DataFrame) -> Figure:
    """One panel per claim: points with their range over seeds, predictions as lines."""
    present = [claim for claim in CLAIMS if claim in set(frame.claim)]
    with mpl.rc_context(picture.STYLE):
        fig = Figure(figsize=(18, 9), layout="constrained")  # matplotlib 3.10 fits no less
        if len(present) == len(CLAIMS):
            panels = list(fig.subplot_mosaic("\n".join(ROWS)).values())
        else:
            panels = list(fig.subplots(1, len(present), squeeze=False)[0])
    picture.heading(
        fig,
        "The paper's lemmas and theorems: measured (points) against their formulas (lines)",
        f"Synthetic data; a point is the mean over {frame.seed.nunique()} seeds, its bar their range. "
        "Lines are computed, not fitted.",
    )
    frame = frame.assign(series=frame.series.fillna(""), x=frame.x.round(9))
    for claim, ax in zip(present, panels, strict=True):
        _claim(ax, claim, frame[frame.claim == claim])
    return fig


def _claim(ax: Axes, claim: str, rows: pd.DataFrame) -> None:
    xlabel, ylabel, xscale, yscale = AXES[claim]
    if claim == "theorem3":  # what four moments see is rounding: no point on a logarithmic axis
        rows = rows[rows.series != "4 moments / N"]
        ax.annotate(
            "four moments: below 1e-9\nfrom 5 shared moments on",
            (0.05, 0.05),
            xycoords="axes fraction",
            fontsize=8.5,
        )
    for i, (series, own) in enumerate(rows.groupby("series")):
        colour = picture.COLOURS[i]
        stats = own.groupby("x").measured.agg(["mean", "min", "max"])
        predicted = own.groupby("x").predicted.mean()
        ax.plot(predicted.index, predicted, "-", color=colour, linewidth=1.3)
        ax.errorbar(
            stats.index,
            stats["mean"],
            yerr=picture.ranges(stats),
            fmt=picture.MARKERS[i],
            ms=4,
            color=colour,
            capsize=2,
            elinewidth=0.8,
            label=series or None,
        )
    if claim == "theorem4":
        bound = rows.predicted.max()
        ax.annotate(
            f"bound {bound:.2f}", (0.98, bound), xycoords=("axes fraction", "data"), ha="right", va="bottom"
        )
    ax.set(xscale=xscale, yscale=yscale)
    if xscale == "log" and rows.x.nunique() <= 6:
        picture.log_ticks(ax, rows.x.unique())
    if claim in ("lemma2", "theorem5"):
        picture.plain_log(ax.yaxis)
    if claim == "theorem4":
        ax.set_ylim(top=3e7)  # space for the legend
    picture.label(ax, SAYS[claim], xlabel, ylabel)
    ax.grid(axis="y", color=picture.PALE, linewidth=0.6)
    if rows.series.nunique() > 1:
        ax.legend(
            fontsize=8.5,
            frameon=False,
            loc="upper left" if claim in ("lemma1", "theorem1") else "upper right",
        )

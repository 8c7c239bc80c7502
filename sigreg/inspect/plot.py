"""The picture beside a diagnosis: slices, spectrum, lengths and quantiles, each against N(0, I)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sigreg.diagnostics import Measured
from sigreg.diagnostics.rows import parts
from sigreg.directions import gaussian
from sigreg.inspect.formats import Unusable, need
from sigreg.univariate import epps_pulley

BLUE, ORANGE, RED, INK, GREY = "#0072B2", "#E69F00", "#D55E00", "#30343c", "#8a8f98"


def worst_slices(z: Tensor, m: Measured) -> list[tuple[str, Tensor]]:
    """Names and slices `(N,)`: the least normal direction, and the largest Epps-Pulley of each kind."""
    A = gaussian(m.D, 256, seed=0, dtype=z.dtype)
    random, units = torch.cat([epps_pulley(z @ a) for a in parts(A, m.N)]), epps_pulley(z)
    i, j = int(random.argmax()), int(units.argmax())
    slices = [(f"coordinate {j}: {_value(float(units[j]))}", z[:, j])]
    slices.append((f"random direction: {_value(float(random[i]))}", z @ A[:, i]))
    if m.direction_z > 0 and m.direction_name != f"coordinate {j}":  # 0: no more than the extreme of many
        x = z @ m.direction.to(z.dtype)
        value = float(epps_pulley(x[:, None]))
        slices.insert(0, (f"{m.direction_name}: {_value(value)}", x))
    return slices


def _value(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def null_spectrum(N: int, D: int, count: int) -> Tensor:
    """Quantiles of Marchenko and Pastur's law: eigenvalues of N samples of N(0, I), largest first.

    With c = D / (N - 1) its density is sqrt((b - l)(l - a)) / (2 pi c l) between a = (1 - sqrt c)^2 and
    b = (1 + sqrt c)^2.
    """
    c = D / (N - 1)
    a, b = (1 - math.sqrt(c)) ** 2, (1 + math.sqrt(c)) ** 2
    angle = (torch.arange(4000, dtype=torch.float64) + 0.5) * (math.pi / 4000)
    eigenvalue = (a + b) / 2 + (b - a) / 2 * angle.cos()  # from b down to a
    density = angle.sin().square() / eigenvalue
    share = density.cumsum(0) / density.sum()
    at = torch.searchsorted(share, (torch.arange(count, dtype=torch.float64) + 0.5) / count)
    return eigenvalue[at.clamp(max=3999)]


def draw(z: Tensor, m: Measured, title: str, path: Path) -> None:
    """Write the picture.

    Raises:
        Unusable: Matplotlib is missing, or the file cannot be written.
    """
    need("matplotlib", "matplotlib", "--plot")
    from matplotlib.figure import Figure

    z = z.double()
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    (top_left, top_right), (low_left, low_right) = figure.subplots(2, 2)
    slices = worst_slices(z, m)
    _slices(top_left, slices)
    _spectrum(top_right, z, m)
    _lengths(low_left, z, m)
    _quantiles(low_right, z, slices)
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(colors=INK)
        ax.legend(frameon=False, fontsize=8.5)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise Unusable(f"{path}: the picture cannot be written ({error})") from None


def _style(i: int) -> dict[str, Any]:
    return {"color": (RED, BLUE, ORANGE)[i], "linewidth": 1.6}


def _slices(ax: Any, slices: list[tuple[str, Tensor]]) -> None:
    everything = torch.cat([x for _, x in slices])
    reach = float(everything.abs().quantile(0.998).clamp(3.0, 12.0)) if len(everything) < 1 << 24 else 5.0
    t = torch.linspace(-reach, reach, 400, dtype=torch.float64)
    ax.fill_between(
        t, torch.exp(-t.square() / 2) / math.sqrt(2 * math.pi), color=GREY, alpha=0.3, label="N(0, 1)"
    )
    for i, (name, x) in enumerate(slices):
        bins = int(min(80, max(12, 2 * len(x) ** 0.4)) * reach / 4)
        ax.hist(
            x.numpy(), bins, range=(-reach, reach), density=True, histtype="step", label=name, **_style(i)
        )
    # a slice without spread is one tall bar, which would leave nothing of the others to see
    ax.set_ylim(0, min(ax.get_ylim()[1], 2.0))
    ax.set_title("Least normal slices (with their Epps-Pulley)", loc="left", fontsize=10.5)
    ax.set(xlabel="projection", ylabel="density")


def _spectrum(ax: Any, z: Tensor, m: Measured) -> None:
    x = z - z.mean(0)
    count = min(m.N - 1, m.D)
    values = torch.linalg.eigvalsh(x @ x.T if m.D > m.N else x.T @ x).flip(0)[:count].clamp(min=0) / (m.N - 1)
    rank = torch.arange(1, count + 1)
    floor = max(1e-12 * float(values[0]), 1e-30)
    mark = "o" if count <= 64 else ""
    ax.plot(
        rank,
        null_spectrum(m.N, m.D, count).clamp(min=1e-4),
        color=GREY,
        linewidth=4,
        alpha=0.5,
        label="N(0, I)",
    )
    ax.plot(rank, values.clamp(min=floor), color=BLUE, marker=mark, markersize=3, label="measured")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(min(max(low, 1e-6 * high), 0.1), max(high, 10))
    title = f"Spectrum: effective rank {m.effective_rank:.1f}, N(0, I) {m.expected_effective_rank:.1f}"
    ax.set_title(title, loc="left", fontsize=10.5)
    ax.set(xlabel="principal direction", ylabel="variance")


def _lengths(ax: Any, z: Tensor, m: Measured) -> None:
    lengths = z.norm(dim=1)
    low, high = lengths.quantile(torch.tensor([0.0, 0.998], dtype=z.dtype)).tolist()
    chi = math.sqrt(m.D)
    low, high = min(low, max(0.0, chi - 3)), max(high, chi + 3)
    r = torch.linspace(max(low, 1e-9), high, 600, dtype=torch.float64)
    log_density = (1 - m.D / 2) * math.log(2) - math.lgamma(m.D / 2) + (m.D - 1) * r.log() - r.square() / 2
    ax.fill_between(r, log_density.exp(), color=GREY, alpha=0.3, label=f"chi, {m.D} degrees of freedom")
    bins = int(min(80, max(12, 2 * m.N**0.4)))
    ax.hist(
        lengths.numpy(), bins, range=(low, high), density=True, histtype="step", label="measured", **_style(1)
    )
    ax.set_ylim(0, min(ax.get_ylim()[1], 5 * float(log_density.exp().max())))
    ax.set_title("Lengths of the rows", loc="left", fontsize=10.5)
    ax.set(xlabel="length", ylabel="density")


def _quantiles(ax: Any, z: Tensor, slices: list[tuple[str, Tensor]]) -> None:
    pooled = z.flatten()
    pooled = pooled[:: max(1, len(pooled) // 100_000)]
    N = len(slices[0][1])
    reach = 3.5
    for i, (name, x) in enumerate([*slices, ("all coordinates", pooled)]):
        u = (torch.arange(len(x), dtype=torch.float64) + 0.5) / len(x)
        keep = torch.linspace(0, len(x) - 1, min(len(x), 400)).long()
        style = _style(i) if i < len(slices) else {"color": INK, "linewidth": 1.0, "linestyle": "--"}
        ax.plot(torch.special.ndtri(u[keep]), x.sort().values[keep], label=name.split(":")[0], **style)
    ax.plot([-reach, reach], [-reach, reach], color=GREY, linewidth=4, alpha=0.5, label="N(0, 1)", zorder=0)
    ax.set_title(f"Quantiles (Q-Q), N = {N:,}", loc="left", fontsize=10.5)
    ax.set(xlabel="quantile of N(0, 1)", ylabel="quantile of the slice", xlim=(-4, 4))

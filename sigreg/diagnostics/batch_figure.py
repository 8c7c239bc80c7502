"""The picture of a `BatchDiagnosis`: spectrum, worst slice and lengths, each beside N(0, I)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from sigreg.diagnostics.batch import BINS, NORM_RANGE, SLICE_RANGE, BatchDiagnosis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, GREY = "#0072B2", "#8a8f98"


def draw(found: BatchDiagnosis, title: str = "") -> Figure:
    """Three panels; the grey lines are those of N(0, I).

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # not pyplot: training scripts have a backend of their own

    m = found.diagnosis.measured
    figure = Figure(figsize=(11, 3.3), layout="constrained")
    findings = ", ".join(finding.name for finding in found.diagnosis.findings) or "healthy"
    figure.suptitle(f"{title}{': ' if title else ''}{findings} (N = {m.N}, D = {m.D})", fontsize=11)
    spectrum, along, lengths = figure.subplots(1, 3)

    spectrum.plot(range(1, m.D + 1), found.spectrum.clamp(min=1e-12), ".-", color=BLUE, ms=4, lw=1)
    spectrum.axhline(1.0, color=GREY, lw=1)
    spectrum.set(yscale="log", xlabel="principal direction", ylabel="variance")
    spectrum.set_title(f"spectrum: effective rank {m.effective_rank:.1f} of {m.D}", fontsize=10)

    x = torch.linspace(-SLICE_RANGE, SLICE_RANGE, 201)
    _bars(along, found.slice_histogram, -SLICE_RANGE, SLICE_RANGE)
    along.plot(x, torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi), color=GREY, lw=1.5)
    along.set(xlabel="projection", ylabel="density")
    along.set_title(f"worst slice: Epps-Pulley {found.worst_value:.3g} (mean {m.value:.3g})", fontsize=10)

    r = torch.linspace(0, NORM_RANGE, 301)[1:]
    scaled = math.sqrt(m.D) * r
    log_chi = (
        (m.D - 1) * scaled.log() - scaled.square() / 2 - (m.D / 2 - 1) * math.log(2) - math.lgamma(m.D / 2)
    )
    _bars(lengths, found.norm_histogram, 0.0, NORM_RANGE)
    lengths.plot(r, log_chi.exp() * math.sqrt(m.D), color=GREY, lw=1.5)
    lengths.set(xlabel="length / sqrt(D)", ylabel="density")
    lengths.set_title(f"lengths: mean {m.norm / math.sqrt(m.D):.3g} sqrt(D)", fontsize=10)
    return figure


def _bars(ax: Any, share: torch.Tensor, low: float, high: float) -> None:
    """A histogram as a density."""
    width = (high - low) / BINS
    edges = torch.linspace(low, high, BINS + 1)
    ax.stairs(share / width, edges, fill=True, color=BLUE, alpha=0.7)

"""How often does `diagnose` name a planted defect, and how often does it accuse N(0, I)?

One defect at a time, planted into samples of N(0, I) at a strength that small samples can miss.  `named` is
the share of draws in which its finding is among those reported; without a defect, the share called healthy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Generator, Tensor
from torch.nn.functional import layer_norm, normalize

from benchmarks import picture
from benchmarks.choices import wilson
from benchmarks.report import markdown
from sigreg.diagnostics import diagnose

measured_code = tuple(
    f"sigreg/diagnostics/{name}.py"
    for name in ("findings", "measured", "null", "rank", "reachable", "rows", "rules")
)

HEALTHY = "none"


def _features(z: Tensor, g: Generator) -> Tensor:
    """Samples of features that have a mean and a scale of their own, transposed: (D, N)."""
    scale, mean = torch.randn(2, z.shape[1], generator=g)
    return (z * (0.2 * scale).exp() + 0.3 * mean).T


def _uneven(z: Tensor, g: Generator) -> Tensor:
    return z * torch.linspace(0.2, 1.8, z.shape[1])


def _walk(z: Tensor, g: Generator) -> Tensor:
    """Time steps with a correlation of 0.8, each N(0, I)."""
    steps = [z[0]]
    for row in z[1:]:
        steps.append(0.8 * steps[-1] + 0.6 * row)
    return torch.stack(steps)


def _heavy(z: Tensor, g: Generator) -> Tensor:
    """Student's t with 5 degrees of freedom, of standard deviation 1."""
    chi = torch.randn(len(z), 5, generator=g).square().sum(1, keepdim=True)
    return z * (5 / chi).sqrt() * (3 / 5) ** 0.5


def _clusters(z: Tensor, g: Generator) -> Tensor:
    """Two groups of equal size, 6 standard deviations apart along a random direction."""
    side = torch.where(torch.rand(len(z), 1, generator=g) < 0.5, 3.0, -3.0)
    return z + side * normalize(torch.randn(z.shape[1], generator=g), dim=0)


def _rank(z: Tensor, g: Generator) -> Tensor:
    """A quarter of the dimensions, at the total variance of N(0, I)."""
    r = max(1, z.shape[1] // 4)
    basis = torch.linalg.qr(torch.randn(z.shape[1], r, generator=g))[0]
    return z[:, :r] @ basis.T * (z.shape[1] / r) ** 0.5


def _binary(z: Tensor, g: Generator) -> Tensor:
    """One coordinate that is -1 or 1."""
    return torch.cat([z[:, :1].sign(), z[:, 1:]], 1)


class Planted(NamedTuple):
    """A defect: what it is, how a sample gets it, and the finding that should name it."""

    what: str
    plant: Callable[[Tensor, Generator], Tensor]
    finding: str


PLANTED = {
    "zero": Planted("all rows 0", lambda z, g: 0 * z, "collapsed"),
    "point": Planted("spread 0.01 about a point", lambda z, g: 0.7 + 0.01 * z, "collapsed"),
    "rank": Planted("rank D / 4", _rank, "dimensionally collapsed"),
    "uneven": Planted("standard deviations 0.2 to 1.8", _uneven, "uneven variance"),
    "small": Planted("standard deviation 0.8", lambda z, g: 0.8 * z, "off scale"),
    "large": Planted("standard deviation 1.25", lambda z, g: 1.25 * z, "off scale"),
    "shifted": Planted("mean 0.25", lambda z, g: z + 0.25, "off centre"),
    "heavy": Planted("Student's t, 5 degrees of freedom", _heavy, "heavy-tailed"),
    "clusters": Planted("two clusters, 6 sd apart", _clusters, "clustered along one direction"),
    "binary": Planted("one binary coordinate", _binary, "clustered along one direction"),
    "unit": Planted("rows of length 1", lambda z, g: normalize(z, dim=1), "unit-norm rows"),
    "layer_norm": Planted("LayerNorm", lambda z, g: layer_norm(z, z.shape[1:]), "LayerNorm-like rows"),
    "transposed": Planted("N samples stored as columns", _features, "samples along the wrong axis"),
    "time": Planted("N time steps, correlation 0.8", _walk, "samples along the wrong axis"),
}


def check(cfg: DictConfig) -> None:
    """A planted defect, or none."""
    if cfg.defect != HEALTHY and cfg.defect not in PLANTED:
        raise ValueError(f"defect={cfg.defect!r} is unknown; use one of {', '.join([HEALTHY, *PLANTED])}")


def measure(cfg: DictConfig) -> dict[str, Any]:
    """The share of draws that are named right, and in which nothing else is named."""
    generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + cfg.N * 1009 + cfg.D)
    planted = PLANTED.get(cfg.defect)
    expected = [planted.finding] if planted else []
    named = alone = 0
    for _ in range(cfg.draws):
        z = torch.randn(cfg.N, cfg.D, generator=generator)
        found = [finding.name for finding in diagnose(planted.plant(z, generator) if planted else z).findings]
        named += set(expected) <= set(found) if planted else not found
        alone += found == expected
    return {"named": named / cfg.draws, "alone": alone / cfg.draws}


def table(frame: pd.DataFrame) -> str:
    """Share called healthy under N(0, I) by N and D; then the share named right by defect and N."""
    null, planted = frame[frame.defect == HEALTHY], frame[frame.defect != HEALTHY]
    parts = []
    if len(null):
        healthy = null.pivot_table(index="D", columns="N", values="named")
        draws = null.pivot_table(index="D", columns="N", values="draws", aggfunc="sum")
        cells = (100 * healthy).round(2).astype("string") + " % of " + draws.astype("Int64").astype("string")
        cells = cells.fillna("")
        cells.columns = [f"N = {N}" for N in cells.columns]
        parts.append(f"N(0, I) called healthy:\n\n{markdown(cells)}")
    for D, rows in planted.groupby("D"):
        shares = (100 * rows.pivot_table(index="defect", columns="N", values="named", sort=False)).round()
        shares = (shares[sorted(shares.columns)].astype("Int64").astype("string") + " %").fillna("")
        shares.columns = [f"N = {N}" for N in shares.columns]
        shares.insert(0, "finding", [PLANTED[d].finding for d in shares.index])
        shares.index = pd.Index([PLANTED[d].what for d in shares.index], name="planted")
        parts.append(f"Among the findings, of {rows.draws.iloc[0]} draws at D = {D}:\n\n{markdown(shares)}")
    return "\n\n".join(parts)


def figure(frame: pd.DataFrame) -> Figure:
    """Power against N, a line for each defect that some sample size misses."""
    planted = frame[frame.defect != HEALTHY]
    fig, axes = picture.panels(
        columns=max(1, planted.D.nunique()),
        title="Planted defects that diagnose names, against the number of rows",
        note=f"Share of n = {planted.draws.max()} draws, Wilson's 95 % interval. Defects that are "
        "named in every draw at every N are left out; the table has them.",
        size=(6.6 * max(1, planted.D.nunique()), 4.8),
        sharey=True,
    )
    least = planted.groupby("defect", sort=False).named.min()
    names = [*least[least < 1].index]  # one colour for a defect in all panels
    handles = {}
    for ax, (D, rows) in zip(axes, planted.groupby("D"), strict=False):
        missed = [d for d, part in rows.groupby("defect", sort=False) if part.named.min() < 1]
        for defect in missed:
            i = names.index(defect)
            own = rows[rows.defect == defect]
            draws = own.groupby("N").draws.sum()
            share = (own.named * own.draws).groupby(own.N).sum() / draws
            low, high = np.transpose([wilson(round(s * n), n) for s, n in zip(share, draws, strict=True)])
            colour = picture.COLOURS[i % len(picture.COLOURS)]
            handles[PLANTED[defect].what] = ax.errorbar(
                share.index * 1.02 ** (i - len(names) / 2),  # so that bars do not cover each other
                100 * share,
                yerr=[100 * (share - low), 100 * (high - share)],
                **{"color": colour, "marker": picture.MARKERS[i % len(picture.MARKERS)]},
                **{"markersize": 5, "capsize": 2, "elinewidth": 0.8},
            )
        picture.log_ticks(ax, rows.N.unique(), base=2)
        picture.label(ax, f"D = {D}", "rows N", "named, % of draws")
    if handles:
        picture.legend(axes[-1], handles=[*handles.values()], labels=[*handles], title="planted")
    return fig

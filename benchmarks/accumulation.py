"""What averaging SIGReg over microbatches changes: the table and the figure of docs/accumulation.md.

    python -m benchmarks.accumulation

z = 0.8 N(0, I) with N = 256 rows and D = 64 columns, as one batch and as the mean over m microbatches of it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks import picture
from benchmarks.report import markdown
from sigreg import SIGReg

PICTURE = Path(__file__).parents[1] / "docs" / "accumulation.png"
N, D, SPREAD = 256, 64, 0.8
MICROBATCHES = (1, 2, 4, 8, 16, 32)
DRAWS = 10


def measured() -> pd.DataFrame:
    """Value and gradient of the mean over m microbatches, for the same embeddings and directions."""
    rows = []
    for draw in range(DRAWS):
        z = SPREAD * torch.randn(N, D, generator=torch.Generator().manual_seed(draw))
        for unbiased in (False, True):
            sigreg = SIGReg(seed=draw, unbiased=unbiased).eval()
            values, gradients = zip(*(_mean_of_parts(sigreg, z, m) for m in MICROBATCHES), strict=True)
            for m, value, gradient in zip(MICROBATCHES, values, gradients, strict=True):
                cosine = torch.nn.functional.cosine_similarity(gradient, gradients[0], dim=0)
                length = gradient.norm() / gradients[0].norm()
                rows.append(
                    {
                        "draw": draw,
                        "unbiased": unbiased,
                        "m": m,
                        "value": float(value),
                        "cosine": float(cosine),
                        "length": float(length),
                    }
                )
    return pd.DataFrame(rows)


def _mean_of_parts(sigreg: SIGReg, z: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The mean of SIGReg over m microbatches, and its gradient in all rows."""
    z = z.clone().requires_grad_()
    value = torch.stack([sigreg(part) for part in z.split(N // m)]).mean()
    value.backward()
    assert z.grad is not None
    return value.detach(), z.grad.flatten()


def table(frame: pd.DataFrame) -> str:
    """A line for each number of microbatches, means over the draws."""
    plain = frame[~frame.unbiased].groupby("m").mean(numeric_only=True)
    lines = pd.DataFrame(
        {
            "microbatches": [f"{m} of {N // m}" for m in plain.index],
            "mean of SIGReg": [f"{v:.2f}" for v in plain.value],
            "length of its gradient, relative to that of the batch": [f"{v:.2f}" for v in plain.length],
            "cosine to the gradient of the batch": [f"{v:.2f}" for v in plain.cosine],
        }
    )
    return markdown(lines.set_index("microbatches"))


def figure(frame: pd.DataFrame) -> Figure:
    """Both panels: the value, and the direction of the gradient."""
    fig, (upper, lower) = picture.panels(
        2,
        1,
        title="SIGReg averaged over microbatches",
        note=f"z = {SPREAD} N(0, I), N = {N}, D = {D}, 1024 slices; mean ± sd over {frame.draw.nunique()} "
        "draws. The gradient is that in z.",
    )
    names = {False: ("SIGReg", picture.BLUE), True: ("unbiased", picture.ORANGE)}
    for ax, column in ((upper, "value"), (lower, "cosine")):
        ends = []
        for unbiased, rows in frame.groupby("unbiased"):
            name, colour = names[bool(unbiased)]
            end = picture.curve(ax, rows, "m", column, colour=colour, scale=1.0, dashed=bool(unbiased))
            ends.append((*end, name, colour))
        picture.log_ticks(ax, MICROBATCHES, base=2)
        ax.set_ylim(bottom=0)
        picture.name_ends(ax, ends)
    picture.label(upper, "The distance from a Gaussian is divided by m", "microbatches m", "mean of SIGReg")
    picture.label(lower, "The gradient has another direction", "microbatches m", "cosine to the batch's")
    return fig


if __name__ == "__main__":
    found = measured()
    figure(found).savefig(PICTURE, dpi=120, bbox_inches="tight", metadata={"Software": None})
    print(table(found))

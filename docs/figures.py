"""The figures of "What SIGReg is", "Reading the loss curve" and "Lightning".

`python docs/figures.py` writes docs/figures/*.png in about a minute on one core.  Everything that is drawn is
computed by the library itself.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sigreg import LeJEPALoss, SIGReg
from sigreg.diagnostics import diagnose_batch
from sigreg.diagnostics.batch_figure import draw as draw_diagnosis
from sigreg.directions import gaussian
from sigreg.functional import sigreg
from sigreg.univariate import epps_pulley

FOLDER = Path(__file__).parent / "figures"
WIDTH = 5.6  # inches: panels below one another, whose text is large enough on a phone
BLUE, RED, INK, GREY = "#3366aa", "#cc4433", "#30343c", "#b8bcc4"
STYLE = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "figure.dpi": 130,
}


def clusters(N: int) -> Tensor:
    """Embeddings that are not Gaussian: three small clusters and a line, in the plane."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[-1.6, 1.4], [1.8, 1.6], [0.2, -1.8]])
    points = centers[torch.arange(N) % 3] + 0.25 * torch.randn(N, 2, generator=generator)
    line = torch.arange(N) % 4 == 0
    points[line] = torch.linspace(-2.2, 2.2, int(line.sum()))[:, None] * torch.tensor([1.0, 0.25])
    return points


def slice_() -> Figure:
    """One direction, and what is left of the embeddings along it."""
    z, angle = clusters(300), math.radians(40)
    a = torch.tensor([math.cos(angle), math.sin(angle)])
    x = z @ a
    figure, (plane, line) = plt.subplots(
        2, 1, figsize=(WIDTH, 8.2), layout="constrained", height_ratios=(3, 2)
    )
    plane.scatter(*z.T, s=8, color=BLUE)
    for point, along in zip(z[::11], x[::11], strict=True):
        foot = along * a
        plane.plot([point[0], foot[0]], [point[1], foot[1]], color=GREY, linewidth=0.7, zorder=0)
    plane.plot(*(torch.tensor([[-3.6], [3.6]]) * a).T, color=RED)
    plane.annotate("direction $a$", -3.1 * a + torch.tensor([0.25, -0.3]), color=RED)
    plane.set(title="Embeddings $z$ and one direction", aspect="equal", xlim=(-3.4, 3.4), ylim=(-2.9, 2.9))
    line.hist(x, 40, range=(-4, 4), density=True, color=RED, alpha=0.5, label="slice $x = z \\cdot a$")
    grid = torch.linspace(-4, 4, 200)
    line.plot(grid, torch.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi), color=INK, label="N(0, 1)")
    line.set(title="The slice: one number for each sample", yticks=[], ylim=(0, 0.75))
    line.legend(loc="upper right")
    return figure


def characteristic() -> Figure:
    """The slice's empirical characteristic function beside that of N(0, 1)."""
    x = clusters(300) @ torch.tensor([math.cos(math.radians(40)), math.sin(math.radians(40))])
    healthy = torch.randn(300, generator=torch.Generator().manual_seed(1))
    t = torch.linspace(0, 4, 200)
    phi = torch.exp(-(t**2) / 2)
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 7), layout="constrained", sharex=True, sharey=True)
    for axis, sample, name in ((axes[0], x, "The slice above"), (axes[1], healthy, "300 samples of N(0, 1)")):
        ecf = torch.exp(1j * t[:, None] * sample).mean(1)
        distance = (ecf - phi).abs()
        axis.plot(t, ecf.real, color=RED, label="real part of the ECF")
        axis.plot(t, ecf.imag, color=RED, linestyle=":", label="imaginary part")
        axis.plot(t, phi, color=INK, label="$\\varphi(t) = e^{-t^2/2}$")
        axis.fill_between(t, distance**2 * phi, color=BLUE, alpha=0.5, label="squared distance, weighted")
        axis.axvline(3, color=GREY, linewidth=1)
        value = float(epps_pulley(sample[:, None]))
        axis.set_title(f"{name}: Epps-Pulley {value:.1f}")
    axes[1].set_xlabel("$t$")
    axes[1].legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none")
    return figure


def field() -> Figure:
    """Points that follow the negative gradient of SIGReg, and that gradient everywhere."""
    z = clusters(240)
    A = torch.stack([gaussian(2, 64, step=s) for s in range(8)])
    side = torch.linspace(-3.6, 3.6, 17)
    probes = torch.cartesian_prod(side, side)
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, WIDTH + 0.3), layout="constrained")
    stops = (0, 50, 150, 1000)
    for step in range(max(stops) + 1):
        if step in stops:
            axis = axes.flat[stops.index(step)]
            value = float(sigreg(z, gaussian(2, 1024)))
            _arrows(axis, z, probes)
            axis.set_title(f"step {step}: SIGReg {value:.1f}")
        z = z - 0.02 * torch.func.grad(sigreg)(z, A[step % len(A)])
    return figure


def _arrows(axis: Axes, z: Tensor, probes: Tensor) -> None:
    """The pull on a sample at each probe: probes weigh so little that they do not move the others."""
    tiny = 1e-4
    weights = torch.cat([torch.ones(len(z)), torch.full((len(probes),), tiny)])
    both = torch.cat([z, probes])
    pull = -torch.func.grad(sigreg)(both, gaussian(2, 1024), weights=weights)[len(z) :] / tiny
    for radius in (1, 2):
        axis.add_patch(plt.Circle((0, 0), radius, fill=False, color=GREY, linestyle="--"))
    axis.quiver(*probes.T, *pull.T, color=RED, alpha=0.6, angles="xy", scale=10, width=0.004)
    axis.scatter(*z.T, s=5, color=BLUE)
    axis.set(aspect="equal", xlim=(-3.9, 3.9), ylim=(-3.9, 3.9), xticks=[], yticks=[])


def trained(lambda_param: float, steps: int, N: int = 256) -> tuple[list[float], Tensor]:
    """SIGReg during the training of a small network on digits, and the last embeddings `(2, N, 32)`."""
    from integrations.torchrun.train import encoder, images, views

    data, model, generator = images(), encoder(32), torch.Generator().manual_seed(1)
    criterion = LeJEPALoss(lambda_param, SIGReg(num_slices=256))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    values = []
    for _ in range(steps):
        batch = views(data[torch.randint(len(data), (N,), generator=generator)], generator)[:2]
        z = model(batch.flatten(0, 1)).unflatten(0, batch.shape[:2])
        loss, _, value = criterion.components(z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(value.detach()))
    return values, z.detach()


def loss_curves(steps: int = 400) -> Figure:
    """SIGReg of a small network on digits: trained with it, without it, and with far too little of it."""
    N = 256
    figure, axis = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
    for lambda_param, color in ((0.05, BLUE), (0.001, INK), (0.0, RED)):
        values, _ = trained(lambda_param, steps, N)
        axis.plot(values, color=color, label=f"{lambda_param:g}", linewidth=1.2)
    axis.axhline(1.05, color=GREY, linestyle="--")
    axis.axhline(0.40205 * N, color=GREY, linestyle="--")
    axis.annotate("N(0, I): 1.05", (steps, 1.05), va="bottom", ha="right")
    axis.annotate(f"all at 0: 0.40205 N = {0.40205 * N:.1f}", (steps, 0.38 * N), va="top", ha="right")
    axis.set(yscale="log", xlabel="step", ylabel="SIGReg", ylim=(0.7, 900))
    axis.set_title(f"SIGReg falls where lambda is large enough\n(one run each, N = {N}, D = 32)")
    axis.legend(loc="upper right", ncols=3, title="lambda")
    return figure


def monitor() -> Figure:
    """What GaussianityMonitor shows of that network after 200 steps."""
    _, z = trained(0.05, 200)
    figure = draw_diagnosis(diagnose_batch([(z, None)]), "criterion at step 200")
    for axis in figure.axes:
        axis.lines[-1].set_label("N(0, I)")
        axis.legend(loc="upper right", fontsize=9, handlelength=1.2)
    return figure


FIGURES = {"slice": slice_, "characteristic": characteristic, "field": field}
FIGURES |= {"loss_curves": loss_curves, "monitor": monitor}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with plt.rc_context(STYLE):
        for name, draw in FIGURES.items():
            figure = draw()
            figure.savefig(FOLDER / f"{name}.png", metadata={"Software": None})
            plt.close(figure)
            print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()

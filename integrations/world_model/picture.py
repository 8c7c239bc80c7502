"""The recipe's picture: what is seen, collapse, decoding, roll-outs, the goal's neighbourhood, planning."""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from integrations.world_model import planning, probes, world
from integrations.world_model.model import WorldModel, embed
from integrations.world_model.study import VARIANTS, Setting

GREY, INK, BLUE, RED, PALE = "#9aa0a8", "#30343c", "#0072B2", "#D55E00", "#c9ccd2"
COLOURS = {"sigreg": BLUE, "without": RED, "untrained": GREY, "reference": INK}
Results = dict[str, dict[str, Any]]


def draw(results: Results, model: WorldModel, setting: Setting) -> Figure:
    """Six panels; `results` by variant, `model` the one with SIGReg."""
    style = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "legend.frameon": False,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(2, 3, figsize=(15, 9), layout="constrained")
        _frames(axes[0, 0], setting)
        _collapse(axes[0, 1], results)
        _decoding(axes[0, 2], results, setting)
        _rollouts(axes[1, 0], results)
        _distances(axes[1, 1], model, setting)
        _success(axes[1, 2], results, len(setting.todo.goal))
        figure.suptitle(
            "A world model from pixels: encoder and predictor, trained by prediction and SIGReg alone",
            fontsize=13,
            x=0.01,
            ha="left",
        )
    return figure


def _frames(axis: Axes, setting: Setting) -> None:
    """Four frames of the held-out episode whose agent gets farthest, with gaps between them."""
    positions = setting.held_out.positions
    episode = int((positions[:, -1] - positions[:, 0]).norm(dim=1).argmax())
    times = [t * (setting.training.length - 1) // 3 for t in range(4)]
    shown = [setting.held_out.frames[episode, t, 0] for t in times]
    frames = [torch.nn.functional.pad(frame, (1, 1, 1, 1), value=torch.nan) for frame in shown]
    image = torch.cat([torch.cat(frames[:2], dim=1), torch.cat(frames[2:], dim=1)])
    axis.imshow(image.numpy(), cmap="gray_r", vmin=-0.2, vmax=1.2)
    for i, t in enumerate(times):
        column, row = (world.SIZE + 2) * (i % 2), (world.SIZE + 2) * (i // 2)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axis.text(column + 1.5, row + 32, f"step {t}", color=BLUE, weight="bold", fontsize=9, bbox=box)
    axis.set_title("What it sees: walls and the agent")
    axis.axis("off")


def _collapse(axis: Axes, results: Results) -> None:
    for variant in ("sigreg", "without"):
        log = results[variant]
        axis.plot(log["curve_step"], log["curve_sd"], color=COLOURS[variant], label=VARIANTS[variant])
    axis.axhline(1.0, color=GREY, linestyle=":", label="N(0, I)")
    axis.set(title="Without SIGReg it collapses", yscale="log")
    axis.set(xlabel="training step", ylabel="standard deviation of the embeddings")
    axis.legend()


def _decoding(axis: Axes, results: Results, setting: Setting) -> None:
    shown = {
        "pixels\n1,024": ("reference", ""),
        "untrained\n1,024": ("untrained", "_convolved"),
        "untrained\n16": ("untrained", ""),
        "without\nSIGReg\n16": ("without", ""),
        "with\nSIGReg\n16": ("sigreg", ""),
    }
    many = setting.episodes.positions[:, :: probes.EVERY, 0].numel()
    for i, (key, number) in enumerate((("r2", many), ("r2_few", probes.FEW))):
        values = [results[variant][key + end] for variant, end in shown.values()]
        colours = [COLOURS[variant] for variant, _ in shown.values()]
        at = np.arange(len(shown)) + 0.4 * i - 0.2
        bars = axis.bar(at, np.maximum(values, 0), 0.38, color=colours, alpha=1.0 if i == 0 else 0.5)
        axis.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=8.5)
        axis.plot([], [], "s", color=INK, alpha=1.0 if i == 0 else 0.5, label=f"{number:,} labelled frames")
    axis.set_xticks(range(len(shown)), list(shown))
    axis.set(title="Position by a linear probe, new episodes", ylabel="R²", ylim=(0, 1.25))
    axis.set_xlabel("features, and their number")
    axis.legend(loc="upper left", ncols=2, fontsize=9)


def _rollouts(axis: Axes, results: Results) -> None:
    h = np.arange(1, len(results["sigreg"]["rollout_position"]) + 1)
    for variant in ("untrained", "without", "sigreg"):
        axis.plot(
            h, results[variant]["rollout_position"], "o-", color=COLOURS[variant], label=VARIANTS[variant]
        )
    axis.plot(h, results["sigreg"]["rollout_still"], "--", color=BLUE, label="with SIGReg, first frame kept")
    axis.plot(h, results["sigreg"]["rollout_seen"], ":", color=BLUE, label="with SIGReg, true frame")
    axis.set(title="Predicting ahead from one frame", ylim=(0, 0.95))
    axis.set(xlabel="steps ahead", ylabel="error of the position, room widths")
    axis.legend(fontsize=9, loc="upper left")


def _distances(axis: Axes, model: WorldModel, setting: Setting) -> None:
    """Distance to a goal in the embedding, and the paths of the first task behind a wall."""
    first = int(setting.todo.behind.nonzero()[0])
    todo = planning.Tasks(*(part[first : first + 1] for part in setting.todo))
    at = torch.linspace(world.RADIUS, 1 - world.RADIUS, 60)
    grid = torch.stack([at.expand(60, 60), at[:, None].expand(60, 60)], dim=-1)  # (60, 60, 2)
    z, goal = embed(model, world.drawing(grid)), embed(model, world.drawing(todo.goal)[:, None])[0]
    distance = (z - goal).norm(dim=-1).masked_fill(~world.free(grid), torch.nan)
    shown = axis.imshow(distance.numpy(), extent=(0, 1, 1, 0), cmap="YlGnBu_r")
    axis.figure.colorbar(shown, ax=axis, label="distance to the goal in the embedding", shrink=0.85)
    for x0, y0, x1, y1 in world.WALLS.tolist():
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, color=INK))
    closest = planning.in_embeddings(model, todo.goal, setting.training.noise, setting.training.seed)
    for colour, policy, name in ((PALE, None, "random policy"), (RED, closest, "planned")):
        path = planning.paths(todo, policy, setting.training.seed)[0]
        near = ((path - todo.goal).norm(dim=1) < planning.WITHIN).nonzero()
        x, y = path[: int(near[0]) + 1 if len(near) else None].T  # up to the goal
        axis.plot(x, y, ".-", color=colour, linewidth=1.5, label=name)
    axis.add_patch(Circle(todo.goal[0].tolist(), planning.WITHIN, fill=False, color=INK, linewidth=1.5))
    x, y = todo.goal[0].tolist()
    axis.text(x, y + planning.WITHIN + 0.04, "goal", ha="center", va="center", fontsize=9)
    axis.set(title="Distance to a goal, and the way there", xticks=[], yticks=[])
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2)


def _success(axis: Axes, results: Results, number: int) -> None:
    rates = {
        "random policy": ("reference", "success"),
        "untrained": ("untrained", "success"),
        "without SIGReg": ("without", "success"),
        "with SIGReg": ("sigreg", "success"),
        "true world": ("reference", "truth"),
    }
    for i, (variant, key) in enumerate(rates.values()):
        rate = results[variant][key]
        low, high = planning.interval(rate, number)
        axis.bar(i, 100 * rate, color=COLOURS[variant], width=0.7)
        error = [[100 * (rate - low)], [100 * (high - rate)]]
        axis.errorbar(i, 100 * rate, error, color="black", capsize=3, linewidth=1)
        axis.text(i, 100 * high + 1.5, f"{100 * rate:.1f}", ha="center")
    axis.set_xticks(range(len(rates)), [name.replace(" ", "\n", 1) for name in rates])
    axis.set(title=f"Goals reached in {planning.STEPS} steps, {number} tasks", ylim=(0, 105))
    axis.set_ylabel("success, % (95 % interval)")

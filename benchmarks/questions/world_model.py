"""Does SIGReg alone make a world model from pixels that one can plan with?

`variant` is one of those of `integrations.world_model.study`: trained with SIGReg, without, untrained, or the
references (pixels, random policy, planner in the true world).  Data, initialisation and planning tasks of one
seed are the same for all.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from benchmarks import picture
from benchmarks.report import markdown, spread
from benchmarks.rows import numbers
from integrations.world_model import planning, study
from integrations.world_model.model import Settings

measured_code = (
    *(f"integrations/world_model/{name}.py" for name in ("world", "model", "probes", "planning", "study")),
    "sigreg/next_embedding.py",
)
COLOURS = dict(zip(study.VARIANTS, (picture.BLUE, picture.RED, picture.GREY, picture.INK), strict=True))


def check(cfg: DictConfig) -> None:
    """Raises ValueError for a variant that is not there."""
    if cfg.variant not in study.VARIANTS:
        raise ValueError(f"variant={cfg.variant!r} is unknown; use one of {', '.join(study.VARIANTS)}")


def measure(cfg: DictConfig) -> dict[str, Any]:
    """One variant at one seed; curves are lists."""
    training = Settings(**{field.name: cfg[field.name] for field in fields(Settings)})
    found, _ = study.run(cfg.variant, study.prepare(training, cfg.held_out, cfg.tasks))
    return {
        key: [round(v, 4) for v in value] if isinstance(value, list) else value
        for key, value in found.items()
    }


def table(frame: pd.DataFrame) -> str:
    """Embeddings and position, then planning, then the error by horizon; for each noise.

    R^2 is a median with its range: one seed may find the position and another not.
    """
    parts = []
    for noise, rows in frame.groupby("noise"):
        parts += [f"Noise of standard deviation {noise:g} in every pixel:", markdown(_embeddings(rows))]
        parts += [
            markdown(_planning(rows)),
            "Mean distance, in room widths, from the agent to where the probe",
        ]
        parts[-1] += " reads it, h steps after the first frame:"
        parts += [markdown(_horizons(rows))]
    return "\n\n".join(parts)


def _embeddings(frame: pd.DataFrame) -> pd.DataFrame:
    lines = {}
    for variant, rows in _variants(frame):
        pixels = variant == "reference"
        name = "pixels (1,024)" if pixels else f"{study.VARIANTS[variant]}: embedding (16)"
        lines[name] = {
            "sd of an embedding": "" if pixels else spread(rows.sd, percent=False),
            "effective rank": "" if pixels else spread(rows.effective_rank, percent=False),
            "R^2 of the position, median [range]": _range(rows.r2),
            "R^2, 100 labels, median [range]": _range(rows.r2_few),
        }
        if not pixels:
            lines[f"{study.VARIANTS[variant]}: before the head (1,024)"] = {
                "R^2 of the position, median [range]": _range(rows.r2_convolved),
                "R^2, 100 labels, median [range]": _range(rows.r2_few_convolved),
            }
    return pd.DataFrame.from_dict(lines, orient="index").fillna("").rename_axis("features")


def _range(values: pd.Series) -> str:
    """`0.85 [0.75, 0.92] (n = 10)`: the median, the lowest and the highest."""
    low, mid, high = values.quantile([0, 0.5, 1])
    return f"{mid:.2f} [{low:.2f}, {high:.2f}] (n = {len(values)})"


def policies(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each way to act, with its rates under the names of the others."""
    found = {f"planning, {study.VARIANTS[variant]}": rows for variant, rows in _variants(frame)}
    if (random := found.pop(f"planning, {study.VARIANTS['reference']}", None)) is not None:
        names = {f"truth{part}": f"success{part}" for part in ("", "_free", "_behind")}
        found["random policy"] = random
        found["planning in the true world"] = random.drop(columns=list(names.values())).rename(columns=names)
    return found


def _planning(frame: pd.DataFrame) -> pd.DataFrame:
    lines = {}
    for name, rows in policies(frame).items():
        number = int(rows.tasks.sum())
        low, high = planning.interval(float(np.average(rows.success, weights=rows.tasks)), number)
        lines[name] = {
            "success, %": spread(rows.success),
            "95 % interval, all tasks": f"[{100 * low:.1f}, {100 * high:.1f}] of {number}",
            "free line": spread(rows.success_free),
            "behind a wall": spread(rows.success_behind),
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("policy")


def _horizons(frame: pd.DataFrame) -> pd.DataFrame:
    lines = {}
    for variant, rows in _variants(frame):
        if variant != "reference":
            for kind, said in (("position", "prediction"), ("seen", "true frame"), ("still", "first frame")):
                means = _curve(rows, f"rollout_{kind}")
                shown = [h for h in (1, 2, 4, 8, 15) if h <= len(means)]
                lines[f"{study.VARIANTS[variant]}: {said}"] = {f"h={h}": float(means[h - 1]) for h in shown}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("embedding of")


def _variants(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    groups = [(variant, frame[frame.variant == variant]) for variant in study.VARIANTS]
    return [(variant, rows) for variant, rows in groups if len(rows)]


def _curve(rows: pd.DataFrame, column: str) -> np.ndarray:
    """The mean over seeds of a list that a cell holds."""
    return np.mean([numbers(cell) for cell in rows[column]], axis=0)


def figure(frame: pd.DataFrame) -> Figure:
    """R^2, error by horizon, success rates; a row for each noise."""
    noises = sorted(frame.noise.unique())
    note = f"{frame.seed.nunique()} seeds; points and thin lines are seeds, bars and thick lines their mean. "
    note += f"{int(frame.tasks.iloc[0])} planning tasks a seed; success is to come within {planning.WITHIN} "
    note += f"room widths of the goal in {planning.STEPS} steps. Noise: standard deviation in every pixel."
    if len(noises) > 1:
        note += " A row holds the runs at one noise."
    title = "A world model from pixels: what SIGReg changes"
    size = (15, 4.2 * len(noises) + 0.4)
    fig, axes = picture.panels(len(noises), 3, title=title, note=note, size=size)
    ends = []
    for i, noise in enumerate(noises):
        decoding, ahead, success = axes[3 * i : 3 * i + 3]
        rows = frame[frame.noise == noise]
        own = {"pixels" if v == "reference" else study.VARIANTS[v]: part.r2 for v, part in _variants(rows)}
        _bars(decoding, own)
        decoding.set_xlim(min(0.0, rows.r2.min() - 0.02), 1)
        title = f"Noise {noise:g}: the position by a linear probe"
        picture.label(decoding, title, "R^2 on held-out episodes", "")
        ends.append(_ahead(ahead, rows))
        picture.label(ahead, "Position read from predictions", "steps ahead", "mean error, room widths")
        _bars(success, {name: 100 * part.success for name, part in policies(rows).items()})
        success.set_xlim(0, 100)
        picture.label(success, "Reaching a goal that is shown as a frame", "success, %", "")
    picture.same_height(axes[1::3])
    for ax, found in zip(axes[1::3], ends, strict=True):
        picture.plain_log(ax.yaxis)
        picture.name_ends(ax, found, gap=0.09)
    return fig


def _ahead(ax: Any, rows: pd.DataFrame) -> list[tuple[float, float, str, str]]:
    """The error of the position against the horizon, and that of the first frame's position, kept."""
    ends = []
    lines = [("rollout_position", "o-", variant, study.VARIANTS[variant]) for variant in study.VARIANTS]
    lines.append(("rollout_still", "--", "sigreg", "position of the\nfirst frame kept"))
    for column, style, variant, name in lines:
        own = rows[rows.variant == variant]
        if variant == "reference" or own.empty:
            continue
        seeds = np.stack([numbers(cell) for cell in own[column]])
        h = np.arange(1, seeds.shape[1] + 1)
        ax.plot(h, seeds.T, style.lstrip("o"), color=COLOURS[variant], linewidth=0.6, alpha=0.6)
        ax.plot(h, seeds.mean(0), style, color=COLOURS[variant])
        ends.append((float(h[-1]), float(seeds.mean(0)[-1]), name, COLOURS[variant]))
    ax.set_yscale("log")
    ax.set_xticks([1, 5, 10, 15])
    return ends


def _bars(ax: Any, values: dict[str, pd.Series]) -> None:
    names = list(values)[::-1]
    for at, name in enumerate(names):
        colour = next((c for v, c in COLOURS.items() if study.VARIANTS[v] in name), picture.INK)
        ax.barh(at, max(values[name].mean(), 0), color=colour, alpha=0.75)
        ax.plot(values[name], np.full(len(values[name]), at), "o", color=picture.INK, markersize=4)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(min(0, len(names) - 4) - 0.6, len(names) - 0.4)
    ax.grid(axis="y", visible=False)

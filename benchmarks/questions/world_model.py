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
    """Embeddings and position, then planning, then the error by horizon; for each noise."""
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
            "R^2 of the position": spread(rows.r2, percent=False),
            "R^2, 100 labels": spread(rows.r2_few, percent=False),
        }
        if not pixels:
            lines[f"{study.VARIANTS[variant]}: before the head (1,024)"] = {
                "R^2 of the position": spread(rows.r2_convolved, percent=False),
                "R^2, 100 labels": spread(rows.r2_few_convolved, percent=False),
            }
    return pd.DataFrame.from_dict(lines, orient="index").fillna("").rename_axis("features")


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
    """R^2, error by horizon, success rates, at the least noise."""
    frame = frame[frame.noise == frame.noise.min()]
    note = f"{frame.seed.nunique()} seeds; points are seeds, bars their mean. {int(frame.tasks.iloc[0])} "
    note += f"planning tasks a seed; success is to come within {planning.WITHIN} room widths of the goal in "
    note += f"{planning.STEPS} steps."
    title = "A world model from pixels: what SIGReg changes"
    fig, axes = picture.panels(1, 3, title=title, note=note, size=(15, 4.6))
    decoding = {"pixels" if v == "reference" else study.VARIANTS[v]: rows.r2 for v, rows in _variants(frame)}
    _bars(axes[0], decoding)
    picture.label(axes[0], "The position is linear in the embedding", "R^2 on held-out episodes", "")
    ends = []
    for variant, rows in _variants(frame):
        if variant != "reference":
            errors = _curve(rows, "rollout_position")
            h = np.arange(1, len(errors) + 1)
            axes[1].plot(h, errors, marker="o", color=COLOURS[variant])
            ends.append((h[-1], errors[-1], study.VARIANTS[variant], COLOURS[variant]))
            if variant == "sigreg":
                still = _curve(rows, "rollout_still")
                axes[1].plot(h, still, "--", color=picture.BLUE)
                ends.append((h[-1], still[-1], "first frame, as it is", picture.BLUE))
    axes[1].set_ylim(0, 0.6)
    axes[1].set_xticks([1, 5, 10, 15])
    picture.label(axes[1], "Position read from predictions", "steps ahead", "mean error, room widths")
    picture.name_ends(axes[1], [(x, min(y, 0.6), name, colour) for x, y, name, colour in ends])
    _bars(axes[2], {name: 100 * rows.success for name, rows in policies(frame).items()})
    picture.label(axes[2], "Reaching a goal that is shown as a frame", "success, %", "")
    return fig


def _bars(ax: Any, values: dict[str, pd.Series]) -> None:
    names = list(values)[::-1]
    for at, name in enumerate(names):
        colour = next((c for v, c in COLOURS.items() if study.VARIANTS[v] in name), picture.INK)
        ax.barh(at, max(values[name].mean(), 0), color=colour, alpha=0.75)
        ax.plot(values[name], np.full(len(values[name]), at), "o", color=picture.INK, markersize=4)
    ax.set_yticks(range(len(names)), names)
    ax.grid(axis="y", visible=False)

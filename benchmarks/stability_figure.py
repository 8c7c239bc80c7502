"""The table and the figure of the question `stability`: which runs fail, and what is lost with each part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import accuracy, picture
from benchmarks.choices import wilson
from benchmarks.host_figures import LOOKS
from benchmarks.report import markdown
from benchmarks.rows import numbers

REMOVABLE: dict[str, tuple[str, ...]] = {
    "lejepa": ("sigreg",),
    "byol": ("predictor", "teacher", "stop_gradient"),
    "simsiam": ("predictor", "stop_gradient"),
    "dino": ("teacher", "centring"),
}
End = tuple[float, float, str, str]  # of a line: x, y, its name and colour
CELL = ["lr", "depth", "width", "norm", "seed"]
HUES = {method: LOOKS[method][1] for method in REMOVABLE}  # as in the figures of `hosts`
SHOWN = {"lejepa": "LeJEPA", "byol": "BYOL", "simsiam": "SimSiam", "dino": "DINO"}
WORDS = {"stop_gradient": "stop-gradient", "sigreg": "SIGReg", "teacher": "averaged teacher"}
PARTS = ((picture.INK, "--"), (picture.BROWN, "-."), (picture.PINK, ":"))  # without the first, second, third


def _said(part: str) -> str:
    return f"without {WORDS.get(part, part)}"


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """With booleans as such, and a name for each method with what it lacks."""
    found = frame.copy()
    for key in ("diverged", "collapsed"):
        found[key] = found[key].astype(str) == "True"
    found["failed"] = found.diverged | found.collapsed
    part = ["" if pd.isna(value) else f" {_said(str(value))}" for value in found["without"]]
    found["variant"] = [SHOWN[name] + text for name, text in zip(found.method, part, strict=True)]
    return found


def order(found: pd.DataFrame) -> list[str]:
    """The methods in rows, each followed by what it is without its parts."""
    ordered = [
        SHOWN[name] + (f" {_said(part)}" if part else "")
        for name, parts in REMOVABLE.items()
        for part in ("", *parts)
    ]
    return [name for name in ordered if name in set(found.variant)]


def matched(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of the learning rates, encoders and seeds that every method ran whole and without each part.

    All rows where there are none.
    """
    cells = found[CELL].apply(tuple, axis=1)
    common = set.intersection(*(set(own) for _, own in cells.groupby(found.variant)))
    return found[cells.isin(common)] if common else found


def table(frame: pd.DataFrame) -> str:
    """All encoders together, then by learning rate, then by norm."""
    found = named(frame)
    lines = {}
    for name in order(found):
        own = found[found.variant == name]
        alive = own[~own.diverged]
        lines[name] = {
            "runs": len(own),
            "diverged, %": round(100 * own.diverged.mean()),
            "collapsed, %": round(100 * own.collapsed.mean()),
            "rank of embeddings, median": round(alive.embedding_rank.median(), 1),
            "rank of features, median": round(alive.effective_rank.median(), 1),
            "k-NN, median": round(100 * alive.knn.median(), 1),
            "k-NN, best": round(100 * alive.knn.max(), 1),
            "roughness of the loss, median": round(alive.roughness.median(), 2),
        }
    parts = [markdown(pd.DataFrame.from_dict(lines, orient="index").rename_axis("method"))]
    for key in ("lr", "norm", "depth", "width"):
        if found[key].nunique() > 1:
            shares = 100 * found.astype({"failed": float}).pivot_table("failed", "variant", key)
            shares = shares.round(0).reindex(order(found)).rename_axis("method")
            shares.columns = [f"{key}={value}" for value in shares.columns]
            parts += [f"Diverged or collapsed, %, by {key}:", markdown(shares)]
    return "\n\n".join(parts)


def draw(frame: pd.DataFrame, rank: float, spread: float) -> Figure:
    """Above, whole methods, and parts removed; below, accuracy and rank without each part, by method."""
    found = named(frame)
    whole, common = found[found["without"].isna()], matched(found)
    usual = whole[(whole.depth == whole.depth.mode()[0]) & (whole.width == whole.width.mode()[0])]
    with mpl.rc_context(picture.STYLE):
        fig = Figure(figsize=(17, 12), layout="constrained")
        upper, lower = fig.subfigures(2, 1, height_ratios=(1, 1.7))
        axes = list(upper.subplots(1, 3))
        accuracies, ranks = lower.subplots(2, 4)
    picture.heading(
        fig, "Which runs fail, and what is lost with each part", _note(found, common, rank, spread)
    )
    _failures(axes[0], whole, "Whole methods: runs that failed")
    ends = []
    for method in [method for method in SHOWN if method in set(usual.method)]:
        own = usual[usual.method == method]
        own = own.assign(knn=own.knn.where(~own.diverged, 0.0))
        end = picture.curve(axes[1], own, "lr", "knn", colour=HUES[method])
        ends.append((*end, SHOWN[method], HUES[method]))
    picture.log_ticks(axes[1], usual.lr.unique())
    picture.label(axes[1], "Whole methods: accuracy", "learning rate of AdamW", "k-NN on test images, %")
    pixels = _pixels(frame)
    picture.name_ends(axes[1], [*ends, *picture.baselines(axes[1], pixels)])
    _failures(axes[2], common, "Parts removed: runs that failed")
    for row, draw_one in ((accuracies, _accuracy), (ranks, _ranks)):
        at = pixels if draw_one is _accuracy else {}
        found_ends = [draw_one(ax, common[common.method == m], m) for m, ax in zip(SHOWN, row, strict=True)]
        picture.same_height(row)
        for ax, own_ends in zip(row, found_ends, strict=True):
            if ax.get_yscale() == "log":
                picture.plain_log(ax.yaxis)
            picture.name_ends(ax, [*own_ends, *picture.baselines(ax, at)])
    for ax in (axes[1], *accuracies, *ranks):
        ax.grid(axis="y", color=picture.PALE, linewidth=0.6)
    return fig


def _note(found: pd.DataFrame, common: pd.DataFrame, rank: float, spread: float) -> str:
    number = common.groupby("variant").size().max()
    norms = ", ".join(sorted(common.norm.unique()))
    return (
        f"{accuracy.data_of(found)}. Failed: diverged, or collapsed to embeddings of effective rank below "
        f"{rank} or spread below {spread}; bars: Wilson's 95 % intervals. Whole methods: "
        f"{found.depth.nunique()} depths, {found.width.nunique()} widths, {found.norm.nunique()} norms, "
        f"{found.seed.nunique()} seeds"
        "; accuracy at the usual depth and width, mean and sd, 0 for a run that diverged. Parts removed, and "
        "both rows below: only the learning rates, encoders and seeds that every line has (at most "
        f"{number} runs a line, {common.lr.nunique()} learning rates, norms {norms}{_others(found, common)})"
        "; accuracy: mean and range over norms; rank: geometric mean and range over runs. "
        "Dotted: raw pixels, in `indomain`."
    )


def _others(found: pd.DataFrame, common: pd.DataFrame) -> str:
    """What failed of methods without a part with encoders that not every line has: those are in the table."""
    parts = found[found["without"].notna()]
    said = [
        f"; {name}: {own.failed.sum()} of all {len(own)} runs failed, which the table counts"
        for name, own in parts.groupby("variant")
        if len(own) > (common.variant == name).sum()
    ]
    return "".join(said)


def _pixels(frame: pd.DataFrame) -> dict[str, float]:
    """k-NN on raw pixels of the same data with as many labels; empty where it was not measured."""
    found = accuracy.measured(frame, "pixels").get(f"knn_{frame.labels.iloc[0]}")
    return {} if found is None else {"pixels": found}


def _failures(ax: Axes, found: pd.DataFrame, title: str) -> None:
    """A bar for each method with its interval; what diverged beside what collapsed."""
    names = order(found)[::-1]
    for at, name in enumerate(names):
        own = found[found.variant == name]
        collapsed, diverged = 100 * own.collapsed.mean(), 100 * (own.diverged & ~own.collapsed).mean()
        ax.barh(at, collapsed, color=picture.GREY)
        ax.barh(at, diverged, left=collapsed, color=picture.YELLOW)
        low, high = wilson(int(own.failed.sum()), len(own))
        ax.plot([100 * low, 100 * high], [at, at], "|-", color=picture.INK, linewidth=1)
    counts = found.groupby("variant").size()
    ax.set_yticks(range(len(names)), [f"{name} (n = {counts[name]})" for name in names])
    ax.set_xlim(0, 100)
    ax.grid(axis="y", visible=False)
    some = "collapsed: grey, diverged: yellow" if found.diverged.any() else "collapsed; none diverged"
    picture.label(ax, title, f"share of runs, % ({some})", "")


def _lines(common: pd.DataFrame, method: str) -> Iterator[tuple[pd.DataFrame, str, dict[str, Any]]]:
    """The rows of one method, whole and without each part: with a name and the look of their line."""
    looks = ((HUES[method], "-"), *PARTS)
    for part, (colour, style) in zip((None, *REMOVABLE[method]), looks, strict=False):
        own = common[common["without"].isna() if part is None else common["without"] == part]
        if len(own):
            width = 2.0 if part is None else 1.4
            yield own, _said(part) if part else "whole", {"color": colour, "ls": style, "lw": width}


def _accuracy(ax: Axes, common: pd.DataFrame, method: str) -> list[End]:
    """Accuracy against the learning rate."""
    ends = []
    for own, name, look in _lines(common, method):
        knn = 100 * own.knn.where(~own.diverged, 0.0).groupby(own.lr).agg(["mean", "min", "max"])
        bars = {"yerr": picture.ranges(knn), "capsize": 2, "elinewidth": 0.8}
        ax.errorbar(knn.index, knn["mean"], marker="o", **bars, **look)
        ends.append((float(knn.index[-1]), float(knn["mean"].iloc[-1]), name, look["color"]))
    if ends:
        picture.log_ticks(ax, common.lr.unique())
    picture.label(ax, f"{SHOWN[method]}: accuracy", "learning rate of AdamW", "k-NN on test images, %")
    return ends


def _ranks(ax: Axes, common: pd.DataFrame, method: str) -> list[End]:
    """Effective rank over steps, of the runs that did not diverge."""
    ends = []
    for own, name, look in _lines(common[~common.diverged], method):
        steps = numbers(own.curve_step.iloc[0])
        ranks = np.clip([numbers(text) for text in own.curve_rank], 0.5, None)
        mean = np.exp(np.log(ranks).mean(0))
        ax.plot(steps, mean, **look)
        ax.fill_between(steps, ranks.min(0), ranks.max(0), color=look["color"], alpha=0.12, linewidth=0)
        ends.append((float(steps[-1]), float(mean[-1]), name, look["color"]))
    ax.set_yscale("log")
    picture.label(ax, f"{SHOWN[method]}: rank of the embeddings", "step", "effective rank")
    return ends

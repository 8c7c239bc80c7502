"""The table and the figure of every question that trains: two probes, their spread, the baselines."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import picture
from benchmarks.choices import difference
from benchmarks.report import markdown, spread
from benchmarks.rows import Table


def probes(frame: pd.DataFrame) -> dict[str, str]:
    """The two accuracies that are shown: a linear probe with the most labels, k-NN with the least."""
    columns = [c for c in frame if c.startswith("knn_") and frame[c].notna().any()]
    numbers = [c.removeprefix("knn_") for c in columns]
    most = next(c for c in frame if c == f"linear_{numbers[-1]}")
    return {most: f"linear probe, {_labels(numbers[-1])}", columns[0]: f"k-NN, {_labels(numbers[0])}"}


def title_of(what: str) -> str:
    """A panel's title; k-NN stays in small letters."""
    return what if what.startswith("k-NN") else what[0].upper() + what[1:]


def _labels(number: str) -> str:
    return "all labels" if number == "all" else f"{number} label{'s' * (number != '1')} a class"


def table(frame: pd.DataFrame, by: list[str], reference: dict[str, object] | None = None) -> str:
    """A line per setting: both probes with sd and n, and the paired difference to a reference setting.

    What the reference does not name of `by` is as in the line itself.
    """
    columns = list(probes(frame))
    shown = frame.assign(**{key: frame[key].astype(object).where(frame[key].notna(), "none") for key in by})
    lines = []
    for values, rows in shown.groupby(by, sort=True):
        line = dict(zip(by, values, strict=True))
        line |= {c: spread(rows[c]) for c in columns}
        if reference is not None:
            wanted = {key: line[key] for key in by} | reference
            base = shown[(shown[list(wanted)] == pd.Series(wanted)).all(axis=1)]
            same = len(base) and all(line[key] == value for key, value in reference.items())
            name = "against " + ", ".join(f"{key}={value}" for key, value in reference.items())
            line |= {f"{c} {name}": "" if same else difference(rows, base, c) for c in columns}
        lines.append(line)
    return markdown(pd.DataFrame(lines).set_index(by))


def baselines(frame: pd.DataFrame, column: str) -> dict[str, float]:
    """What pixels and an untrained network reach in a column."""
    return {
        name: values[column] for name, values in frame.attrs.get("baselines", {}).items() if column in values
    }


def measured(frame: pd.DataFrame, features: str, images: float | None = None) -> dict[str, float]:
    """Mean accuracies of pixels or of an untrained network on the same data in `indomain`, by column.

    `images` a class, None for all; empty where that was not measured.
    """
    rows = Table("indomain").frame()
    if rows.empty:
        return {}
    count = rows.images.isna() if images is None else rows.images == images
    own = rows[(rows.features == features) & (rows.data == frame.data.iloc[0]) & count]
    if features == "untrained":
        own = own[own.backbone == frame.backbone.iloc[0]]
    columns = [c for c in own if c.startswith(("knn_", "linear_"))]
    return {c: float(value) for c, value in own[columns].mean().dropna().items()}


def data_of(frame: pd.DataFrame) -> str:
    """The data set as a note begins with it."""
    name = str(frame.data.iloc[0])
    return {"digits": "Scikit-learn's digits"}.get(name, picture.dataset(name))


def note(frame: pd.DataFrame, more: str = "", by: Iterable[str] = ("data",)) -> str:
    """Which images, what a point is, and how many seeds are behind each setting of `by`."""
    data = data_of(frame)
    if frame.images.notna().all():
        held_out = 1 / frame.select_every.max() if frame.select_every.notna().all() else 0.0
        data += f", {frame.images.max() * (1 - held_out):,.0f} training images a class"
    runs = picture.seeds(frame.groupby(list(by)).seed.nunique())
    return f"{data}; mean ± sd over {runs} a point. {more}".strip()


def figure(
    frame: pd.DataFrame,
    x: str,
    lines: str | None,
    *,
    title: str,
    xlabel: str,
    name: str = "{}",
    more: str = "",
    log: bool = True,
    dashed: Iterable[object] = (),
    colours: dict[object, str] | None = None,
    alone: float | None = None,
) -> Figure:
    """Accuracy against `x` by both probes; a labelled line for each value of `lines`.

    `alone` is a value of `x` that no line joins to the next.
    """
    fig, axes = picture.panels(1, 2, title=title, note=note(frame, more, [x, lines] if lines else [x]))
    for ax, (column, what) in zip(axes, probes(frame).items(), strict=True):
        panel(ax, frame, x, lines, column, name=name, log=log, dashed=dashed, colours=colours, alone=alone)
        picture.label(ax, title_of(what), xlabel, "test accuracy, %")
    return fig


def panel(
    ax: Axes,
    frame: pd.DataFrame,
    x: str,
    lines: str | None,
    column: str,
    *,
    name: str = "{}",
    log: bool = True,
    dashed: Iterable[object] = (),
    colours: dict[object, str] | None = None,
    alone: float | None = None,
) -> None:
    """One probe: lines with bars and the baselines, each named at its right end."""
    groups = list(frame.groupby(lines, sort=True)) if lines else [("", frame)]
    ends = []
    for i, (value, rows) in enumerate(groups):
        colour = (colours or {}).get(value, picture.COLOURS[i % len(picture.COLOURS)])
        beside = 0.03 * (i - (len(groups) - 1) / 2)
        end = picture.curve(
            ax,
            rows,
            x,
            column,
            colour=colour,
            marker=picture.MARKERS[i % len(picture.MARKERS)],
            dashed=value in tuple(dashed),
            shift=1 + beside if log else 1.0,
            offset=0.0 if log else 2 * beside,
            alone=alone,
        )
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if lines:
            ends.append((*end, name.format(text), colour))
    values = sorted(frame[x].dropna().unique())
    if log:
        picture.log_ticks(ax, values)
    else:
        ax.set_xticks(values, [f"{value:g}" for value in values])
    picture.name_ends(ax, [*ends, *picture.baselines(ax, baselines(frame, column))])

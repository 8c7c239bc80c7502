"""Rows in, RESULTS.md and figures out; nothing else writes numbers there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from benchmarks import engine, origin
from benchmarks.rows import Table

HERE = Path(__file__).parent
HEAD = """# Results

Written by `python -m benchmarks report` from the rows in `benchmarks/results/`; edit neither this file nor
the figures.  The verdicts are written by hand, in `benchmarks/conf/question/`.
"""


def options(arguments: list[str]) -> dict[str, str]:
    """`results=DIR out=DIR`, or an error of one line."""
    chosen = dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := chosen.keys() - {"results", "out", "scale"}:
        raise SystemExit(f"report does not take {sorted(unknown)}; use results=DIR, out=DIR or scale=SCALE")
    return chosen


def write(arguments: list[str]) -> None:
    """RESULTS.md and figures/*.png of every question that has rows."""
    chosen = options(arguments)
    out = Path(chosen.get("out", HERE))
    (out / "figures").mkdir(parents=True, exist_ok=True)
    sections = [
        section(name, scale, frame, out)
        for name in engine.questions()
        for scale, frame in frames(name, chosen.get("results"))
        if scale == chosen.get("scale", scale)
    ]
    (out / "RESULTS.md").write_text("\n".join([HEAD, *sections]), encoding="utf-8")
    print(f"{len(sections)} sections in {out / 'RESULTS.md'}")


def show(name: str, arguments: list[str]) -> None:
    """Print the section of a question that measures nothing of its own."""
    chosen = options(arguments)
    found = frames(name, chosen.get("results"))
    for scale, frame in found:
        print(section(name, scale, frame))
    if not found:
        raise SystemExit(f"{name}: no rows yet; run {', '.join(engine.module(name).sources)} first")


def frames(name: str, results: str | None = None) -> list[tuple[str, pd.DataFrame]]:
    """The rows behind a question, scale by scale: its own, or those of its module's `sources`."""
    sources = getattr(engine.module(name), "sources", None)
    tables = [Table(source, results).frame().assign(question=source) for source in sources or [name]]
    tables = [table for table in tables if len(table)]
    if not tables:
        return []
    frame = pd.concat(tables, ignore_index=True)
    if {"global_views", "local_views"} <= set(frame):
        frame["views"] = frame.global_views + frame.local_views
    return [(str(scale), rows.reset_index(drop=True)) for scale, rows in frame.groupby("scale")]


def section(name: str, scale: str, frame: pd.DataFrame, out: Path | None = None) -> str:
    """One question at one scale: table, figure (drawn into `out`), where it comes from, verdict."""
    module = engine.module(name)
    parts = [f"## {name} (scale={scale})", engine.questions()[name], module.table(frame)]
    if out is not None:
        picture = f"figures/{name}.png" if scale == "cpu" else f"figures/{name}-{scale}.png"
        figure = module.figure(frame)
        figure.savefig(out / picture, dpi=120, bbox_inches="tight", metadata={"Software": None})
        parts.append(f"![{name}]({picture})")
    verdict = OmegaConf.load(engine.CONF / "question" / f"{name}.yaml").get("verdict")
    verdicts = verdict if OmegaConf.is_dict(verdict) else {"cpu": verdict}
    parts.append(f"**Verdict.** {' '.join(str(verdicts.get(scale) or 'None yet.').split())}")
    parts.append(origin.line(name, scale, frame))
    return "\n\n".join(parts)


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table, its index as the first columns."""
    frame = frame.reset_index()
    lines = [[str(c) for c in frame.columns], ["---"] * len(frame.columns)]
    lines += [[_text(value) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return str(value)


def spread(values: pd.Series, percent: bool = True) -> str:
    """Mean and sd over the runs of a setting, `93.7 ± 0.4`, for accuracies in percent."""
    values = values.dropna()
    if not len(values):
        return "none"
    mean, sd = values.mean(), values.std()
    if percent:
        return f"{100 * mean:.1f} ± {100 * sd:.1f}" if len(values) > 1 else f"{100 * mean:.1f}"
    return f"{mean:.3g} ± {sd:.2g}" if len(values) > 1 else f"{mean:.3g}"


def means(
    frame: pd.DataFrame,
    rows: str | list[str],
    columns: str | None = None,
    values: tuple[str, ...] = ("accuracy",),
    percent: bool = True,
) -> str:
    """Mean ± sd over seeds: one line per `rows`, one column per value of `columns` (or per `values`)."""
    by = [rows] if isinstance(rows, str) else rows
    filled = frame.assign(**{key: frame[key].astype(object).fillna("none") for key in [*by, columns] if key})
    groups = filled.groupby([*by, columns] if columns else by, sort=True)
    if columns is None:
        return markdown(pd.DataFrame({v: groups[v].agg(lambda s: spread(s, percent)) for v in values}))
    pivot = groups[values[0]].agg(lambda s: spread(s, percent)).unstack(columns, fill_value="")
    pivot.columns = [f"{columns}={value}" for value in pivot.columns]
    return markdown(pivot)


def best(frame: pd.DataFrame, by: list[str], over: str, value: str = "accuracy") -> pd.DataFrame:
    """The rows of that value of `over` with the best mean, chosen for each combination of `by`."""
    mean = frame.groupby([*by, over], dropna=False)[value].mean().reset_index()
    mean[value] = mean[value].fillna(-1)  # where every run diverged
    chosen = mean.loc[mean.groupby(by, dropna=False)[value].idxmax(), [*by, over]]
    return frame.merge(chosen, on=[*by, over])


def axes(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """An empty picture; no global state of pyplot is touched."""
    figure = Figure(figsize=(6.4, 4.0))
    ax = figure.subplots()
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    return figure, ax


def curves(
    frame: pd.DataFrame,
    x: str,
    lines: str | None = None,
    y: str = "accuracy",
    logx: bool = False,
    title: str = "",
) -> Figure:
    """Mean of `y` against `x` with sd over seeds as bars, one line per value of `lines`."""
    figure, ax = axes(title, x, y)
    for value, rows in frame.groupby(lines) if lines else [("", frame)]:
        stats = rows.groupby(x)[y].agg(["mean", "std"]).reset_index()
        label = f"{lines}={value}" if lines else None
        ax.errorbar(stats[x], stats["mean"], yerr=stats["std"].fillna(0), marker="o", capsize=3, label=label)
    if logx:
        ax.set_xscale("log")
        values = sorted(frame[x].unique())
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.set_xticks([], minor=True)
    if lines:
        ax.legend()
    return figure

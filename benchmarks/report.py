"""Rows in, RESULTS.md and figures out; nothing else writes numbers there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from benchmarks import engine, origin
from benchmarks.rows import Table

HERE = Path(__file__).parent
HEAD = """# Results

Written by `python -m benchmarks report` from the rows in `benchmarks/results/`; edit neither this file nor
the figures.  The verdicts are written by hand, in `benchmarks/conf/question/`.

`94.8 ± 0.5 (n = 10)` is the mean, the standard deviation over seeds (initialisation, order and augmentation;
the split and the draws of labels stay) and the number of runs.  `+0.8 [0.2, 1.4] (n = 10)` is a difference
between runs of equal seeds in points, its 95 % interval by Student's t, uncorrected for the number of
comparisons, and the number of pairs; where Welch is named, a difference of two means that are not paired.
`linear_10` is a linear probe with 10 labels a class, `knn_1` k-NN with 1.  On digits 899 images train, 449
choose between settings (selection) and 449 test; one image is 0.22 points, and all splits hold digits of the
same writers.  At scale=cifar 8,000 CIFAR-10 images train, 2,000 choose and the 10,000 test images test;
`linear_all` is a linear probe with all labels.
"""


def options(arguments: list[str]) -> dict[str, str]:
    """`results=DIR out=DIR`, or an error of one line."""
    chosen = dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := chosen.keys() - {"results", "out", "scale"}:
        raise SystemExit(f"report does not take {sorted(unknown)}; use results=DIR, out=DIR or scale=SCALE")
    return chosen


def _has_rows_of_its_own(name: str, frame: pd.DataFrame) -> bool:
    """False where a question that measures something has rows of its sources only."""
    return not hasattr(engine.module(name), "measure") or (frame.question == name).any()


def write(arguments: list[str]) -> None:
    """RESULTS.md and figures/*.png of every question that has rows."""
    chosen = options(arguments)
    out = Path(chosen.get("out", HERE))
    (out / "figures").mkdir(parents=True, exist_ok=True)
    sections = [
        section(name, scale, frame, out)
        for name in engine.questions()
        for scale, frame in frames(name, chosen.get("results"))
        if scale == chosen.get("scale", scale) and _has_rows_of_its_own(name, frame)
    ]
    reasons = origin.reasons("\n".join(sections))
    text = "\n".join([HEAD, *sections, *([reasons] if reasons else [])])
    (out / "RESULTS.md").write_text(text, encoding="utf-8")
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
    """The rows behind a question, scale by scale: its own, or those of its module's `sources`.

    What pixels and an untrained network reach at that scale travels in `frame.attrs`, and what pixels reach
    on the same data in `indomain`.
    """
    sources = getattr(engine.module(name), "sources", None) or [name]
    tables = [Table(source, results).frame().assign(question=source) for source in sources]
    tables = [table for table in tables if len(table)]
    if not tables:
        return []
    frame = pd.concat(tables, ignore_index=True)
    if {"global_views", "local_views"} <= set(frame):
        frame["views"] = frame.global_views + frame.local_views
    baseline = Table("baseline", results).frame()
    indomain = Table("indomain", results).frame()
    found = []
    for scale, rows in frame.groupby("scale"):
        rows = rows.reset_index(drop=True)
        rows.attrs["pixels"] = _pixels(indomain, rows)
        rows.attrs["baselines"] = _baselines(baseline, str(scale), rows)
        found.append((str(scale), rows))
    return found


def _baselines(baseline: pd.DataFrame, scale: str, frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean accuracies of pixels and of an untrained network on the same split, by column."""
    if baseline.empty or "data" not in frame:
        return {}
    rows = baseline[baseline.scale == scale]
    if "select_every" in rows:
        split = "select_every" in frame and frame.select_every.notna().any()
        rows = rows[rows.select_every.notna() == split]
    columns = [c for c in rows if c == "accuracy" or c.startswith(("knn_", "linear_"))]
    return {
        kind: {c: float(own[c].mean()) for c in columns}
        for kind, own in rows.groupby("features")
        if kind != "trained"
    }


def _pixels(indomain: pd.DataFrame, frame: pd.DataFrame) -> dict[int, dict[str, float]]:
    """Accuracies of raw pixels on the same data in `indomain`, by the number of training images a class."""
    if indomain.empty or "data" not in frame:
        return {}
    rows = indomain[(indomain.features == "pixels") & (indomain.data == frame.data.iloc[0])]
    columns = [c for c in rows if c.startswith(("knn_", "linear_"))]
    return {
        int(row["images"]): {c: float(row[c]) for c in columns}
        for row in rows.dropna(subset=["images"]).to_dict("records")
    }


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
    return str(value).replace("|", r"\|")  # a bar would end the cell


def spread(values: pd.Series, percent: bool = True, none: str = "none") -> str:
    """Mean, sd and number of runs, `93.7 ± 0.4 (n = 3)`, in percent for accuracies; `none` without a run."""
    values = values.dropna().astype(float)
    if not len(values):
        return none
    mean, sd, number = values.mean(), values.std(), f"(n = {len(values)})"
    if percent:
        return (
            f"{100 * mean:.1f} ± {100 * sd:.1f} {number}" if len(values) > 1 else f"{100 * mean:.1f} {number}"
        )
    return f"{mean:.3g} ± {sd:.2g} {number}" if len(values) > 1 else f"{mean:.3g} {number}"


def means(frame: pd.DataFrame, by: str, columns: list[str]) -> str:
    """Mean ± sd (n) over seeds, in percent: a line for each value of `by`."""
    groups = frame.groupby(by, sort=True)
    return markdown(pd.DataFrame({column: groups[column].agg(spread) for column in columns}))

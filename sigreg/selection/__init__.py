"""Label-free model selection: order runs of one objective by their training loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from sigreg.arguments import assert_number
from sigreg.selection.objective import (
    FIXED_ARE_FITTED,
    LAMBDA,
    SETTINGS,
    collapsed,
    counted,
    fixed_slices,
    named,
    reason,
    suspiciously_low,
)
from sigreg.selection.table import Row as Row
from sigreg.selection.table import Value, rows_of
from sigreg.selection.table import read_csv as read_csv
from sigreg.selection.table import write_csv as write_csv


class Run(NamedTuple):
    """A run of the table, or the mean of the runs that agree in `by`.

    `loss` is its training loss, and `settings` has the other columns.

    Example:
        >>> rank_runs([{"lr": 0.01, "loss": 0.24}, {"lr": 0.1, "loss": 0.31}]).runs[0]
        Run(score=0.24, loss=0.24, runs=1, settings={'lr': 0.01, 'loss': 0.24})
    """

    score: float
    """loss / lambda^alpha: smaller is better.  Infinite without a finite loss."""
    loss: float
    runs: int
    """How many runs this is the mean of."""
    settings: Row


class Ranking(NamedTuple):
    """What `rank_runs` found: `runs` is a list of `Run`, best first.  `print` shows it as a table.

    Example:
        >>> ranking = rank_runs([{"lr": 0.1, "loss": 0.31}, {"lr": 0.01, "loss": 0.24}])
        >>> ranking.rows()[0], ranking.notes
        ({'rank': 1, 'score': 0.24, 'loss': 0.24, 'runs': 1}, [])
    """

    runs: list[Run]
    compared: list[str]
    """The columns that `print` shows: `by`, or those that vary with fewer values than there are runs."""
    notes: list[str]
    """What to know before the first run is chosen."""
    correlation: float
    """Spearman's rank correlation of a low score with a high value of `against`; NaN without `against`."""

    def rows(self) -> list[Row]:
        """The ranking as a table; a compared column named as one of its own gets "setting " in front."""
        rows: list[Row] = []
        for rank, run in enumerate(self.runs, start=1):
            own: Row = {"rank": rank, "score": run.score, "loss": run.loss, "runs": run.runs}
            settings = {f"setting {c}" if c in own else c: run.settings[c] for c in self.compared}
            rows.append(own | settings)
        return rows

    def __repr__(self) -> str:
        rows = self.rows()
        table = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
        if not math.isnan(self.correlation):
            lines.append(f"rank correlation of a low score with `against`: {self.correlation:.2f}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def rank_runs(
    table: Any,
    *,
    loss: str = "loss",
    alpha: float | None = None,
    lambda_param: str | None = None,
    by: str | Sequence[str] = (),
    objective: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    against: str | None = None,
) -> Ranking:
    r"""Runs of ONE objective in the order of their training loss, which needs no labels.

        score = loss / lambda^alpha

    A loss can be compared between runs that minimise the same function only.  Statistic, grid, slices, N,
    views, projector width and data change the scale of the loss; runs that differ in a column of such a name
    (`sigreg.selection.objective.SETTINGS`) are refused.  Learning rate, weight decay, epochs, architecture
    and seed may differ.  A setting that is no column of the table cannot be checked.

    Args:
        table: one entry for each run, with its loss at the end of training and its settings: a list of
            dicts, a dict of columns, or a DataFrame of pandas or polars.  Of settings within a setting
            `{"method_kwargs": {"t_max": 3}}` the column is `method_kwargs.t_max`.
        loss: the column of the training loss.
        alpha: needed where lambda differs.  The paper uses about 0.4; 0 compares the loss as it is.  A run
            whose embeddings collapsed may have the lowest loss of all, most easily with a small lambda.
        lambda_param: the column of lambda; found by its name otherwise.
        by: columns that name a setting, or one such column; runs that agree in them (seeds) are averaged.
        objective: further columns that must not differ.
        ignore: columns that may differ although their name is one that changes the loss; runs with fixed
            slices beside runs with resampled ones are refused all the same.
        against: a column such as the accuracy of a few labelled runs, to see how well the order agrees.

    Returns:
        A `Ranking`, best first.  Runs without a finite loss come last.

    Raises:
        TypeError: `table` is no table, or alpha no number.
        ValueError: runs of several objectives (the message names the settings that differ), lambda differs
            and alpha is not given, an unknown column, a loss that is no number, no finite loss.

    Example:
        >>> runs = [{"lr": lr, "t_max": 3, "loss": loss} for lr, loss in ((1e-3, 0.31), (1e-2, 0.24))]
        >>> rank_runs(runs)
        rank  score  loss  runs
           1   0.24  0.24     1
           2   0.31  0.31     1
        >>> rank_runs(runs, by="lr").runs[0].settings["lr"]
        0.01
        >>> rank_runs([*runs, {"lr": 1e-2, "t_max": 5, "loss": 0.2}])
        Traceback (most recent call last):
        ValueError: the runs minimise different functions, so that their losses cannot be compared: ...

    Source: LeJEPA, arXiv 2511.08544, which scales by lambda^alpha.
    """
    rows = rows_of(table)
    if alpha is not None:
        assert_number(alpha=alpha)
    by, objective, ignore = ([n] if isinstance(n, str) else list(n) for n in (by, objective, ignore))
    weights = lambda_param or next((column for column in rows[0] if named(column, LAMBDA)), None)
    for column in (loss, *([lambda_param] if lambda_param else []), *by, *objective, *([against or loss])):
        if column not in rows[0]:
            raise ValueError(f"the table has no column {column!r}; it has {', '.join(rows[0])}")
    _assert_one_objective(rows, [c for c in rows[0] if c in objective or named(c, SETTINGS)], ignore)
    if weights and alpha is None and len({row[weights] for row in rows}) > 1:
        raise ValueError(
            f"{weights} differs ({counted([row[weights] for row in rows])}), which changes the loss; give "
            f"alpha= to compare loss / {weights}^alpha (the paper: 0.4), or rank the runs of each apart"
        )
    if alpha is not None and weights is None:
        raise ValueError(f"alpha={alpha} needs a column of lambda; name it with lambda_param=")
    groups: dict[tuple[Value, ...], list[Row]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(tuple(row[column] for column in by) if by else (number,), []).append(row)
    runs = [_mean(group, loss, weights, alpha or 0.0) for group in groups.values()]
    if not any(math.isfinite(run.score) for run in runs):
        raise ValueError(f"no run has a finite number in the column {loss!r}")
    correlation = math.nan
    if against is not None:
        goal = [_average(group, against) for group in groups.values()]
        correlation = -_spearman([run.score for run in runs], goal)
    order = sorted(runs, key=lambda run: run.score)
    return Ranking(order, by or _varying(rows, loss, len(runs)), _notes(rows, order), correlation)


def _assert_one_objective(rows: list[Row], columns: list[str], ignore: Sequence[str]) -> None:
    differing = []
    for column in columns:
        values = [row[column] for row in rows]
        if len(set(values)) > 1 and column not in ignore:
            differing.append(f"{column} is {counted(values)} ({reason(column)})")
    if len({fixed_slices(row) for row in rows}) > 1:
        differing.append(f"some have fixed slices ({FIXED_ARE_FITTED})")
    if differing:
        raise ValueError(
            "the runs minimise different functions, so that their losses cannot be compared: "
            f"{'; '.join(differing)}. Rank the runs of each apart, or name in ignore= what does not change "
            "the loss here"
        )


def _mean(group: list[Row], loss: str, weights: str | None, alpha: float) -> Run:
    losses, scores = [], []
    for row in group:
        value, weight = row[loss], row[weights] if weights else 1.0
        if isinstance(value, str | bool):
            raise ValueError(f"the column {loss!r} holds {value!r}; expected numbers, empty if there is none")
        if alpha and (not isinstance(weight, float | int) or weight <= 0):
            raise ValueError(f"{weights} is {weight!r}; loss / {weights}^alpha needs positive numbers")
        losses.append(math.inf if value is None or not math.isfinite(value) else float(value))
        scores.append(losses[-1] / float(weight or 0) ** alpha if alpha else losses[-1])
    return Run(sum(scores) / len(scores), sum(losses) / len(losses), len(group), group[0])


def _average(group: list[Row], column: str) -> float:
    """The mean of a column's numbers; NaN where one is missing."""
    values = [row[column] for row in group]
    numbers = [float(v) for v in values if isinstance(v, float | int)]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else math.nan


def _spearman(x: list[float], y: list[float]) -> float:
    """Spearman's rank correlation over the pairs without NaN; NaN for a constant."""
    pairs = [pair for pair in zip(x, y, strict=True) if not any(map(math.isnan, pair))]
    ranks = [
        [(sum(b < a for b in c) + sum(b <= a for b in c)) / 2 for a in c] for c in zip(*pairs, strict=True)
    ]
    centred = [[r - len(pairs) / 2 for r in c] for c in ranks]
    norms = [math.sqrt(sum(r * r for r in c)) for c in centred]
    if len(norms) < 2 or 0.0 in norms:
        return math.nan
    product: float = sum(a * b for a, b in zip(*centred, strict=True))
    return product / (norms[0] * norms[1])


def _varying(rows: list[Row], loss: str, runs: int) -> list[str]:
    """Columns that vary with fewer values than runs: settings, where results differ in each run."""
    return [c for c in rows[0] if c != loss and 1 < len({row[c] for row in rows}) < runs][:8]


def _notes(rows: list[Row], order: list[Run]) -> list[str]:
    notes = []
    if lost := sum(not math.isfinite(run.score) for run in order):
        notes.append(f"{lost} without a finite loss, ranked last")
    if fallen := collapsed(rows):
        notes.append(
            f"SIGReg is 0.40205 N in {fallen} of {len(rows)} runs: their embeddings collapsed onto 0, and a "
            "low loss of theirs says nothing about features. Leave them out"
        )
    if len({run.runs for run in order}) > 1:
        notes.append("not every setting has as many runs: a setting may be first by one lucky seed")
    if all(fixed_slices(row) for row in rows):
        notes.append(f"all runs have fixed slices, so that their losses say little: {FIXED_ARE_FITTED}")
    elif low := suspiciously_low(rows):
        notes.append(
            f"SIGReg is below 1.0 in {low} of {len(rows)} runs, where N(0, I) itself has 1.05: their slices "
            f"are fixed, or they fitted the batch that was measured ({FIXED_ARE_FITTED}), or lambda is large"
        )
    return notes


def _text(value: Value) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

"""A table of runs from whatever holds one: dicts, columns, a DataFrame, a CSV file."""

from __future__ import annotations

import contextlib
import csv
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Value: TypeAlias = "float | int | bool | str | None"
NAMES = (
    "commit",
    "experiment",
    "git_sha",
    "hash",
    "id",
    "name",
    "revision",
    "run",
    "run_id",
    "run_name",
    "sha",
)
Row: TypeAlias = "dict[str, Value]"


def rows_of(table: Any) -> list[Row]:
    """One dict for each run; text that is a number or a truth value becomes one, empty cells None.

    Names of columns become text, and a dict in a cell columns of its own, `name.key`.

    Args:
        table: a list of dicts, a dict of columns, or a DataFrame (pandas: `to_dict`; polars: `to_dicts`).

    Raises:
        TypeError: something else.
        ValueError: columns of different lengths, or no run at all.
    """
    if callable(to_dicts := getattr(table, "to_dicts", None)):
        table = to_dicts()
    elif callable(to_dict := getattr(table, "to_dict", None)):
        table = to_dict("records")
    if isinstance(table, Mapping) and all(isinstance(column, Collection) for column in table.values()):
        lengths = {len(column) for column in table.values()}
        if len(lengths) > 1:
            raise ValueError(f"the columns have different lengths, {sorted(lengths)}; give one value a run")
        table = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    rows = list(table) if isinstance(table, Iterable) and not isinstance(table, str | bytes) else None
    if rows is None or not all(isinstance(row, Mapping) for row in rows):
        raise TypeError(
            f"expected a list of dicts, a dict of columns or a DataFrame, got {type(table).__name__}; "
            "of a CSV file: rank_runs(sigreg.selection.read_csv(path))"
        )
    if not rows:
        raise ValueError("the table holds no run; expected one row a run")
    rows = [dict(_flat(row)) for row in rows]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: cell(row.get(column), column) for column in columns} for row in rows]


def _flat(row: Mapping[Any, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def cell(value: Any, column: str = "") -> Value:
    """A cell as a number, a truth value or text; None for an empty one, for NaN and pandas' NA and NaT.

    Text of a column in `NAMES` stays text, so that the hash "1e5" is no number.
    """
    if callable(item := getattr(value, "item", None)):
        with contextlib.suppress(ValueError, RuntimeError):  # more than one number
            value = item()  # a scalar of numpy or torch
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, float | int):
        text = str(value).strip()
        if text in ("", "<NA>", "NaT"):
            return None
        if re.split(r"[./]", column)[-1] in NAMES or "_" in text:  # "2024_01" is a number to Python
            return text
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        for number in (int, float):
            with contextlib.suppress(ValueError):
                return cell(number(text))
        return text
    return None if math.isnan(value) else value


def read_csv(path: str | Path) -> list[Row]:
    """The runs of a CSV file with a header, one row a run.

    Args:
        path: of the file, in UTF-8.

    Returns:
        One dict for each run, for `rank_runs`.  Text that is a number or a truth value becomes one; empty
        cells and NaN become None.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no header, is not text, or a row is longer than the header.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "runs.csv"
        >>> _ = path.write_text("lr,loss,note\\n0.001,0.31,\\n0.01,0.24,best\\n")
        >>> read_csv(path)
        [{'lr': 0.001, 'loss': 0.31, 'note': None}, {'lr': 0.01, 'loss': 0.24, 'note': 'best'}]
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            rows: list[dict[Any, Any]] = list(csv.DictReader(file))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error
    for number, row in enumerate(rows, start=2):
        if None in row:
            raise ValueError(f"{path}: row {number} has more cells than the header")
    if not rows:
        raise ValueError(f"{path} holds no run; expected a header and one row a run")
    return rows_of(rows)


def write_csv(path: str | Path, rows: list[Row]) -> None:
    """Write rows as a CSV file with a header, such as `Ranking.rows()`.

    Args:
        path: of the file; one that exists is replaced.
        rows: one dict for each line, all with the same keys; None becomes an empty cell.

    Raises:
        OSError: the file cannot be written.
        IndexError: there are no rows.
        ValueError: a row has a key that the first one lacks.

    Example:
        >>> import pathlib, tempfile
        >>> from sigreg.selection import rank_runs
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "ranked.csv"
        >>> runs = [{"lr": 0.001, "loss": 0.31}, {"lr": 0.01, "loss": 0.24}]
        >>> write_csv(path, rank_runs(runs, by="lr").rows())
        >>> read_csv(path)[0]
        {'rank': 1, 'score': 0.24, 'loss': 0.24, 'runs': 1, 'lr': 0.01}
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

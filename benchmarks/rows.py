"""Rows with provenance: one CSV per question, appended under a lock, never half-written."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

RESULTS = Path(__file__).parent / "results"


def cell(value: Any) -> str:
    """A value as the file holds it; equal settings give equal cells, 1 and 1.0 included."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, (list, tuple)):
        return " ".join(cell(v) for v in value)
    return str(value)


class Table:
    """The rows of one question.

    A row that was cut off by a kill (it has no line end) is dropped; a new column
    rewrites the file beside itself and replaces it, so no moment leaves it half there.
    """

    def __init__(self, name: str, folder: str | Path | None = None) -> None:
        self.path = Path(folder or RESULTS) / f"{name}.csv"

    def _lock(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_suffix(".lock"))

    def rows(self) -> list[dict[str, str]]:
        """Every complete row, as text."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        text = text[: text.rfind("\n") + 1]
        return list(csv.DictReader(io.StringIO(text)))

    def missing(self, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those settings that no row has yet; a column that a row lacks counts as null."""
        rows = self.rows()
        have: dict[tuple[str, ...], set[tuple[str, ...]]] = {}

        def found(settings: dict[str, Any]) -> bool:
            keys = tuple(settings)
            if keys not in have:
                have[keys] = {tuple(row.get(key) or "" for key in keys) for row in rows}
            return tuple(cell(value) for value in settings.values()) in have[keys]

        return [settings for settings in wanted if not found(settings)]

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows in one write."""
        cells = [{key: cell(value) for key, value in row.items()} for row in rows]
        with self._lock():
            old = self.rows()
            columns = list(dict.fromkeys(key for row in [*old[:1], *cells] for key in row))
            if old and columns == list(old[0]) and self.path.read_bytes().endswith(b"\n"):
                with open(self.path, "a", encoding="utf-8", newline="") as file:
                    file.write(_csv(columns, cells))
                return
            beside = self.path.with_suffix(".new")
            beside.write_text(_csv(columns, [*old, *cells], header=True), encoding="utf-8", newline="")
            os.replace(beside, self.path)

    def frame(self) -> pd.DataFrame:
        """The rows with numbers as numbers; an empty frame when there are none."""
        rows = self.rows()
        return pd.read_csv(io.StringIO(_csv(list(rows[0]), rows, header=True))) if rows else pd.DataFrame()


def _csv(columns: list[str], rows: list[dict[str, str]], header: bool = False) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()

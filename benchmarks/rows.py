"""Rows with provenance: one CSV per question, appended under a lock, never half-written."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

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


def cells(settings: dict[str, Any]) -> tuple[str, ...]:
    """The values of a setting as a row holds them."""
    return tuple(cell(value) for value in settings.values())


def compared(
    rows: list[dict[str, str]], wanted: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Those settings that no row has, and those rows that are of none of the settings.

    A column that a row lacks counts as null.
    """
    asked = {(tuple(settings), cells(settings)) for settings in wanted}
    kinds = {keys for keys, _ in asked}
    values = [{(keys, tuple(row.get(key) or "" for key in keys)) for keys in kinds} for row in rows]
    have = set().union(*values)
    missing = [settings for settings in wanted if (tuple(settings), cells(settings)) not in have]
    return missing, [row for row, own in zip(rows, values, strict=True) if not own & asked]


def numbers(text: Any) -> np.ndarray:
    """A list that a cell holds."""
    return np.array([float(value) for value in str(text).split()])


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
        """Every complete row, as text; under the lock, so never a file that is being rewritten."""
        if not self.path.exists():
            return []
        with self._lock():
            return self._read()

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        text = text[: text.rfind("\n") + 1]
        return list(csv.DictReader(io.StringIO(text)))

    def missing(self, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those settings that no row has yet."""
        return compared(self.rows(), wanted)[0]

    @contextlib.contextmanager
    def claim(self, settings: dict[str, Any]) -> Iterator[bool]:
        """Whether this process is the one to run a setting; False while another process on it does."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
        folder = self.path.parent / ".claims"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{self.path.stem}-{digest[:16]}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows in one write."""
        cells = [{key: cell(value) for key, value in row.items()} for row in rows]
        with self._lock():
            old = self._read()
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
        if not (rows := self.rows()):
            return pd.DataFrame()
        text = io.StringIO(_csv(list(rows[0]), rows, header=True))
        return pd.read_csv(text, dtype={"commit": str, "data_sha256": str})  # 2e07191 is no number


def _csv(columns: list[str], rows: list[dict[str, str]], header: bool = False) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()

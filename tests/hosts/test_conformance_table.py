"""docs/conformance.md says what the conformance kit finds in the hosts and adapters installed here."""

import os
import re
import sys
from pathlib import Path

import pytest

from sigreg.conformance import check
from sigreg.conformance.__main__ import parsed, versions
from tests.pool import on_ranks

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text()
TABLES = dict(
    re.findall(r"^\*\*\(\d+\) `(.+?)`\*\*\n\n(.+?)(?:\n\n|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
)
CLONED = {"eb_jepa": os.environ.get("EB_JEPA_SOURCE")}  # on no package index, and without a version
sys.path[:0] = [source for source in CLONED.values() if source]  # before the pool's processes begin
ROW = re.compile(r"^\| (.+?) \| (\w+|-) \| (.+) \|$", re.MULTILINE)
NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")  # measured on random directions


@pytest.mark.parametrize("heading", TABLES)
def test_the_committed_table_is_found_again(heading):
    """Verdicts, versions and words; of the numbers only that they stand there."""
    copy, _, said = heading.partition(", ")
    name, settings = parsed(copy)
    package = name.partition(".")[0]
    if package not in CLONED:
        assert versions(name) == said
    elif not CLONED[package]:
        pytest.skip(f"{package.upper()}_SOURCE names no clone of {package}")
    committed = [row for row in ROW.findall(TABLES[heading]) if row[0] != "check"]
    found = [(row.check, row.verdict, row.found) for row in check(name, settings, run=on_ranks)]
    assert [worded(row) for row in found] == [worded(row) for row in committed]


def worded(row: tuple[str, str, str]) -> tuple[str, str, str]:
    return row[0], row[1], NUMBER.sub("#", row[2])


def test_the_table_of_verdicts_is_that_of_the_copies():
    """The first table of the page, column by column."""
    rows = re.findall(
        r"^\| ([\w, ]+) \| ((?:(?:ok|FAULT|note|-) \| )+(?:ok|FAULT|note|-)) \|$", PAGE, re.MULTILINE
    )
    columns = zip(*(cells.split(" | ") for _, cells in rows), strict=True)
    for cells, table in zip(columns, TABLES.values(), strict=True):
        committed = {check: verdict for check, verdict, _ in ROW.findall(table)}
        assert list(cells) == [committed.get(check, "-") for check, _ in rows]

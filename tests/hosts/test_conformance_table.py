"""docs/conformance.md says what the conformance kit finds in the hosts that are installed here."""

import re
from pathlib import Path

import pytest
from pool import on_ranks

from sigreg.conformance import check

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text()
TABLES = dict(
    re.findall(r"^\*\*\(\d+\) `(.+?)`\*\*\n\n(.+?)(?:\n\n|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
)
HOSTS = (
    "lightly.loss:SIGReg",
    "stable_pretraining.methods.lejepa:SlicedEppsPulley",
    "stable_worldmodel.wm.loss:SIGReg",
)


@pytest.mark.parametrize("name", HOSTS)
def test_the_committed_verdicts_are_found_again(name):
    table = next(rows for title, rows in TABLES.items() if title.startswith(f"{name},"))
    committed = dict(re.findall(r"^\| (.+?) \| (\w+|-) \|", table, flags=re.MULTILINE))
    del committed["check"]
    assert {row.check: row.verdict for row in check(name, run=on_ranks)} == committed

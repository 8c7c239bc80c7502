"""Rows of the table, and how they are printed."""

from __future__ import annotations

from dataclasses import dataclass

OK, FAULT, NOTE, ABSENT = "ok", "FAULT", "note", "-"


@dataclass(frozen=True)
class Row:
    """One check: what was looked at, what was found, in words, and the verdict."""

    check: str
    found: str
    verdict: str = OK


def text(row: Row) -> str:
    return f"  {row.check:<14} {row.verdict:<6} {row.found}"


def markdown(reports: dict[str, list[Row]]) -> str:
    """A table of verdicts, one row per copy, and below it what was found in each."""
    checks = dict.fromkeys(row.check for rows in reports.values() for row in rows)
    lines = [f"| copy | {' | '.join(checks)} |", "|---" * (len(checks) + 1) + "|"]
    for number, (name, rows) in enumerate(reports.items(), 1):
        verdicts = [next((r.verdict for r in rows if r.check == check), ABSENT) for check in checks]
        copy = name.rsplit(", ", 2)[0]  # without versions, which the heading below has
        lines.append(f"| ({number}) `{copy}` | " + " | ".join(verdicts) + " |")
    for number, (name, rows) in enumerate(reports.items(), 1):
        lines += ["", f"**({number}) `{name}`**", "", "| check | verdict | found |", "|---|---|---|"]
        lines += [f"| {row.check} | {row.verdict} | {row.found} |" for row in rows]
    return "\n".join(lines) + "\n"

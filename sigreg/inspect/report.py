"""A diagnosis as text and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from textwrap import fill
from typing import Any

from torch import Tensor

from sigreg.diagnostics import Diagnosis, Measured

WIDTH = 100


@dataclass(frozen=True)
class Inspected:
    """What was found in one file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    diagnosis: Diagnosis
    labels: dict[str, float] | None = None

    @property
    def verdict(self) -> str:
        """ "healthy", or the names of the findings."""
        names = ", ".join(finding.name for finding in self.diagnosis.findings)
        return f"not healthy: {names}" if names else "healthy"


def text(found: Inspected) -> str:
    """The verdict, each finding with its evidence and advice, and the table of numbers."""
    lines = [heading(found), found.verdict]
    for finding in found.diagnosis.findings:
        lines += ["", finding.name, _indented(finding.evidence + "."), _indented(finding.advice)]
    lines += ["", *table([found])]
    return "\n".join(lines)


def compared(one: Inspected, other: Inspected) -> str:
    """Two files side by side: what either has that the other has not, and both columns of numbers."""
    lines = [f"A  {heading(one)}", f"   {one.verdict}", f"B  {heading(other)}", f"   {other.verdict}"]
    a, b = ({f.name: f for f in x.diagnosis.findings} for x in (one, other))
    for name, only in (("A", [a[n] for n in a if n not in b]), ("B", [b[n] for n in b if n not in a])):
        for finding in only:
            lines += ["", f"{name} only: {finding.name}", _indented(finding.evidence + ".")]
            lines += [_indented(finding.advice)]
    for name in a:
        if name in b:
            lines += [
                "",
                f"both: {name}",
                _indented(f"A: {a[name].evidence}."),
                _indented(f"B: {b[name].evidence}."),
            ]
            lines += [_indented(a[name].advice)]
    return "\n".join([*lines, "", *table([one, other])])


def heading(found: Inspected) -> str:
    """The file, its shape, and how many rows the numbers are of."""
    rows, columns = found.shape
    kept = found.diagnosis.measured.N
    drawn = "" if kept == rows else f"; the numbers are of {kept:,} rows drawn at random, all were checked"
    return f"{found.name}: {rows:,} rows, {columns:,} columns, {found.dtype}{drawn}"


def _indented(sentence: str) -> str:
    return fill(sentence, WIDTH, initial_indent="    ", subsequent_indent="    ")


def table(found: list[Inspected]) -> list[str]:
    """A line for each number: measured, under N(0, I) (at the last file's N and D), and how far off."""
    columns = [rows(f.diagnosis.measured) for f in found]
    names = [""] if len(found) == 1 else ["A", "B"]
    head = f"{'':46}" + "".join(f"{f'measured {n}'.strip():>14}" for n in names) + f"{'N(0, I)':>12}"
    lines = [head + (f"{'sd off':>10}" if len(found) == 1 else "")]
    for cells in zip(*columns, strict=True):
        label, _, expected, z = cells[-1]
        line = f"{label:46}" + "".join(f"{_number(c[1]):>14}" for c in cells) + f"{_number(expected):>12}"
        lines.append((line + (f"{z:10.1f}" if len(found) == 1 and z is not None else "")).rstrip())
    for label in found[0].labels or {}:
        accuracies = "".join(f"{_number((f.labels or {}).get(label)):>14}" for f in found)
        lines.append(f"{label:46}{accuracies}".rstrip())
    return lines


def rows(m: Measured) -> list[tuple[str, float, float | None, float | None]]:
    """Label, measured, expected under N(0, I), standard deviations off (where there is a formula)."""
    return [
        ("SIGReg (Epps-Pulley, mean of random slices)", m.value, m.expected, m.value_z),
        ("  best for a Gaussian of the rank measured", m.reachable, None, None),
        ("  at an exact collapse, 0.40205 N", m.collapsed, None, None),
        ("standard deviation of a coordinate", m.sd, 1.0, m.sd_z),
        ("|mean of a coordinate| / standard deviation", m.offset, m.N**-0.5, m.offset_z),
        ("effective rank", m.effective_rank, m.expected_effective_rank, None),
        ("rank of a Gaussian with this effective rank", m.rank, float(m.D), None),
        ("unevenness of the variances", m.unevenness, 0.0, m.unevenness_z),
        ("excess kurtosis of random directions", m.tails, 0.0, m.tails_z),
        ("excess kurtosis of coordinates", m.unit_tails, 0.0, m.unit_tails_z),
        ("two groups along the least normal direction", m.direction_separation, 2.65, m.direction_z),
        ("length of a row", m.norm, math.sqrt(m.D), None),
        ("sd of the lengths / that of a Gaussian", m.norm_variation, 1.0, None),
        ("correlation of consecutive rows", m.persistence, 0.0, m.persistence_z),
    ]


def _number(x: float | None) -> str:
    if x is None:
        return ""
    return f"{x:.4g}" if abs(x) < 1e5 else f"{x:.3e}"


def as_json(found: Inspected) -> dict[str, Any]:
    """The same for `json.dumps`."""
    measured = {
        name: value.tolist() if isinstance(value, Tensor) else value
        for name, value in asdict(found.diagnosis.measured).items()
    }
    return {
        "file": found.name,
        "rows": found.shape[0],
        "columns": found.shape[1],
        "dtype": found.dtype,
        "healthy": found.diagnosis.healthy,
        "findings": [finding._asdict() for finding in found.diagnosis.findings],
        "measured": measured,
        **({} if found.labels is None else {"labels": found.labels}),
    }

"""What is wrong with embeddings, in words: `diagnose`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sigreg.arguments import assert_int
from sigreg.diagnostics import rules
from sigreg.diagnostics.inputs import embeddings
from sigreg.diagnostics.measured import Measured
from sigreg.diagnostics.rows import measure
from sigreg.diagnostics.rules import Finding

FINDINGS = (
    "collapsed",
    "samples along the wrong axis",
    "LayerNorm-like rows",
    "unit-norm rows",
    "off scale",
    "off centre",
    "dimensionally collapsed",
    "uneven variance",
    "clustered along one direction",
    "heavy-tailed",
    "not Gaussian",
)
"""The names that a finding can have."""


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found, the most fundamental first, and all that it measured.

    `print` shows the findings with their evidence, `repr` their names.

    Example:
        >>> import torch
        >>> found = diagnose(3 + torch.randn(256, 8, generator=torch.Generator().manual_seed(0)))
        >>> found.healthy, [finding.name for finding in found.findings]
        (False, ['off centre'])
    """

    findings: list[Finding]
    measured: Measured

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        return "\n".join(str(finding) for finding in self.findings) or "healthy"

    def __repr__(self) -> str:
        names = ", ".join(finding.name for finding in self.findings) or "healthy"
        return f"Diagnosis(N={self.measured.N}, D={self.measured.D}: {names})"


def diagnose(z: Tensor | Any, *, num_slices: int = 256, seed: int = 0) -> Diagnosis:
    """Name what is wrong with embeddings, from one look at them: no samples of N(0, I) are drawn.

    A defect is named when its number is certain (4 standard deviations or more from N(0, I), by formulas for
    the sample's N and D) and large enough to matter; docs/inspect.md has the limits.  N(0, I) is healthy in
    more than 99 % of draws.

    Args:
        z: embeddings `(N, D)`, a tensor or a NumPy array of any floating dtype; computed in float64.  Leave
            out rows that are not valid.
        num_slices: random directions.
        seed: of the directions; the global generator is not touched.

    Returns:
        A `Diagnosis`: `findings`, empty for healthy embeddings, and `measured`.

    Raises:
        TypeError: z is not a floating-point tensor or array, or num_slices or seed is no int.
        ValueError: z is not (N, D), N < 2, z or its fourth powers are not finite, or num_slices < 1.

    Example:
        >>> import torch
        >>> z = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
        >>> print(diagnose(z))
        healthy
        >>> diagnose(0.5 * z)
        Diagnosis(N=256, D=8: off scale)
        >>> print(diagnose(0 * z).findings[0].evidence)
        all rows are 0; SIGReg is 102.924, its value at an exact collapse, 0.40205 N
    """
    assert_int(1, num_slices=num_slices)
    assert_int(seed=seed)
    z = embeddings(z)
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        if not z.isfinite().all():
            raise ValueError("z holds inf or nan; look for the step where the loss stopped being finite")
        largest = z.abs().max().double()
        if not (largest**4 * z.numel() ** 2).isfinite():
            raise ValueError(
                f"z holds numbers as large as {largest:.0e}, whose fourth powers leave float64; scale it"
            )
        measured = measure(z, num_slices=num_slices, seed=seed)
    return Diagnosis(list(named_findings(measured)), measured)


def named_findings(m: Measured) -> Iterator[Finding]:
    """What the rules say, without what follows from a defect that was named already."""
    for decisive in (rules.collapse, rules.wrong_axis):
        if found := list(decisive(m)):
            yield from found
            return
    if found := list(rules.normalised_rows(m)):  # the normalisation sets scale, mean and shape
        yield from found
        yield from rules.rank(m)
        return
    for rule in (rules.scale, rules.centre, rules.rank, rules.clusters, rules.tails):
        found += rule(m)
    yield from found or rules.otherwise(m)

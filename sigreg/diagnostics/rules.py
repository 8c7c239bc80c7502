"""The known defects: when each is named, the number behind it, and what to do.

A rule asks two questions.  Is the number certain, at least `CERTAIN` standard deviations from N(0, I) at this
N and D?  And is it large enough to matter, whatever N is?
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sigreg.diagnostics.measured import Measured

CERTAIN = 4.0  # about 1 in 30,000 under N(0, I)
CONSTANT = 0.1  # share of the variation under N(0, I) below which something counts as constant
SEPARATE = 4.0  # `separation` of two clusters; 2.65 for a normal sample, 3.46 for a uniform one


class Finding(NamedTuple):
    """One defect; `str` is the sentence that a log or a warning shows."""

    name: str
    """Such as "dimensionally collapsed"; one of `FINDINGS`."""
    evidence: str
    """What was measured, and what N(0, I) has."""
    advice: str
    """What to do."""
    value: float
    """The number behind it."""
    expected: float
    """The same number under N(0, I)."""

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}. {self.advice}"


def collapse(m: Measured) -> Iterator[Finding]:
    """All rows are equal, or nearly: relative to their size, or so small that SIGReg has no gradient."""
    if m.spread >= 0.1 and (m.sd >= 0.01 or constant_lengths(m)):
        return
    if m.norm == 0.0:
        evidence = f"all rows are 0; SIGReg is {m.value:.6g}, its value at an exact collapse, 0.40205 N"
    elif m.spread == 0.0:
        evidence = f"all rows are equal, a vector of length {m.norm:.3g}; SIGReg is {m.value:.6g}"
    elif m.spread < 0.1:
        evidence = f"rows differ by {100 * m.spread:.2g} % of their size (N(0, I): 100 %)"
    else:
        evidence = (
            f"the standard deviation is {m.sd:.2g} (N(0, I): 1); SIGReg is {m.value:.6g}, which an exact "
            f"collapse onto 0 has as well (0.40205 N = {m.collapsed:.6g})"
        )
    advice = (
        "Raise lambda; add the statistic whose gradient does not vanish at a collapse, "
        "SIGReg({'epps_pulley': 1.0, 'vcreg': 0.1}); check that SIGReg's gradient reaches the encoder."
    )
    yield Finding("collapsed", evidence, advice, m.spread if m.spread < 0.1 else m.sd, 1.0)


def wrong_axis(m: Measured) -> Iterator[Finding]:
    """Rows with means of their own beside columns that have none; or rows that continue one another."""
    name = "samples along the wrong axis"
    if m.N <= m.D and m.row_mean_z > CERTAIN and m.row_mean > 1.5 and m.offset_z < CERTAIN:
        evidence = (
            f"the means of the {m.N} rows differ as those of features do ({m.row_mean:.1f} times as much as "
            f"under N(0, I)), and those of the {m.D} columns do not"
        )
        yield Finding(name, evidence, "Transpose the array: a row is a sample.", m.row_mean, 1.0)
    elif m.persistence > 0.5 and m.persistence_z > CERTAIN and m.smoothness > -0.35:
        evidence = (
            f"each row continues the one before it (correlation {m.persistence:.2f}; independent rows: 0), "
            "as the time steps of a sequence do"
        )
        advice = (
            "Test the sequences of a batch against each other, time step by time step: shape (T, N, D) with "
            "N the batch, or sigreg.sequences."
        )
        yield Finding(name, evidence, advice, m.persistence, 0.0)


def constant_lengths(m: Measured) -> bool:
    """Whether the rows lie on a sphere about 0."""
    return m.norm_variation < CONSTANT


def normalised_rows(m: Measured) -> Iterator[Finding]:
    """Rows of mean 0 and equal standard deviation, or of equal length."""
    if m.D > 2 and m.row_offset < CONSTANT and m.row_sd_variation < CONSTANT:
        evidence = (
            "every row has the mean 0 and the same standard deviation (their variation is "
            f"{m.row_sd_variation:.2g} of that under N(0, I))"
        )
        advice = (
            "Take the embeddings before the last LayerNorm, or put a linear layer behind it: it fixes the "
            "length of every row and leaves one direction constant."
        )
        yield Finding("LayerNorm-like rows", evidence, advice, m.row_sd_variation, 1.0)
    elif constant_lengths(m):
        evidence = (
            f"every row has the length {m.norm:.4g} (the variation is {m.norm_variation:.2g} of that under "
            "N(0, I))"
        )
        advice = (
            "Take the embeddings before the normalisation: N(0, I) has a standard deviation of 1 in every "
            f"coordinate, here it is {m.sd:.2g}, and its rows differ in length."
        )
        yield Finding("unit-norm rows", evidence, advice, m.norm_variation, 1.0)


def scale(m: Measured) -> Iterator[Finding]:
    """A standard deviation 10 % or more from 1, about the mean."""
    if abs(m.sd_z) < CERTAIN or 0.9 < m.sd < 1 / 0.9:
        return
    evidence = f"the standard deviation is {m.sd:.3g} (N(0, I): 1)"
    advice = (
        "Raise lambda or train longer. Embeddings that were not trained with SIGReg have a scale of their "
        f"own: divide by {m.sd:.3g} to look at the rest."
    )
    yield Finding("off scale", evidence, advice, m.sd, 1.0)


def centre(m: Measured) -> Iterator[Finding]:
    """A mean of a tenth of the standard deviation or more, over the coordinates."""
    if m.offset_z < CERTAIN or m.offset < 0.1:
        return
    evidence = (
        f"the mean of a coordinate is {m.offset:.2g} standard deviations from 0 (root mean square; N(0, I): "
        f"{m.N**-0.5:.2g})"
    )
    advice = (
        "End in a linear layer: behind a ReLU every mean is positive. Subtract the mean to look at the rest."
    )
    yield Finding("off centre", evidence, advice, m.offset, m.N**-0.5)


def rank(m: Measured) -> Iterator[Finding]:
    """Fewer dimensions than half, constant coordinates or directions, or uneven variances."""
    advice = "Raise lambda, make the projector narrower, or train on more varied data."
    # extreme rows spread the spectrum of a sample; the directions of the rows do not depend on their lengths
    full = max(m.rank, m.rank_of_directions) if heavy(m) else m.rank
    uneven = m.unevenness_z > CERTAIN
    if uneven and full - 1 < 0.5 * (m.D - 1):
        evidence = (
            f"the effective rank is {m.effective_rank:.1f} (N(0, I): {m.expected_effective_rank:.1f} of "
            f"{m.D}), as of a Gaussian in {m.rank:.1f} dimensions, whose best value of SIGReg at N = {m.N} "
            f"is {m.reachable:.3g} (full rank: {m.expected:.3g})"
        )
        yield Finding("dimensionally collapsed", evidence, advice, m.rank, float(m.D))
    elif m.constant_units:
        evidence = f"{m.constant_units} of {m.D} coordinates hold one value"
        advice = (
            "Look for units that died (a ReLU before the last layer, a learning rate that was too high) or "
            "that nothing feeds."
        )
        yield Finding("dimensionally collapsed", evidence, advice, float(m.D - m.constant_units), float(m.D))
    elif m.constant_directions > (m.row_offset < CONSTANT):  # behind a LayerNorm one is, and is named there
        evidence = f"nothing varies in {m.constant_directions} of {m.D} directions"
        value = float(m.D - m.constant_directions)
        yield Finding("dimensionally collapsed", evidence, advice, value, float(m.D))
    elif uneven and m.unevenness > 0.5 and not heavy(m):
        evidence = (
            f"the standard deviation of a coordinate is {m.smallest_sd:.2g} to {m.largest_sd:.2g} along the "
            f"principal directions (N(0, I) at this N: {m.expected_sds[0]:.2g} to {m.expected_sds[1]:.2g})"
        )
        advice = "Raise lambda; check that no coordinate has a scale of its own."
        yield Finding("uneven variance", evidence, advice, m.unevenness, 0.0)


def clustered(m: Measured) -> bool:
    """Whether the least normal direction falls into two parts.

    Two groups of similar size have a negative excess kurtosis; a ReLU, whose zeros look like a group of their
    own, does not, and so a small group must lie further away.
    """
    apart = m.direction_separation > (SEPARATE if m.direction_excess < 0 else 1.5 * SEPARATE)
    return m.direction_z > CERTAIN and apart


def heavy(m: Measured) -> bool:
    """Whether random slices or coordinates have heavy tails, and no cluster is the reason."""
    tails = m.tails_z > CERTAIN and m.tails > 0.3
    return (tails or (m.unit_tails_z > CERTAIN and m.unit_tails > 0.3)) and not clustered(m)


def clusters(m: Measured) -> Iterator[Finding]:
    """Two groups along a coordinate or a principal direction."""
    if not clustered(m):
        return
    evidence = (
        f"along {m.direction_name} the rows form two groups, {m.direction_separation:.2g} of their own "
        "standard deviations apart (a normal sample, cut in two: 2.6)"
    )
    advice = (
        "Look at the rows of each group: a class, a source of data or a saturated unit often explains them. "
        "More slices and a larger lambda act on it."
    )
    yield Finding("clustered along one direction", evidence, advice, m.direction_separation, 2.65)


def tails(m: Measured) -> Iterator[Finding]:
    """Mean excess kurtosis over random directions or over coordinates."""
    if not heavy(m):
        return
    units = m.unit_tails_z > CERTAIN and m.unit_tails > m.tails
    value, over = (m.unit_tails, "coordinates") if units else (m.tails, "random directions")
    evidence = f"the mean excess kurtosis of {over} is {value:.2g} (N(0, I): 0)"
    advice = (
        "Look at the longest rows (corrupt or empty inputs?). Weight decay, a bounded activation or the "
        "statistic anderson_darling, which weighs tails, act on it."
    )
    yield Finding("heavy-tailed", evidence, advice, value, 0.0)


def otherwise(m: Measured) -> Iterator[Finding]:
    """SIGReg or one direction is far from normal, in none of the ways above."""
    advice = "Look at the worst slices: python -m sigreg inspect FILE --plot out.png."
    if m.value_z > CERTAIN + 1 and m.value - m.expected > 0.003 * m.N:
        evidence = f"SIGReg is {m.value:.3g} at N = {m.N} (N(0, I): {m.expected:.3g})"
        yield Finding("not Gaussian", evidence, advice, m.value, m.expected)
    elif m.direction_z > CERTAIN and abs(m.direction_excess) > 0.5:
        evidence = f"the excess kurtosis along {m.direction_name} is {m.direction_excess:.2g} (N(0, I): 0)"
        yield Finding("not Gaussian", evidence, advice, m.direction_excess, 0.0)

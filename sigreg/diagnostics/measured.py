"""Everything that a diagnosis looks at: numbers of one sample, computed once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sigreg.diagnostics.null import (
    chi_square_z,
    f_z,
    kurtosis_of_slices_sd,
    kurtosis_z,
    skewness_z,
    value_z,
)
from sigreg.diagnostics.rank import effective_rank, expected_effective_rank, rank_behind
from sigreg.diagnostics.reachable import collapsed_value, expected_value, reachable_value
from sigreg.directions import gaussian
from sigreg.sample import Sample
from sigreg.univariate import epps_pulley
from sigreg.univariate.central import central_moments

_PRINCIPAL = 8  # directions of largest variance that are tested one by one
_LOOKED_AT = 16  # least normal directions whose parts are separated
_ENOUGH = 20  # rows below which the transformed skewness and kurtosis are not normal


@dataclass(frozen=True)
class Measured:
    """What was measured; a `..._z` says how many standard deviations a number is from N(0, I)."""

    N: int
    D: int
    value: float  # SIGReg: the mean of Epps-Pulley over random slices
    value_z: float
    expected: float  # its mean under N(0, I)
    reachable: float  # the lowest that a Gaussian of this rank can have
    collapsed: float  # its value where every embedding is 0
    sd: float  # root of the mean variance of a coordinate
    sd_z: float
    offset: float  # |mean| / (sd sqrt(D)): 1 where the mean is one sd in every coordinate
    offset_z: float
    spread: float  # sd / root mean square of all coordinates: 0 where all rows are equal
    effective_rank: float  # exp(entropy of the spectrum of the covariance)
    expected_effective_rank: float  # that of N samples of N(0, I)
    rank: float  # of the distribution: the effective rank without the effect of a finite N
    rank_of_directions: float  # the same, of rows scaled to equal length
    constant_directions: int  # orthogonal directions in which nothing varies
    constant_units: int  # coordinates that hold one value
    unevenness: float  # variance of the spectrum / its squared mean, without what a finite N adds
    unevenness_z: float
    smallest_sd: float  # along the principal directions, at most N - 1 of them
    largest_sd: float
    expected_sds: tuple[float, float]  # the same two, about, under N(0, I)
    norm: float  # mean length of a row
    norm_variation: float  # sd of the lengths / that of Gaussian rows of this mean and covariance
    row_mean: float  # sd of the rows' means / that of rows of independent coordinates
    row_mean_z: float
    row_offset: float  # root mean square of the rows' means / the same
    row_sd_variation: float  # sd of the rows' sds / that of rows of independent normal coordinates
    tails: float  # mean excess kurtosis over random slices
    tails_z: float
    unit_tails: float  # mean excess kurtosis over coordinates
    unit_tails_z: float
    direction: Tensor  # unit vector of the least normal direction among coordinates and principal directions
    direction_name: str
    direction_z: float
    direction_excess: float  # its excess kurtosis
    direction_separation: float  # distance of its two parts / their sd, see `separation`
    persistence: float  # correlation of consecutive rows
    persistence_z: float
    smoothness: float  # median cosine of consecutive steps: -0.5 for independent rows


def measure(z: Tensor, *, num_slices: int, seed: int) -> Measured:
    """The numbers of finite embeddings `(N, D)` in float32 or float64."""
    (N, D), n, eps = z.shape, len(z) - 1, torch.finfo(z.dtype).eps
    z = z.double()
    mean = z.mean(0)
    x = z - mean
    x = x.masked_fill(x.abs().amax(0) <= 4 * eps * mean.abs(), 0.0)  # the rounding of the mean is no spread
    wide = D > N
    covariance = x @ x.T / n if wide else x.T @ x / n  # their spectra differ by zeros
    spectrum, vectors = torch.linalg.eigh(covariance)
    spectrum = spectrum.clamp(min=0)
    total, squares = float(spectrum.sum()), float(spectrum.square().sum())
    sd = math.sqrt(total / D)
    safe = max(total, 1e-150)

    A = gaussian(D, num_slices, seed=seed, device=z.device, dtype=z.dtype)
    value = float(epps_pulley(z @ A).mean())
    effective = float(effective_rank(spectrum))
    rank = rank_behind(effective, N, D)
    towards = torch.nn.functional.normalize(x, dim=1)
    towards = towards - towards.mean(0)
    of_directions = torch.linalg.eigvalsh(towards @ towards.T if wide else towards.T @ towards)

    # a trace of squares without the (tr)^2 / n that a finite N adds, for a Wishart matrix
    population = n**2 / ((n + 2) * max(n - 1, 1)) * (squares - total**2 / n)
    population = max(population, total**2 / (D * 10))
    dof = D * (D + 1) / 2 - 1
    relative = D * squares / safe**2 - 1  # U, mean (D + 2)(D - 1) / (n D + 2) under N(0, I)
    null = (D + 2) * (D - 1) / (n * D + 2)

    lengths = z.norm(dim=1)
    square = float(lengths.square().mean())
    across = float((x @ mean).square().mean())
    expected_sd = math.sqrt((2 * population + 4 * across) / (4 * max(square, 1e-300)))
    rows = _rows(z)

    slices, units = _shape(x @ A), _shape(x)
    m = min(_PRINCIPAL, D, max(n - 1, 1))
    leading = x.T @ vectors[:, -m:] if wide else vectors[:, -m:]
    leading = torch.nn.functional.normalize(leading, dim=0)
    principal = _shape(x @ leading)
    score = torch.cat([torch.maximum(s.skewness_z.abs(), s.kurtosis_z.abs()) for s in (units, principal)])
    looked_at = score.topk(min(_LOOKED_AT, len(score))).indices
    candidates = torch.cat([torch.eye(D, dtype=z.dtype, device=z.device), leading], 1)[:, looked_at]
    separations = separation(x @ candidates)
    significant = score[looked_at] > 0.8 * score.max()
    best = int(torch.where(significant, separations, 0.0).argmax())
    if separations[best] < 3.0:
        best = 0  # nothing falls into two parts: the least normal one
    index = int(looked_at[best])
    tested = 2 * len(score)

    steps = torch.nn.functional.normalize(x[1:] - x[:-1], dim=1)
    persistence = float((x[1:] * x[:-1]).sum()) / max(float(x.square().sum()), 1e-300) + 1 / N
    return Measured(
        N=N,
        D=D,
        value=value,
        value_z=value_z(value, num_slices, D, expected_value()),
        expected=expected_value(),
        reachable=reachable_value(round(rank, 2), N, D),
        collapsed=collapsed_value(N),
        sd=sd,
        sd_z=chi_square_z(n * total, n * D),
        offset=float(mean.norm()) / math.sqrt(safe),
        offset_z=f_z(N * float(mean.square().sum()) / safe, D, n * D),
        spread=math.sqrt(total / max(square, 1e-300)),
        effective_rank=effective,
        expected_effective_rank=expected_effective_rank(N, D),
        rank=rank,
        rank_of_directions=rank_behind(float(effective_rank(of_directions)), N, D),
        constant_directions=_constant_directions(spectrum, N, D, eps),
        constant_units=int((x == 0).all(0).sum()),
        unevenness=max(D * population / safe**2 - 1, 0.0) if D > 1 else 0.0,
        unevenness_z=chi_square_z(relative / null * dof, dof) if D > 1 else 0.0,
        smallest_sd=float(spectrum[-min(n, D)]) ** 0.5,
        largest_sd=float(spectrum[-1]) ** 0.5,
        expected_sds=(abs(1 - math.sqrt(D / n)), 1 + math.sqrt(D / n)),  # Marchenko and Pastur
        norm=float(lengths.mean()),
        norm_variation=float(lengths.std()) / max(expected_sd, 1e-300),
        row_mean=rows.mean,
        row_mean_z=rows.mean_z,
        row_offset=rows.offset,
        row_sd_variation=rows.sd_variation,
        tails=float(slices.excess.mean()),
        tails_z=float(slices.kurtosis_z.mean()) / kurtosis_of_slices_sd(num_slices, D),
        unit_tails=float(units.excess.mean()),
        unit_tails_z=float(units.kurtosis_z.mean()) * math.sqrt(D),
        direction=candidates[:, best],
        direction_name=f"coordinate {index}" if index < D else f"principal direction {D + m - index}",
        direction_z=math.sqrt(max(float(score[index]) ** 2 - 2 * math.log(tested), 0.0)),
        direction_excess=float(torch.cat([units.excess, principal.excess])[index]),
        direction_separation=float(separations[best]),
        persistence=persistence,
        persistence_z=persistence * math.sqrt(N * total**2 / max(population, 1e-300)) if total else 0.0,
        smoothness=float((steps[1:] * steps[:-1]).sum(1).median()) if N > 2 else -0.5,
    )


def separation(x: Tensor) -> Tensor:
    """How far apart the two parts of a sample are, each holding 5 % of the rows or more: `(N, C) -> (C,)`.

        |mean_1 - mean_2| / sqrt((var_1 + var_2) / 2)

    cut where the variance between them is largest.  A normal sample has 2.65, a mixture of two normal ones
    about the distance of their means in standard deviations; at most 100.
    """
    x = x.sort(dim=0).values
    N = len(x)
    left = torch.arange(1, N, device=x.device, dtype=x.dtype)[:, None]
    s1, s2 = x.cumsum(0)[:-1], x.square().cumsum(0)[:-1]
    t1, t2 = x.sum(0), x.square().sum(0)
    a, b = s1 / left, (t1 - s1) / (N - left)
    between = left * (N - left) * (a - b).square()
    between[(left.squeeze(1) < max(2, 0.05 * N)) | (left.squeeze(1) > N - max(2, 0.05 * N))] = -1.0
    cut = between.argmax(0, keepdim=True)
    within = (s2 / left - a.square()) + ((t2 - s2) / (N - left) - b.square())
    distance, within = ((a - b).abs().gather(0, cut)[0], within.gather(0, cut)[0].clamp(min=0) / 2)
    return distance / within.sqrt().clamp(min=0.01 * distance).clamp(min=1e-300)


class _Rows(NamedTuple):
    """Means and standard deviations of the rows, divided by what rows of independent coordinates have."""

    mean: float = 1.0
    mean_z: float = 0.0
    offset: float = 1.0
    sd_variation: float = 1.0


def _rows(z: Tensor) -> _Rows:
    N, D = z.shape
    means, sds = z.mean(1), z.std(1) if D > 1 else z.new_zeros(N)
    variance = float(sds.square().mean())
    if variance == 0.0:  # one column, or rows that hold one value each
        return _Rows()
    ratio = float(means.var()) * D / variance
    return _Rows(
        mean=math.sqrt(ratio),
        mean_z=f_z(ratio, N - 1, N * (D - 1)),
        offset=math.sqrt(float(means.square().mean()) * D / variance),
        sd_variation=float(sds.std()) * math.sqrt(2 * (D - 1) / variance),
    )


@dataclass(frozen=True)
class _Shape:
    """Third and fourth moments of every column; a constant column is normal here."""

    excess: Tensor
    skewness_z: Tensor
    kurtosis_z: Tensor


def _shape(x: Tensor) -> _Shape:
    N = len(x)
    _, (m2, m3, m4) = central_moments(Sample(x), 4)
    constant = m2 <= 1e-24 * m2.max().clamp(min=1e-280)
    m2 = m2.masked_fill(constant, 1.0)
    skewness = (m3 / m2.pow(1.5)).masked_fill(constant, 0.0)
    kurtosis = (m4 / m2.square()).masked_fill(constant, 3.0)
    if N < _ENOUGH:
        return _Shape(kurtosis - 3, torch.zeros_like(m2), torch.zeros_like(m2))
    # the mean kurtosis of N normal numbers is 3 (N - 1)/(N + 1)
    return _Shape(kurtosis - 3 * (N - 1) / (N + 1), skewness_z(skewness, N), kurtosis_z(kurtosis, N))


def _constant_directions(spectrum: Tensor, N: int, D: int, eps: float) -> int:
    """Zeros of the spectrum beyond rounding; 0 where there are too few rows to tell."""
    if N - 1 < 2 * D:
        return 0
    floor = float(spectrum.max()) * max(16 * eps**2, 1e-13)
    return int((spectrum <= floor).sum())

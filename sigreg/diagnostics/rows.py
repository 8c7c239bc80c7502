"""The rows `(N, D)` of one process, measured: their moments, and what needs the rows themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sigreg.diagnostics.measured import Measured, Moments, per_row
from sigreg.diagnostics.null import ENOUGH, excess_kurtosis, kurtosis_z, skewness_z
from sigreg.directions import gaussian
from sigreg.sample import Sample
from sigreg.univariate import epps_pulley
from sigreg.univariate.central import central_moments

_PRINCIPAL = 8  # directions of largest variance that are tested one by one
_AT_ONCE = 1 << 22  # projections looked at together: 32 MiB, and some ten times as much in between
_LOOKED_AT = 16  # least normal directions whose parts are separated


def measure(z: Tensor, *, num_slices: int, seed: int) -> Measured:
    """The numbers of finite embeddings `(N, D)` in float32 or float64."""
    (N, D), n, eps = z.shape, len(z) - 1, torch.finfo(z.dtype).eps
    z = z.double()
    mean = z.mean(0)
    x = z - mean
    x = x.masked_fill(x.abs().amax(0) <= 4 * eps * mean.abs(), 0.0)  # the rounding of the mean is no spread
    A = gaussian(D, num_slices, seed=seed, device=z.device, dtype=z.dtype)
    spectrum, vectors = torch.linalg.eigh(_products(x) / n)
    towards, steps, numbers = normalize(x, dim=1), normalize(x.diff(dim=0), dim=1), per_row(z)

    m = min(_PRINCIPAL, D, max(n - 1, 1))
    principal = normalize(x.T @ vectors[:, -m:] if D > N else vectors[:, -m:], dim=0)
    slices, units, along = [_shape(x @ a) for a in parts(A, N)], _shape(x), _shape(x @ principal)
    score = torch.cat([torch.maximum(s.skewness_z.abs(), s.kurtosis_z.abs()) for s in (units, along)])
    looked_at = score.topk(min(_LOOKED_AT, len(score))).indices
    candidates = torch.cat([torch.eye(D, dtype=z.dtype, device=z.device), principal], 1)[:, looked_at]
    separations = torch.cat([separation(x @ a) for a in parts(candidates, N)])
    significant = score[looked_at] > 0.8 * score.max()
    best = int(torch.where(significant, separations, 0.0).argmax())
    if separations[best] < 3.0:
        best = 0  # nothing falls into two parts: the least normal one
    index = int(looked_at[best])

    moments = Moments(
        N=N,
        K=num_slices,
        value=float(torch.cat([epps_pulley(z @ a) for a in parts(A, N)]).mean()),
        mean=float(mean.square().sum()),
        across=float((x @ mean).square().mean()),
        spectrum=spectrum.clamp(min=0).flip(0),
        spectrum_of_directions=torch.linalg.eigvalsh(_products(towards - towards.mean(0))),
        of_rows=torch.stack([numbers.mean(0), numbers.square().mean(0), numbers.std(0)]),
        excess=torch.cat([shape.excess for shape in (*slices, units)]),
        kurtosis_z=torch.cat([shape.kurtosis_z for shape in (*slices, units)]),
        direction=candidates[:, best],
        persistence=float((x[1:] * x[:-1]).sum()) / max(float(x.square().sum()), 1e-300) + 1 / N,
    )
    return replace(
        moments.measured(),
        direction_name=f"coordinate {index}" if index < D else f"principal direction {D + m - index}",
        direction_z=math.sqrt(max(float(score[index]) ** 2 - 2 * math.log(2 * len(score)), 0.0)),
        direction_excess=float(torch.cat([units.excess, along.excess])[index]),
        direction_separation=float(separations[best]),
        constant_units=int((x == 0).all(0).sum()),
        smoothness=float((steps[1:] * steps[:-1]).sum(1).median()) if N > 2 else -0.5,
    )


def parts(A: Tensor, N: int) -> tuple[Tensor, ...]:
    """Directions `(D, K)` in parts, so that at most `_AT_ONCE` projections of N rows are held together."""
    return torch.split(A, max(1, _AT_ONCE // N), dim=1)


def _products(x: Tensor) -> Tensor:
    """`x^T x` or `x x^T`, the smaller one: their spectra differ by zeros."""
    return x @ x.T if x.shape[1] > len(x) else x.T @ x


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
    excess = excess_kurtosis(kurtosis, N) if N >= ENOUGH else kurtosis - 3
    return _Shape(excess, skewness_z(skewness, N), kurtosis_z(kurtosis, N))

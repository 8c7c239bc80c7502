"""Everything that a diagnosis looks at, by one formula each from the moments of a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sigreg.diagnostics.null import chi_square_z, f_z, kurtosis_of_slices_sd, value_z
from sigreg.diagnostics.rank import effective_rank, expected_effective_rank, rank_behind
from sigreg.diagnostics.reachable import collapsed_value, expected_value, reachable_value

_ROUNDING = 16 * torch.finfo(torch.float32).eps ** 2  # a share of the largest variance that is no spread


@dataclass(frozen=True)
class Measured:
    """What was measured of embeddings `(N, D)`; the keys under "measured" of `inspect --json`.

    A `..._z` is how many standard deviations (sd) the number of that name lies from its mean under N(0, I).
    Where only sums are known, as in `diagnose_batch`, the fields from `direction_name` on that need the rows
    themselves have the values of N(0, I), which are their defaults.
    """

    N: int
    """Rows, or their effective number where they have weights."""
    D: int
    """Columns."""
    value: float
    """SIGReg: the mean of Epps-Pulley over random slices."""
    value_z: float
    """The z-score of `value`."""
    expected: float
    """The mean of `value` under N(0, I): 1.0525."""
    reachable: float
    """The lowest mean of `value` that a Gaussian of this rank can have, at this N."""
    collapsed: float
    """`value` where every embedding is 0: 0.40205 N."""
    sd: float
    """The root of the mean variance of a coordinate; 1 under N(0, I)."""
    sd_z: float
    """The z-score of `sd`."""
    offset: float
    """Length of the mean / (sd sqrt(D)): 1 where the mean of every coordinate is one `sd` from 0."""
    offset_z: float
    """The z-score of `offset`."""
    spread: float
    """`sd` / root mean square of all entries: 0 where all rows are equal, 1 where their mean is 0."""
    effective_rank: float
    """exp(entropy of the normalised spectrum of the covariance), 1...D."""
    expected_effective_rank: float
    """The approximate mean of `effective_rank` for N samples of N(0, I)."""
    rank: float
    """The rank of a Gaussian whose samples of this size have this effective rank; D under N(0, I)."""
    rank_of_directions: float
    """`rank` of the rows scaled to equal length."""
    constant_directions: int
    """The number of orthogonal directions in which nothing varies; 0 where N < 2 D, too few rows to tell."""
    unevenness: float
    """Variance of the spectrum / its squared mean, less what a finite N adds; 0 under N(0, I)."""
    unevenness_z: float
    """The z-score of `unevenness`."""
    smallest_sd: float
    """The smallest standard deviation along the principal directions, of which there are at most N - 1."""
    largest_sd: float
    """The largest standard deviation along the principal directions."""
    expected_sds: tuple[float, float]
    """Approximate values of `smallest_sd` and `largest_sd` under N(0, I) (Marchenko and Pastur)."""
    norm: float
    """The mean length of a row; about sqrt(D) under N(0, I)."""
    norm_variation: float
    """sd of the lengths of the rows / that of Gaussian rows of this mean and covariance."""
    row_mean: float
    """sd of the means of the rows / that of rows of independent coordinates."""
    row_mean_z: float
    """The z-score of `row_mean`."""
    row_offset: float
    """Root mean square of the means of the rows / the sd that rows of independent coordinates have."""
    row_sd_variation: float
    """sd of the standard deviations of the rows / that of rows of independent normal coordinates."""
    tails: float
    """The mean excess kurtosis of random slices; 0 under N(0, I)."""
    tails_z: float
    """The z-score of `tails`."""
    unit_tails: float
    """The mean excess kurtosis of coordinates; 0 under N(0, I)."""
    unit_tails_z: float
    """The z-score of `unit_tails`."""
    direction: Tensor
    """Unit vector `(D,)`: the least normal of the coordinates and the largest principal directions.

    In `diagnose_batch` it is the random slice with the largest Epps-Pulley value.
    """
    direction_name: str = "the worst slice"
    """`direction` in words: "coordinate 3", "principal direction 1" or "the worst slice"."""
    direction_z: float = 0.0
    """The z-score of the departure from normality along `direction`."""
    direction_excess: float = 0.0
    """The excess kurtosis along `direction`."""
    direction_separation: float = 0.0
    """The rows along `direction`, cut in two groups: the distance of the groups' means / their mean sd."""
    constant_units: int = 0
    """The number of coordinates that hold one value."""
    persistence: float = 0.0
    """The correlation of consecutive rows; 0 for independent rows."""
    persistence_z: float = 0.0
    """The z-score of `persistence`."""
    smoothness: float = -0.5
    """The median cosine between consecutive differences of rows; -0.5 for independent rows."""


def per_row(x: Tensor) -> Tensor:
    """Length, mean and standard deviation of every row: `(..., N, D) -> (..., N, 3)`."""
    mean = x.mean(-1)
    sd = (x - mean.unsqueeze(-1)).norm(dim=-1) / math.sqrt(max(x.shape[-1] - 1, 1))  # std warns at N = 0
    return torch.stack([x.norm(dim=-1), mean, sd], -1)


@dataclass(frozen=True)
class Moments:
    """What rows `(N, D)` of one process and sums over views and processes both have."""

    N: float  # rows, or their effective sample size: 2 or more
    K: int  # random slices
    value: float  # SIGReg over these slices
    mean: float  # squared length of the mean
    across: float  # variance of the rows' inner products with the mean
    spectrum: Tensor  # of the covariance, in falling order; where D > N, zeros may be missing
    spectrum_of_directions: Tensor  # of rows scaled to equal length, up to a factor and the order
    of_rows: Tensor  # mean, mean square and standard deviation over rows of each number of `per_row`: (3, 3)
    excess: Tensor  # excess kurtosis along the slices, then of the coordinates: (K + D,)
    kurtosis_z: Tensor
    direction: Tensor  # the least normal one that was tested: a unit vector (D,)
    persistence: float = 0.0  # correlation of consecutive rows

    def measured(self) -> Measured:
        """All that follows from these; what needs the rows themselves is as N(0, I) has it."""
        N, D, n, K = self.N, len(self.direction), self.N - 1, self.K
        total, squares = float(self.spectrum.sum()), float(self.spectrum.square().sum())
        safe = max(total, 1e-150)
        effective = float(effective_rank(self.spectrum))
        rank = rank_behind(effective, N, D)

        # a trace of squares without the (tr)^2 / n that a finite N adds, for a Wishart matrix
        population = n**2 / ((n + 2) * max(n - 1, 1)) * (squares - total**2 / n)
        population = max(population, total**2 / (D * 10))
        dof = D * (D + 1) / 2 - 1
        relative = D * squares / safe**2 - 1  # U, mean (D + 2)(D - 1) / (n D + 2) under N(0, I)
        null = (D + 2) * (D - 1) / (n * D + 2)

        (norm, _, _), (square, mean_square, variance), (norm_sd, mean_sd, sd_sd) = self.of_rows.tolist()
        even = variance <= 1e-28 * mean_square  # one column, or rows that hold one value each, to rounding
        square, variance = max(square, 1e-300), max(variance, 1e-300)
        ratio = mean_sd**2 * D / variance
        expected_sd = math.sqrt((2 * population + 4 * self.across) / (4 * square))
        constant = self.spectrum <= _ROUNDING * self.spectrum[0]
        return Measured(
            N=round(N),
            D=D,
            value=self.value,
            value_z=value_z(self.value, K, D, expected_value()),
            expected=expected_value(),
            reachable=reachable_value(round(rank, 2), round(N), D),
            collapsed=collapsed_value(N),
            sd=math.sqrt(total / D),
            sd_z=chi_square_z(n * total, n * D),
            offset=math.sqrt(self.mean / safe),
            offset_z=f_z(N * self.mean / safe, D, n * D),
            spread=math.sqrt(total / square),
            effective_rank=effective,
            expected_effective_rank=expected_effective_rank(N, D),
            rank=rank,
            rank_of_directions=rank_behind(float(effective_rank(self.spectrum_of_directions)), N, D),
            constant_directions=int(constant.sum()) if n >= 2 * D else 0,
            unevenness=max(D * population / safe**2 - 1, 0.0) if D > 1 else 0.0,
            unevenness_z=chi_square_z(relative / null * dof, dof) if D > 1 else 0.0,
            smallest_sd=float(self.spectrum[min(round(n), D) - 1]) ** 0.5,
            largest_sd=float(self.spectrum[0]) ** 0.5,
            expected_sds=(abs(1 - math.sqrt(D / n)), 1 + math.sqrt(D / n)),  # Marchenko and Pastur
            norm=norm,
            norm_variation=norm_sd / max(expected_sd, 1e-300),
            row_mean=1.0 if even else math.sqrt(ratio),
            row_mean_z=0.0 if even else f_z(ratio, n, N * (D - 1)),
            row_offset=1.0 if even else math.sqrt(mean_square * D / variance),
            row_sd_variation=1.0 if even else sd_sd * math.sqrt(2 * (D - 1) / variance),
            tails=float(self.excess[:K].mean()),
            tails_z=float(self.kurtosis_z[:K].mean()) / kurtosis_of_slices_sd(K, D),
            unit_tails=float(self.excess[K:].mean()),
            unit_tails_z=float(self.kurtosis_z[K:].mean()) * math.sqrt(D),
            direction=self.direction,
            persistence=self.persistence,
            persistence_z=self.persistence * math.sqrt(N * total**2 / max(population, 1e-300)),
        )

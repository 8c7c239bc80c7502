"""Are embeddings Gaussian?  A report in which every number is compared with samples of N(0, I).

A statistic alone says little: 1.3 may be noise at N = 64 and a certain departure at N = 4096, and
eigenvalues spread under N(0, I) too.  So whatever is computed for z is computed for `num_null`
samples of N(0, I) of the same shape, through the same slices, and reported beside them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigreg.arguments import assert_int
from sigreg.diagnostics.inputs import as_tensor, embeddings
from sigreg.diagnostics.rank import effective_rank, rank_behind
from sigreg.diagnostics.reachable import collapsed_value, expected_value, reachable_value
from sigreg.directions import gaussian
from sigreg.random_numbers import normal_numbers
from sigreg.sample import Sample, checked
from sigreg.univariate import anderson_darling, epps_pulley, jarque_bera, vcreg

LEVEL = 0.05
_NULL_SEED = 0x5EED  # far from the seeds of anyone's slices


class Measure(NamedTuple):
    """One number of the report, and where it falls among those of samples of N(0, I).

    Attributes:
        value: the number, larger when less Gaussian.
        null_mean: its mean over samples of N(0, I).
        z_score: how many of their standard deviations it lies above that mean.
        p_value: the share of these samples, this one included, whose number is at least as large.
    """

    value: float
    null_mean: float
    z_score: float
    p_value: float


class Gaussianity(NamedTuple):
    """What `gaussianity` found about N rows of D columns; `print` it.

    Example:
        >>> import torch
        >>> z = torch.randn(128, 8, generator=torch.Generator().manual_seed(1))
        >>> found = gaussianity(0.8 * z, num_slices=32)
        >>> found.gaussian, found.measures["vcreg"].z_score > 4
        (False, True)
    """

    gaussian: bool
    """True when `p_value` is above 0.05."""
    p_value: float
    """The share of samples of N(0, I), this sample included, whose largest z-score over the measures is at
    least that of this sample."""
    measures: dict[str, Measure]
    """Larger is less Gaussian, each on its own."""
    effective_rank: float
    """exp(entropy of the normalised covariance spectrum), 1...D."""
    null_effective_rank: float
    """Its mean under N(0, I) at this N and D; below D because N is finite."""
    worst_slice: Tensor
    """The unit vector (D,) of the slice with the largest Epps-Pulley value: where to look."""
    N: int
    """Rows that count."""
    D: int
    effective_N: float
    """(sum w)^2 / sum w^2: N without weights."""
    rank: float
    """The dimensions of a Gaussian whose sample of this size has this effective rank: D for N(0, I)."""
    expected: float
    """The mean of `epps_pulley` under N(0, I), at every N: 1.0525."""
    reachable: float
    """The lowest mean of `epps_pulley` of a Gaussian of this rank, at this N; see `reachable_value`."""
    collapsed: float
    """The value of `epps_pulley` where every embedding is 0: 0.40205 N."""

    def __repr__(self) -> str:
        verdict = "Gaussian, as far as this sample can tell" if self.gaussian else "not Gaussian"
        lines = [
            f"{verdict} (p = {self.p_value:.3f}; N = {self.N}, D = {self.D})",
            f"{'':18}{'value':>11}{'N(0, I)':>11}{'z':>9}{'p':>8}",
        ]
        for name, m in self.measures.items():
            lines.append(f"{name:18}{m.value:11.4g}{m.null_mean:11.4g}{m.z_score:9.1f}{m.p_value:8.3f}")
        rank = f"{self.effective_rank:.1f} of {self.D} (N(0, I): {self.null_effective_rank:.1f})"
        reach = f"epps_pulley of a Gaussian of rank {self.rank:.1f} is {self.reachable:.4g} at best "
        reach += f"at this N; of N(0, I) {self.expected:.4g}"
        value = self.measures["epps_pulley"].value
        if abs(value - self.collapsed) < 1e-4 * self.collapsed:
            reach = f"epps_pulley {value:.6g} is 0.40205 N, its value at an exact collapse onto 0"
        return "\n".join([*lines, f"effective rank {rank}", reach])


def gaussianity(
    z: Tensor | Any,
    *,
    weights: Tensor | Any | None = None,
    num_slices: int = 256,
    num_null: int = 99,
    seed: int = 0,
) -> Gaussianity:
    """How far embeddings are from N(0, I), calibrated against samples of N(0, I).

    The measures, all larger when less Gaussian:

    - `epps_pulley`, `anderson_darling`, `jarque_bera`, `vcreg`: means over random slices;
    - `worst slice`: the largest Epps-Pulley value among these and the D coordinate axes, since a single
      dead or quantised unit hardly changes the mean over random slices;
    - `mean`: |mean(z)|;  `covariance`: Frobenius distance of the covariance to I, over sqrt(D);
    - `rank deficit`: D minus the effective rank.

    Args:
        z: embeddings `(N, D)` of one process and one view, a tensor or a NumPy array of any floating dtype;
            computed in float32.
        weights: `(N,)`, a tensor or an array, bool or non-negative floats.  A mask equals removing the rows;
            other weights give the weighted statistics, mean and covariance, held against samples of N(0, I)
            with these weights.
        num_slices: random directions, K.
        num_null: samples of N(0, I); p-values are multiples of 1/(num_null + 1).  The null is computed
            once for each (N, D, num_slices, num_null, seed, unequal weights) and kept, so a monitor that
            calls again and again pays for it once; it costs num_null times the report.
        seed: of the directions and the null; the global generator is not touched.

    Returns:
        A `Gaussianity`: deterministic, numbers as floats.  The verdict compares the largest of the eight
        z-scores with the largest one of each sample of N(0, I), so that a sample of N(0, I) is called not
        Gaussian in 1 of 20 cases although eight numbers are tested.

    Raises:
        TypeError: `z` is not a floating-point tensor or array, weights are neither bool nor floating-point,
            or num_slices, num_null or seed is no int.
        ValueError: z is not (N, D), fewer than two rows count, one of them is not finite or has squares that
            are not, unusable weights,
            num_slices < 1, or num_null < 19 (no verdict at 1 in 20).

    Example:
        >>> import torch
        >>> z = torch.randn(128, 8, generator=torch.Generator().manual_seed(1))
        >>> gaussianity(z, num_slices=32).gaussian, gaussianity(0.8 * z, num_slices=32).gaussian
        (True, False)
    """
    assert_int(1, num_slices=num_slices)
    assert_int(19, num_null=num_null)  # fewer cannot tell 1 in 20
    assert_int(seed=seed)
    z = embeddings(z)
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        z, w = _counted(z, as_tensor(weights))
        if not z.isfinite().all():
            raise ValueError("z holds inf or nan; look for the step where the loss stopped being finite")
        if not (largest := z.abs().max()).square().isfinite():
            raise ValueError(
                f"z holds numbers as large as {largest:.0e}, whose squares leave float32; scale it"
            )
        N, D = z.shape
        effective_N = N if w is None else float(w.sum().square() / w.square().sum())
        A = gaussian(D, num_slices, seed=seed, device=z.device)
        measured, worst = _measure(z, A, w)
        unequal = None if w is None else tuple(w.tolist())
        null = _null(N, D, num_slices, num_null, seed, z.device, unequal)  # (num_null, measures)
        mean, sd = null.mean(0), null.std(0).clamp(min=1e-12)
        scores, null_scores = (measured - mean) / sd, (null - mean) / sd
        p_values = _share(null, measured)
        p_value = float(_share(null_scores.amax(1), scores.amax()))
    columns = (measured.tolist(), mean.tolist(), scores.tolist(), p_values.tolist())
    measures = {name: Measure(*row) for name, *row in zip(_NAMES, *columns, strict=True)}
    deficit = measures["rank deficit"]
    rank = rank_behind(D - deficit.value, effective_N, D)
    return Gaussianity(
        gaussian=p_value > LEVEL,
        p_value=p_value,
        measures=measures,
        effective_rank=D - deficit.value,
        null_effective_rank=D - deficit.null_mean,
        worst_slice=worst,
        N=N,
        D=D,
        effective_N=effective_N,
        rank=rank,
        expected=expected_value(),
        reachable=reachable_value(rank, effective_N, D),
        collapsed=collapsed_value(effective_N),
    )


def _counted(z: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The rows of positive weight in float32, and their weights with the mean 1 unless these are equal."""
    if weights is None:
        return z.float(), None
    sample = Sample(z, weights)  # checks both
    assert sample.weights is not None
    w = sample.weights[sample.weights > 0].double()
    z = checked(sample.x[sample.weights > 0]).float()
    return z, None if (w == w[0]).all() else w / w.mean()


_NAMES = (
    "epps_pulley",
    "anderson_darling",
    "jarque_bera",
    "vcreg",
    "worst slice",
    "mean",
    "covariance",
    "rank deficit",
)


def _measure(z: Tensor, A: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The measures in the order of `_NAMES`, and the worst slice."""
    N, D = z.shape
    share = z.new_full((N, 1), 1 / N) if weights is None else (weights / weights.sum())[:, None].to(z.dtype)
    mean = z.mean(0) if weights is None else (share * z).sum(0)
    covariance = (share * (z - mean)).T @ (z - mean)
    spectrum = torch.linalg.eigvalsh(covariance.double()).clamp(min=0)
    x = Sample(z @ A, weights)  # (N, K)
    ep = epps_pulley(x)
    each = torch.cat([ep, epps_pulley(z, weights=weights)])  # (K + D,)
    worst = torch.cat([A, torch.eye(D, device=z.device)], dim=1)[:, each.argmax()]
    numbers = [
        *(values.mean() for values in (ep, anderson_darling(x), jarque_bera(x), vcreg(x))),
        each.max(),
        mean.norm(),
        (spectrum - 1).norm() / D**0.5,
        D - effective_rank(spectrum),
    ]
    return torch.stack([n.double() for n in numbers]), worst


@functools.lru_cache(maxsize=8)
def _null(
    N: int,
    D: int,
    num_slices: int,
    num_null: int,
    seed: int,
    device: torch.device,
    weights: tuple[float, ...] | None,
) -> Tensor:
    """The measures of `num_null` samples of N(0, I) with these weights: `(num_null, measures)`."""
    w = None if weights is None else torch.tensor(weights, dtype=torch.float64, device=device)
    A = gaussian(D, num_slices, seed=seed, device=device)
    rows = []
    for step in range(num_null):
        z = normal_numbers(N * D, seed ^ _NULL_SEED, step, device).reshape(N, D)
        rows.append(_measure(z, A, w)[0])
    return torch.stack(rows)


def _share(null: Tensor, value: Tensor) -> Tensor:
    """The p-value by rank: (1 + how many of the null are as large) / (1 + how many there are)."""
    return (1 + (null >= value).sum(0)) / (1.0 + len(null))

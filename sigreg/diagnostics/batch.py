"""A diagnosis of what a criterion was given: views and calls of one step, spread over processes.

A training step tests each view by itself and averages, and so does this: every number is computed for each
leading index, over the rows of all processes, and averaged over leading indices; N is the number of rows of
one of them.  The rows stay where they are: processes exchange sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sigreg.collectives import Group
from sigreg.diagnostics.findings import Diagnosis, _found
from sigreg.diagnostics.measured import Measured
from sigreg.diagnostics.null import chi_square_z, f_z, kurtosis_of_slices_sd, kurtosis_z, value_z
from sigreg.diagnostics.rank import effective_rank, expected_effective_rank, rank_behind
from sigreg.diagnostics.reachable import collapsed_value, expected_value, reachable_value
from sigreg.directions import gaussian
from sigreg.sample import Sample
from sigreg.univariate import epps_pulley

SEED = 0x100C  # other slices than a loss has whose seed is small
BINS = 80
SLICE_RANGE = 5.0
NORM_RANGE = 3.0
_OF_ROWS = ("length", "length_square", "row_mean", "row_mean_square", "row_variance", "row_sd")
_SCALARS = ("N", "mean_square", "across", *_OF_ROWS)


@dataclass(frozen=True)
class BatchDiagnosis:
    """A diagnosis and what its picture shows."""

    diagnosis: Diagnosis
    covariance: float
    """Frobenius distance of the covariance to I, over sqrt(D)."""
    worst_value: float
    """Epps-Pulley along `worst_slice`."""
    worst_slice: Tensor
    """The least normal direction among random ones and the coordinates: a unit vector (D,)."""
    spectrum: Tensor
    """Variances along the principal directions, in falling order: (D,)."""
    slice_histogram: Tensor
    """Share of the rows in each of `BINS` bins of [-SLICE_RANGE, SLICE_RANGE] along `worst_slice`; the outer
    bins are open."""
    norm_histogram: Tensor
    """Share of the rows whose length / sqrt(D) is in each of `BINS` bins of [0, NORM_RANGE]; the last bin is
    open."""


@torch.no_grad()
def diagnose_batch(
    calls: Sequence[tuple[Tensor, Tensor | None]],
    *,
    group: Group = "auto",
    num_slices: int = 256,
    seed: int = SEED,
) -> BatchDiagnosis:
    """Diagnose the embeddings that a criterion was given in one step, over all processes of `group`.

    Args:
        calls: (z, weights) of each call: z `(..., N, D)` with one D, weights that broadcast to `(..., N)` or
            None.  Every process needs as many calls with the same leading dimensions; N may differ.
        group: the processes that share the batch.
        num_slices: random directions, tested besides the D coordinates.
        seed: of the directions; the global generator is not touched.

    Returns:
        A `BatchDiagnosis`, the same on every process.  It has the findings of `diagnose` except those that
        need the rows themselves: two clusters along a direction, and rows that continue one another.

    Raises:
        ValueError: no call, widths that differ, fewer than two rows, or embeddings that are not finite (on
            every process, if they are so on one).

    Example:
        >>> views = torch.randn(2, 256, 8, generator=torch.Generator().manual_seed(0))
        >>> print(diagnose_batch([(views, None)]).diagnosis)
        healthy
        >>> collapsed = diagnose_batch([(0 * view, None) for view in views]).diagnosis
        >>> print(collapsed.findings[0].evidence)
        all rows are 0; SIGReg is 102.924, its value at an exact collapse, 0.40205 N
    """
    widths = sorted({z.shape[-1] for z, _ in calls})
    if len(widths) != 1:
        raise ValueError(f"expected calls with embeddings of one width, got {widths or 'no call'}")
    (D,), device = widths, calls[0][0].device
    with torch.autocast(device.type, enabled=False):
        rows = [_Rows(z, weights, group) for z, weights in calls]
        A = gaussian(D, num_slices, seed=seed, device=rows[0].x.device)
        axes = torch.cat([A, torch.eye(D, device=A.device)], dim=1)  # (D, K + D)
        each = [r.averages(axes) for r in rows]
        mean = _mean_over_views({name: torch.cat([e[name] for e in each]) for name in each[0]})
        worst = mean["values"].argmax()
        histograms = torch.stack([r.histograms(axes[:, worst]) for r in rows]).sum(0)
        (histograms,) = rows[0].sample.group.all_reduce(histograms)
        finite = torch.stack([value.isfinite().all() for value in mean.values()]).all()
        covariance, towards = (torch.nan_to_num(mean[name]) for name in ("covariance", "towards"))
        spectrum = torch.linalg.eigvalsh(covariance).clamp(min=0).flip(0)
        towards = torch.linalg.eigvalsh(towards).clamp(min=0)
        parts = [finite.to(spectrum), mean["values"][:num_slices].mean(), mean["values"][worst]]
        parts += [mean[name] for name in _SCALARS]
        parts += [spectrum, towards, mean["kurtosis"], histograms]
        message = torch.cat([part.reshape(-1) for part in parts]).cpu()  # the only wait for the device
    sizes = [3 + len(_SCALARS), D, D, num_slices + D, BINS, BINS]
    numbers, spectrum, towards, kurtosis, along, lengths = torch.split(message, sizes)
    ok, value, worst_value, *rest = numbers.tolist()
    scalars = dict(zip(_SCALARS, rest, strict=True))
    if not ok:
        raise ValueError("the embeddings hold inf or nan; look for the step where the loss became non-finite")
    if scalars["N"] < 2:
        raise ValueError("no view has two rows or more; a data loader's last batch may be that small")
    direction = axes[:, worst].cpu()
    measured = _measured(
        scalars, value, spectrum, float(effective_rank(towards)), kurtosis, num_slices, direction
    )
    distance = float((spectrum - 1).norm()) / math.sqrt(D)
    diagnosis = Diagnosis(list(_found(measured)), measured)
    return BatchDiagnosis(
        diagnosis, distance, worst_value, direction, spectrum, along / along.sum(), lengths / lengths.sum()
    )


class _Rows:
    """One call's rows `(V, N, D)` with weights `(V, N)`, of this process; sums in float64."""

    def __init__(self, z: Tensor, weights: Tensor | None, group: Group) -> None:
        views = math.prod(z.shape[:-2])  # -1 is ambiguous where N is 0
        if weights is not None:
            weights = weights.expand(z.shape[:-1]).reshape(views, z.shape[-2])
        z = z.cpu() if z.device.type == "mps" else z  # which has no float64
        weights = weights if weights is None else weights.to(z.device)
        self.sample = Sample(z.reshape(views, *z.shape[-2:]), weights, group)
        self.x, w = self.sample.x.double(), self.sample.weights
        self.w = self.x.new_ones(self.x.shape[:2]) if w is None else w.double()

    def _sum(self, values: Tensor) -> Tensor:
        """`(V, N, C) -> (V, C)`."""
        return (self.w.unsqueeze(1) @ values).squeeze(1)

    def _outer(self, values: Tensor) -> Tensor:
        """`(V, N, C) -> (V, C, C)`."""
        return (self.w.unsqueeze(-1) * values).mT @ values

    def averages(self, axes: Tensor) -> dict[str, Tensor]:
        """What is averaged over views, each `(V, ...)`, from the rows of all processes."""
        x, D, all_reduce = self.x, self.x.shape[-1], self.sample.group.all_reduce
        values = epps_pulley(self.sample.replaced(self.sample.x @ axes.to(self.sample.x.dtype)))
        w1, w2, total = all_reduce(self.w.sum(1), self.w.square().sum(1), self._sum(x))
        W, N = w1.clamp(min=1e-30), w1.square() / w2.clamp(min=1e-30)
        mean = total / W.unsqueeze(-1)
        d = x - mean.unsqueeze(1)
        rounding = 4 * torch.finfo(self.sample.x.dtype).eps * mean.abs()
        d = torch.where(d.abs() <= rounding.unsqueeze(1), 0.0, d)
        row_means = x.mean(-1)
        row_variances = (x - row_means.unsqueeze(-1)).square().sum(-1) / max(D - 1, 1)
        lengths = x.norm(dim=-1)
        of_rows = [lengths, lengths.square(), row_means, row_means.square()]
        of_rows += [row_variances, row_variances.sqrt()]
        along, towards = d @ axes.double(), normalize(d, dim=-1)
        sums = [self._outer(d), self._outer(towards), self._sum(towards), self._sum(torch.stack(of_rows, -1))]
        sums += [self._sum(along.square()), self._sum(along.square().square())]
        spread, directed, direction, numbers, m2, m4 = (
            s / W.reshape(-1, *[1] * (s.ndim - 1)) for s in all_reduce(*sums)
        )
        constant = m2 <= 1e-24 * m2.amax(-1, keepdim=True).clamp(min=1e-280)
        return {
            "N": N,
            "values": values.double(),
            "covariance": spread * (N / (N - 1).clamp(min=1)).reshape(-1, 1, 1),
            "towards": directed - direction.unsqueeze(-1) * direction.unsqueeze(-2),
            "mean_square": mean.square().sum(-1),
            "across": torch.einsum("vi,vij,vj->v", mean, spread, mean),
            **dict(zip(_OF_ROWS, numbers.unbind(-1), strict=True)),
            "kurtosis": torch.where(constant, 3.0, m4 / torch.where(constant, 1.0, m2).square()),
        }

    def histograms(self, direction: Tensor) -> Tensor:
        """This process's rows along a direction and by length: `(2, BINS)`."""
        along = (self.x @ direction.double()) / (2 * SLICE_RANGE) + 0.5
        lengths = self.x.norm(dim=-1) / (NORM_RANGE * math.sqrt(self.x.shape[-1]))
        bins = (torch.stack([along, lengths]).flatten(1).nan_to_num() * BINS).long().clamp(0, BINS - 1)
        w = self.w.flatten().expand_as(bins)
        return torch.zeros(2, BINS, dtype=w.dtype, device=w.device).scatter_add_(1, bins, w)


def _mean_over_views(each: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means over the leading dimension, without views of fewer than two rows."""
    valid = each["N"] >= 2
    share = valid.double() / valid.sum().clamp(min=1)
    return {
        name: torch.tensordot(share, torch.where(valid.reshape(-1, *[1] * (e.ndim - 1)), e, 0.0), 1)
        for name, e in each.items()
    }


def _measured(
    s: dict[str, float],
    value: float,
    spectrum: Tensor,
    directional: float,
    kurtosis: Tensor,
    K: int,
    direction: Tensor,
) -> Measured:
    """As `measured.measure` has them; the fields that need rows are those of N(0, I)."""
    N, D, n = s["N"], len(spectrum), s["N"] - 1
    total, squares = float(spectrum.sum()), float(spectrum.square().sum())
    safe, sd = max(total, 1e-150), math.sqrt(total / D)
    effective = float(effective_rank(spectrum))
    rank = rank_behind(effective, N, D)
    population = n**2 / ((n + 2) * max(n - 1, 1)) * (squares - total**2 / n)
    population = max(population, total**2 / (D * 10))
    dof = D * (D + 1) / 2 - 1
    relative, null = D * squares / safe**2 - 1, (D + 2) * (D - 1) / (n * D + 2)
    unbiased = N / n
    length_sd = math.sqrt(max(s["length_square"] - s["length"] ** 2, 0.0) * unbiased)
    expected_sd = math.sqrt((2 * population + 4 * s["across"]) / (4 * max(s["length_square"], 1e-300)))
    even = s["row_variance"] <= 1e-28 * s["row_mean_square"]  # rows hold one value each, to rounding
    row_variance = max(s["row_variance"], 1e-300)
    of_rows = max(s["row_mean_square"] - s["row_mean"] ** 2, 0.0) * unbiased * D / row_variance
    row_sd = math.sqrt(row_variance / (2 * max(D - 1, 1)))
    row_sd_sd = math.sqrt(max(s["row_variance"] - s["row_sd"] ** 2, 0.0) * unbiased)
    excess = kurtosis - 3 * n / (N + 1)
    z = kurtosis_z(kurtosis, round(N)) if N >= 20 else torch.zeros_like(kurtosis)
    return Measured(
        N=round(N),
        D=D,
        value=value,
        value_z=value_z(value, K, D, expected_value()),
        expected=expected_value(),
        reachable=reachable_value(round(rank, 2), round(N), D),
        collapsed=collapsed_value(N),
        sd=sd,
        sd_z=chi_square_z(n * total, n * D),
        offset=math.sqrt(s["mean_square"] / safe),
        offset_z=f_z(N * s["mean_square"] / safe, D, n * D),
        spread=math.sqrt(total / max(s["length_square"], 1e-300)),
        effective_rank=effective,
        expected_effective_rank=expected_effective_rank(N, D),
        rank=rank,
        rank_of_directions=rank_behind(directional, N, D),
        constant_directions=int((spectrum <= 1e-13 * spectrum[0]).sum()) if n >= 2 * D else 0,
        constant_units=0,
        unevenness=max(D * population / safe**2 - 1, 0.0) if D > 1 else 0.0,
        unevenness_z=chi_square_z(relative / null * dof, dof) if D > 1 else 0.0,
        smallest_sd=float(spectrum[min(round(n), D) - 1]) ** 0.5,
        largest_sd=float(spectrum[0]) ** 0.5,
        expected_sds=(abs(1 - math.sqrt(D / n)), 1 + math.sqrt(D / n)),
        norm=s["length"],
        norm_variation=length_sd / max(expected_sd, 1e-300),
        row_mean=1.0 if even else math.sqrt(of_rows),
        row_mean_z=0.0 if even else f_z(of_rows, n, N * (D - 1)),
        row_offset=1.0 if even else math.sqrt(s["row_mean_square"] * D / row_variance),
        row_sd_variation=1.0 if even else row_sd_sd / row_sd,
        tails=float(excess[:K].mean()),
        tails_z=float(z[:K].mean()) / kurtosis_of_slices_sd(K, D),
        unit_tails=float(excess[K:].mean()),
        unit_tails_z=float(z[K:].mean()) * math.sqrt(D),
        direction=direction,
        direction_name="the worst slice",
        direction_z=0.0,
        direction_excess=0.0,
        direction_separation=0.0,
        persistence=0.0,
        persistence_z=0.0,
        smoothness=-0.5,
    )

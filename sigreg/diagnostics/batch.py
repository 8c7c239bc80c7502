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

from sigreg.arguments import assert_int
from sigreg.collectives import Group, resolve
from sigreg.diagnostics.findings import Diagnosis, named_findings
from sigreg.diagnostics.measured import Moments, per_row
from sigreg.diagnostics.null import excess_kurtosis, kurtosis_z
from sigreg.directions import gaussian
from sigreg.sample import Sample, checked, weights_of_rows
from sigreg.univariate import epps_pulley

SEED = 0x100C  # other slices than a loss has whose seed is small
BINS = 80
SLICE_RANGE = 5.0
NORM_RANGE = 3.0


@dataclass(frozen=True)
class BatchDiagnosis:
    """A diagnosis and what its picture shows.

    Example:
        >>> import torch
        >>> views = torch.randn(2, 256, 8, generator=torch.Generator().manual_seed(0))
        >>> found = diagnose_batch([(views, None)])
        >>> found.diagnosis.healthy, found.worst_slice.shape, found.spectrum.shape
        (True, torch.Size([8]), torch.Size([8]))
    """

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
        TypeError: a call is no pair (z, weights), z is no floating-point tensor, weights are neither bool nor
            floating-point, or num_slices or seed is no int.
        ValueError: num_slices < 1, no call, widths that differ, z with fewer than two dimensions, weights
            that do not fit, fewer than two rows, or embeddings that are not finite or have fourth powers that
            are not (on every process, if they are so on one).

    Example:
        >>> import torch
        >>> views = torch.randn(2, 256, 8, generator=torch.Generator().manual_seed(0))
        >>> print(diagnose_batch([(views, None)]).diagnosis)
        healthy
        >>> collapsed = diagnose_batch([(0 * view, None) for view in views]).diagnosis
        >>> print(collapsed.findings[0].evidence)
        all rows are 0; SIGReg is 102.924, its value at an exact collapse, 0.40205 N
    """
    assert_int(1, num_slices=num_slices)
    assert_int(seed=seed)
    if not all(isinstance(call, (tuple, list)) and len(call) == 2 for call in calls):
        raise TypeError("calls must hold a pair (z, weights) for each call; of one z: [(z, None)]")
    calls = [(checked(z, resolve(group), weights), weights) for z, weights in calls]
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
        direction = axes[:, mean["values"].argmax()]
        histograms = torch.stack([r.histograms(direction) for r in rows]).sum(0)
        (histograms,) = rows[0].sample.group.all_reduce(histograms)
        finite = torch.stack([value.isfinite().all() for value in mean.values()]).all()
        covariance, towards = (torch.nan_to_num(mean.pop(name)) for name in ("covariance", "towards"))
        mean |= {"finite": finite, "direction": direction, "histograms": histograms}
        mean["spectrum"] = torch.linalg.eigvalsh(covariance).clamp(min=0).flip(0)
        mean["spectrum_of_directions"] = torch.linalg.eigvalsh(towards)
        host = _to_host(mean)  # the only wait for the device
    N, spectrum, direction = float(host["N"]), host["spectrum"], host["direction"].to(axes.dtype)
    if not host["finite"]:
        raise ValueError(
            "the embeddings hold inf or nan, or numbers whose fourth powers leave float64; look for the step "
            "where the loss became non-finite"
        )
    if N < 2:
        raise ValueError("no view has two rows or more; a data loader's last batch may be that small")
    numbers, squares = host["of_rows"].reshape(2, 3)
    sds = ((squares - numbers.square()).clamp(min=0) * N / (N - 1)).sqrt()
    measured = Moments(
        N=N,
        K=num_slices,
        value=float(host["values"][:num_slices].mean()),
        mean=float(host["mean"]),
        across=float(host["across"]),
        spectrum=spectrum,
        spectrum_of_directions=host["spectrum_of_directions"],
        of_rows=torch.stack([numbers, squares, sds]),
        excess=excess_kurtosis(host["kurtosis"], N),
        kurtosis_z=kurtosis_z(host["kurtosis"], N),
        direction=direction,
    ).measured()
    diagnosis = Diagnosis(list(named_findings(measured)), measured)
    distance, worst_value = float((spectrum - 1).norm()) / math.sqrt(D), float(host["values"].max())
    along, by_length = (counts / counts.sum() for counts in host["histograms"].reshape(2, BINS))
    return BatchDiagnosis(diagnosis, distance, worst_value, direction, spectrum, along, by_length)


def _to_host(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers in float64 on the CPU, each flattened, by one copy."""
    message = torch.cat([part.flatten().double() for part in parts.values()]).cpu()
    return dict(zip(parts, torch.split(message, [part.numel() for part in parts.values()]), strict=True))


class _Rows:
    """One call's rows `(V, N, D)` with weights `(V, N)`, of this process; sums in float64."""

    def __init__(self, z: Tensor, weights: Tensor | None, group: Group) -> None:
        views = math.prod(z.shape[:-2])  # -1 is ambiguous where N is 0
        if weights is not None:
            weights = weights_of_rows(weights, z).reshape(views, z.shape[-2])
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
        x, all_reduce = self.x, self.sample.group.all_reduce
        values = epps_pulley(self.sample.replaced(self.sample.x @ axes.to(self.sample.x.dtype)))
        w1, w2, total = all_reduce(self.w.sum(1), self.w.square().sum(1), self._sum(x))
        W, N = w1.clamp(min=1e-30), w1.square() / w2.clamp(min=1e-30)
        mean = total / W.unsqueeze(-1)
        d = x - mean.unsqueeze(1)
        rounding = 4 * torch.finfo(self.sample.x.dtype).eps * mean.abs()
        d = torch.where(d.abs() <= rounding.unsqueeze(1), 0.0, d)
        towards, squares, numbers = normalize(d, dim=-1), (d @ axes.double()).square(), per_row(x)
        summed = [towards, torch.cat([numbers, numbers.square()], -1), squares, squares.square()]
        sums = all_reduce(self._outer(d), self._outer(towards), *map(self._sum, summed))
        spread, directed, direction, numbers, m2, m4 = (s / W.reshape(-1, *[1] * (s.ndim - 1)) for s in sums)
        constant = m2 <= 1e-24 * m2.amax(-1, keepdim=True).clamp(min=1e-280)
        return {
            "N": N,
            "values": values.double(),
            "covariance": spread * (N / (N - 1).clamp(min=1)).reshape(-1, 1, 1),
            "towards": directed - direction.unsqueeze(-1) * direction.unsqueeze(-2),
            "mean": mean.square().sum(-1),
            "across": torch.einsum("vi,vij,vj->v", mean, spread, mean),
            "of_rows": numbers,
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

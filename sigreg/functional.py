"""SIGReg as a pure function, for `torch.func`, `torch.compile` and `torch.export`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sigreg import kernels
from sigreg.collectives import Group
from sigreg.kernels import BACKENDS, Backend, no_autocast
from sigreg.sample import Sample
from sigreg.univariate.epps_pulley import epps_pulley, quadrature
from sigreg.univariate.statistic import Choice, Statistic, parse


def sigreg(
    z: Tensor,
    directions: Tensor,
    *,
    statistic: Choice = "epps_pulley",
    weights: Tensor | None = None,
    group: Group = None,
    backend: Backend = "auto",
    **settings: Any,
) -> Tensor:
    """The mean of a statistic over slices and views: mean_vk statistic(z_v @ a_k).

    Args:
        z: embeddings `(..., N, D)`, any floating dtype; leading dimensions (views, time steps) are tested
            one by one and averaged.
        directions: unit columns `(D, K)`, e.g. from `sigreg.directions`; they may require grad.
        statistic: a name in `sigreg.univariate`, a callable or a dict of weights over these (see `SIGReg`).
        weights: bool (a mask) or non-negative floats that broadcast to `(..., N)`, treated as constants.
            The distribution function or characteristic function becomes the weighted one, and N becomes
            (sum w)^2 / sum w^2, so that only the ratios of the weights matter; where the sum of their squares
            leaves the range that keeps its digits (1e-31...3e38 in float32) the value is not finite.  Rows of
            weight 0 get a gradient of 0, even if they hold NaN.  Views without a row of positive weight are
            left out of the mean; if there is no such row at all, the value is 0.
        group: the processes that share the batch: None (this one alone), "auto" or a process group.
        backend: how Epps-Pulley is computed; see `sigreg.kernels`.
        **settings: of the statistic, e.g. `t_max=5.0`.

    Returns:
        A scalar, float32 (float64 for float64), also under autocast.

    Raises:
        TypeError: z is not a floating-point tensor, or a setting that the statistic does not know.
        ValueError: shapes that do not fit, an unknown name, negative weights.

    Example:
        >>> import torch
        >>> from sigreg.directions import gaussian
        >>> z = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))
        >>> gradient = torch.func.grad(sigreg)(z, gaussian(64, 256))
        >>> gradient.shape
        torch.Size([128, 64])

    Source: LeJEPA, arXiv 2511.08544, section 4.
    """
    members = members_of(statistic, settings, backend)
    return mean_over_slices(Sample(z, weights, group), directions, members, backend)


def members_of(statistic: Choice, settings: Mapping[str, Any], backend: str) -> list[Statistic]:
    """The members of a choice of statistics, checked together with the backend that computes them."""
    members = parse(statistic, settings)
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; use one of {BACKENDS}")
    has_kernels = [_quadrature_of(member) for member in members if member.function is epps_pulley]
    if not has_kernels and backend not in ("auto", "eager"):
        raise ValueError(f"backend={backend!r} computes epps_pulley alone, got {statistic!r}; use 'auto'")
    return members


def _quadrature_of(member: Statistic) -> tuple[float, int, bool]:
    """t_max, num_points and unbiased of an Epps-Pulley member, as the kernels take them."""
    settings = dict(member.settings)
    unbiased = settings.pop("unbiased", False)
    if not isinstance(unbiased, bool):
        raise TypeError(f"unbiased={unbiased!r} must be True or False")
    return *quadrature(**settings), unbiased


def mean_over_slices(sample: Sample, A: Tensor, members: list[Statistic], backend: str) -> Tensor:
    """The weighted sum of the members' means over the slices A `(D, K)` and the views of the sample."""
    shape = tuple(A.shape) if isinstance(A, Tensor) else type(A).__name__
    if not isinstance(A, Tensor) or A.ndim != 2 or A.shape[0] != sample.x.shape[-1] or not A.shape[1]:
        raise ValueError(
            f"directions must be (D, K) with D = {sample.x.shape[-1]} as in z and K >= 1, got {shape}"
        )
    A = A.to(sample.x.dtype)
    terms: list[Tensor] = []
    projected: Sample | None = None
    with no_autocast(sample.x.device):
        for member in members:
            if member.function is epps_pulley:  # has kernels that need no stored projections
                t_max, num_points, unbiased = _quadrature_of(member)
                values = kernels.sliced_epps_pulley(
                    sample, A, t_max=t_max, num_points=num_points, unbiased=unbiased, backend=backend
                )
                mean = sample.mean_over_views(values)
            else:
                projected = sample.replaced(sample.x @ A) if projected is None else projected
                mean = projected.mean_over_views(member(projected).mean(-1))
            terms.append(mean if member.weight == 1 else member.weight * mean)
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum()

"""Epps-Pulley: the distance between characteristic functions."""

from __future__ import annotations

import math

from torch import Tensor

from sigreg.arguments import assert_int, assert_number
from sigreg.collectives import Group
from sigreg.kernels import ecf_sums
from sigreg.kernels.quadrature import epps_pulley_from_sums, points
from sigreg.sample import Sample

GRIDS = {"reference": (3.0, 17), "accurate": (4.0, 9)}


def quadrature(
    grid: str = "reference", t_max: float | None = None, num_points: int | None = None
) -> tuple[float, int]:
    """(t_max, num_points) of a named grid, either replaced by a number of one's own."""
    if grid not in GRIDS:
        raise ValueError(
            f"grid={grid!r} is unknown; use one of {sorted(GRIDS)}, or give t_max and num_points"
        )
    t_max = GRIDS[grid][0] if t_max is None else t_max
    num_points = GRIDS[grid][1] if num_points is None else num_points
    assert_number(t_max=t_max)
    assert_int(2, num_points=num_points)
    if not 0 < t_max < math.inf:
        raise ValueError(f"t_max={t_max} must be a positive number; the usual range is 3 to 5")
    return t_max, int(num_points)


def epps_pulley(
    x: Tensor | Sample,
    *,
    weights: Tensor | None = None,
    group: Group = None,
    grid: str = "reference",
    t_max: float | None = None,
    num_points: int | None = None,
    unbiased: bool = False,
) -> Tensor:
    r"""Epps-Pulley's statistic against N(0,1), with the Gaussian weight function.

        EP(x) = N ∫ |phi_hat(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt
        phi_hat(t) = mean_n exp(i t x_n)

    by the trapezoid rule on `num_points` points of [0, t_max], doubled, since the integrand is even.
    With weights, phi_hat(t) = sum_n w_n exp(i t x_n) / sum_n w_n and N = (sum w)^2 / sum w^2.

    Args:
        x: samples, `(..., N, K)`, any floating dtype; computed in float32 at least.
        weights: bool or non-negative floats that broadcast to `(..., N)`; rows of weight 0 do not count.
        group: the processes that share the sample: None (this one alone), "auto" or a process group.
        grid: "reference" is (t_max 3, 17 points), as every implementation uses; "accurate" is (4, 9),
            closer to the integral near the Gaussian at half the work.
        t_max: half-range of the integral, instead of the grid's.
        num_points: points on the half-line, t = 0 included, instead of the grid's.
        unbiased: use (N |phi_hat|^2 - 1) / (N - 1) for |phi_hat|^2, so that the mean under N(0,1) is 0.

    Returns:
        `(..., K)`, times N: a perfect N(0,1) has mean 1.05 at any N, and a sample collapsed onto 0
        has 0.402 N (0.409 N over the whole line).  With `unbiased`, a single row counts as 0.

    Raises:
        TypeError: `x` is not a floating-point tensor.
        ValueError: fewer than two dimensions or two samples, unusable weights, or an unusable grid.

    Example:
        >>> import torch
        >>> x = torch.zeros(100, 3)
        >>> epps_pulley(x) / 100
        tensor([0.4020, 0.4020, 0.4020])

    Source: Epps and Pulley, Biometrika 70 (1983); LeJEPA, arXiv 2511.08544, section 4.
    """
    sample = Sample.of(x, weights, group)
    t_max, num_points = quadrature(grid, t_max, num_points)
    C, S = ecf_sums(sample.x, None, sample.weights, t_max / (num_points - 1), num_points - 1)
    C, S = sample.all_reduce(C, S)
    phi, w = points(t_max, num_points, C)
    return epps_pulley_from_sums(C, S, sample.W, sample.N, phi, w, unbiased)

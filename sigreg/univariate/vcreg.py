"""Variance-covariance regularization in one dimension: mean and standard deviation only."""

from __future__ import annotations

from torch import Tensor

from sigreg.collectives import Group
from sigreg.sample import Number, Sample
from sigreg.univariate.central import central_moments, is_constant


def location_and_scale(N: Number, mean: Tensor, variance: Tensor) -> Tensor:
    """N [mean^2 + 2 (sd - 1)^2], with gradient 0 in sd where the sample is constant."""
    constant = is_constant(mean, variance)
    sd = variance.masked_fill(constant, 1.0).sqrt().masked_fill(constant, 0.0)
    return N * (mean.square() + 2 * (sd - 1).square())


def vcreg(x: Tensor | Sample, *, weights: Tensor | None = None, group: Group = None) -> Tensor:
    r"""Distance of mean and standard deviation to those of N(0,1).

        vcreg(x) = N [ mean(x)^2 + 2 (sd(x) - 1)^2 ],   sd(x)^2 = mean((x - mean(x))^2)

    Under N(0,1) it tends to a chi-squared variable with 2 degrees of freedom.  Near sd = 1 the
    second term equals the usual (sd^2 - 1)^2 / 2 to second order; unlike that one, its gradient does not
    vanish while the sample collapses onto a point, so that `{"epps_pulley": 1, "vcreg": 0.1}` leaves a
    collapse.  It does not depend on shape: a two-point sample at -1 and 1 scores 0.

    Args:
        x: samples, `(..., N, K)`, any floating dtype; computed in float32 at least.
        weights: bool or non-negative floats that broadcast to `(..., N)`; rows of weight 0 do not count.
        group: the processes that share the sample: None (this one alone), "auto" or a process group;
            two messages, mean first.

    Returns:
        `(..., K)`, times N: 2 on average at N(0,1), 2 N for a sample collapsed onto 0 (where its
        gradient is 0, since no direction leads out).

    Raises:
        TypeError: `x` is not a floating-point tensor.
        ValueError: fewer than two dimensions or two samples, unusable weights.

    Example:
        >>> import torch
        >>> x = torch.tensor([[-2.0], [2.0]])
        >>> vcreg(x)
        tensor([4.])

    Source: Bardes, Ponce and LeCun, VICReg, arXiv 2105.04906 (the standard deviation in place of
    the variance); LeJEPA, arXiv 2511.08544, section 4.
    """
    sample = Sample.of(x, weights, group)
    mean, (variance,) = central_moments(sample, 2)
    return location_and_scale(sample.N, mean, variance)

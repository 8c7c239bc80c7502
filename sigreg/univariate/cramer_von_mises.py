"""Cramér-von Mises: the squared distance between distribution functions."""

from __future__ import annotations

import torch
from torch import Tensor

from sigreg.collectives import Group
from sigreg.sample import Sample
from sigreg.univariate.order import ordered


def cramer_von_mises(x: Tensor | Sample, *, weights: Tensor | None = None, group: Group = None) -> Tensor:
    r"""Cramér-von Mises' statistic against N(0,1).

        W^2(x) = 1/(12 N) + sum_i (F(x_(i)) - (2i - 1)/(2N))^2,   F the cdf of N(0,1)

    With weights p_i = w_i / sum w and u_i in the middle of the i-th step of the weighted distribution
    function: N [ sum_i p_i (F(x_(i)) - u_i)^2 + sum_i p_i^3 / 12 ].

    Its gradient with respect to x_(i) is 2 (F - u_i) phi(x_(i)): bounded by 2 phi(0) = 0.798, and
    vanishing in the tails, so a sample beyond |x| = 6 receives almost no gradient.

    Args:
        x: samples, `(..., N, K)`, any floating dtype; computed in float32 at least.
        weights: bool or non-negative floats that broadcast to `(..., N)`; rows of weight 0 do not count.
        group: the processes that share the sample: None (this one alone), "auto" or a process group,
            which gathers the sample.

    Returns:
        `(..., K)`, equal to `scipy.stats.cramervonmises(x, "norm").statistic`; 1/6 on average at
        N(0,1), at any N, and about N/12 for a sample collapsed onto 0.

    Cost: a sort, O(N log N), and its scatter in the backward pass.  Forward and backward in float32 on
    one CPU core, K = 1024: 2.0 times `epps_pulley` at N = 128, 2.6 at 256, 3.1 at 1024 (measured side
    by side, torch 2.14).  Over several processes every process gathers the whole sample, where
    `epps_pulley` sends 32 numbers for each slice.

    Raises:
        TypeError: `x` is not a floating-point tensor.
        ValueError: fewer than two dimensions or two samples, unusable weights.

    Example:
        >>> import torch
        >>> x = torch.zeros(12, 1)
        >>> cramer_von_mises(x).round(decimals=4)
        tensor([1.])

    Source: Anderson, Annals of Mathematical Statistics 33 (1962).
    """
    s = ordered(Sample.of(x, weights, group))
    distance: Tensor = (s.p * (torch.special.ndtr(s.x) - s.u).square()).sum(-2) + s.p.pow(3).sum(-2) / 12
    return distance * s.N + s.nan_guard

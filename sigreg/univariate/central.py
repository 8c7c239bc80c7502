"""Mean and central moments, exact over any split of the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sigreg.sample import Sample


def central_moments(sample: Sample, highest: int) -> tuple[Tensor, list[Tensor]]:
    """`(..., N, K)` -> the mean and the central moments 2...highest, each `(..., K)`.

    Two rounds of sums, the mean first: moments about 0 would need one, but their differences lose
    every digit when the mean is large beside the spread.  The first round only finds a center c to
    measure from and carries no gradient; moments about c determine those about the mean,

        m_p = sum_j binom(p, j) a_j (-a_1)^{p-j},   a_j = mean_n((x_n - c)^j),

    so that the gradient passes through one sum alone (see `BatchGroup.all_reduce`).
    """
    (total,) = sample.all_reduce(sample.sum(sample.x.detach()))
    c = total / sample.W
    d = sample.x - c.unsqueeze(-2)
    sums = sample.all_reduce(*(sample.sum(d.pow(p)) for p in range(1, highest + 1)))
    a = [torch.ones_like(c), *(s / sample.W for s in sums)]
    central = [
        sum((math.comb(p, j) * a[j] * (-a[1]).pow(p - j) for j in range(p + 1)), torch.zeros_like(c))
        for p in range(2, highest + 1)
    ]
    return c + a[1], central


def is_constant(mean: Tensor, variance: Tensor) -> Tensor:
    """Where the spread is rounding error only, or so small that its powers underflow.

    NaN counts as spread, so that a non-finite sample stays non-finite.
    """
    finfo = torch.finfo(variance.dtype)
    rounding = (4 * finfo.eps * mean.detach()).square().clamp(min=finfo.tiny**0.5)
    return variance.detach() <= rounding

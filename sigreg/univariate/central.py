"""Mean and central moments, exact over any split of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from sigreg.collectives import Ranks


def central_moments(x: Tensor, highest: int, ranks: Ranks) -> tuple[Tensor | int, Tensor, list[Tensor]]:
    """`(..., N, K)` -> N, the mean and the central moments 2...highest, each `(..., K)`.

    Two rounds of sums, the mean first: moments about 0 would need one, but their differences lose
    every digit when the mean is large beside the spread.
    """
    n = x.shape[-2]
    (total,), N = ranks.sum(x.sum(-2), count=n)
    mean = total / N
    d = x - mean.unsqueeze(-2)
    sums, N = ranks.sum(*(d.pow(p).sum(-2) for p in range(2, highest + 1)), count=n)
    return N, mean, [s / N for s in sums]


def is_constant(mean: Tensor, variance: Tensor) -> Tensor:
    """Where the spread is rounding error only, or so small that its powers underflow.

    NaN counts as spread, so that a non-finite sample stays non-finite.
    """
    finfo = torch.finfo(variance.dtype)
    floor = (4 * finfo.eps * mean.detach()).square().clamp(min=finfo.tiny**0.5)
    return variance.detach() <= floor

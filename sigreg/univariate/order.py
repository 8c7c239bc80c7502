"""What the statistics of the sorted sample share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sigreg.sample import Number, Sample


class Ordered(NamedTuple):
    """The whole batch, sorted, with its (weighted) empirical distribution function."""

    x: Tensor
    """x_(1) <= ... <= x_(N), `(..., N, K)`."""
    p: Tensor
    """The step of the empirical distribution function at x_(i), w_i / W: `(N, 1)` or `(..., N, K)`."""
    u: Tensor
    """The middle of that step, (2i - 1) / 2N where all weights are equal."""
    above: Tensor
    """1 - u, with all its digits."""
    N: Number
    """The effective sample size: a number or `(..., 1)`."""
    nan_guard: Tensor
    """`(..., K)`: 0 for a finite sample, else NaN, because a cdf maps infinity to 0 or 1."""


def ordered(sample: Sample) -> Ordered:
    """Sort the sample of all processes along N."""
    sample = sample.whole()
    x, index = sample.x.sort(dim=-2)
    if sample.weights is None:
        w = x.new_ones(x.shape[-2], 1)
    else:
        w = sample.weights.unsqueeze(-1).expand(x.shape).gather(-2, index)
    W = sample.W.unsqueeze(-2) if isinstance(sample.W, Tensor) else sample.W
    below = w.cumsum(-2) - w / 2  # exact for a mask, so that it gives what removing the rows gives
    above = ((W - below) / W).clamp(min=0)  # W is summed in another order than `below`
    # Sorting moves infinities and NaN to the ends.  Value and gradient must show them: a GradScaler looks at
    # the gradient.
    ends = torch.cat([x[..., :1, :], x[..., -1:, :]], dim=-2)
    guard = (torch.where(ends.isfinite(), torch.zeros_like(ends), torch.nan) * ends).sum(-2)
    return Ordered(x, w / W, below / W, above, sample.N, guard)

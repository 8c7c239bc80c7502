"""The sorted sample: what the order-type statistics share."""

from __future__ import annotations

import torch
from torch import Tensor

from sigreg.univariate.contract import checked


def ordered(x: Tensor) -> tuple[Tensor, Tensor]:
    """`(..., N, K)` -> x_(1) <= ... <= x_(N) along N, and u_i = (2i - 1) / 2N as `(N, 1)`."""
    x = checked(x).sort(dim=-2).values
    N = x.shape[-2]
    i = torch.arange(1, N + 1, device=x.device, dtype=x.dtype).unsqueeze(-1)
    return x, (2 * i - 1) / (2 * N)


def zero_if_finite(x: Tensor) -> Tensor:
    """0 for a finite sorted sample, else nan: a cdf turns infinity into an innocent 0 or 1.

    Sorting brings infinities and nan to an end, so two samples tell.
    """
    return 0 * x[..., 0, :] + 0 * x[..., -1, :]

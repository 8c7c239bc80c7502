"""Epps-Pulley's sums as they are defined, in operations that autograd and `torch.func` differentiate.

Every other kernel is held to this one by value and gradient.  It stores P tensors of x's size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ecf_sums(x: Tensor, weights: Tensor | None, dt: float, P: int) -> tuple[Tensor, Tensor]:
    """C and S of `(..., N, K)` samples with weights `(..., N)` at t = dt, ... P dt: `(..., K, P)` each."""

    def total(values: Tensor) -> Tensor:
        return (values if weights is None else values * weights.unsqueeze(-1)).sum(-2)

    C = torch.stack([total((k * dt * x).cos()) for k in range(1, P + 1)], dim=-1)
    S = torch.stack([total((k * dt * x).sin()) for k in range(1, P + 1)], dim=-1)
    return C, S

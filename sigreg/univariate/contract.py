"""What every statistic promises: `(..., N, K) -> (..., K)`, float32 at least, smaller is more normal."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor

from sigreg.collectives import ALONE, Ranks


class Statistic(Protocol):
    """Any callable `(..., N, K) -> (..., K)`.

    A statistic made of sums over the sample may accept a keyword `ranks` and sum over the processes
    itself; any other is given the gathered sample.
    """

    def __call__(self, x: Tensor, /) -> Tensor: ...


def checked(x: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """`x` in float32 or float64, or an error that says what is wrong with it."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"expected a floating-point tensor (..., N, K), got {kind}; convert it with .float()")
    if x.ndim < 2:
        raise ValueError(f"expected (..., N, K), got shape {tuple(x.shape)}; one sample of N is x[:, None]")
    if ranks.size == 1 and x.shape[-2] < 2:
        raise ValueError(f"a statistic needs N >= 2 samples in dimension -2, got shape {tuple(x.shape)}")
    return x if x.dtype == torch.float64 else x.float()


def takes_ranks(statistic: Any) -> bool:
    """Whether a statistic sums over the processes itself; any other needs the gathered sample."""
    return "ranks" in inspect.signature(statistic).parameters

"""Random numbers that tests share: each a function of its seed, whatever was drawn before."""

import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """A sample of N(0, 1)."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def normal64(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed, dtype=torch.float64)


def mask_of(*shape: int, share: float = 0.6, seed: int = 0) -> Tensor:
    """True with the probability `share`."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share

"""What `gaussianity` and `diagnose` are given, as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sigreg.sample import checked


def embeddings(z: Any) -> Tensor:
    """Embeddings `(N, D)`, a tensor or an array, as a tensor in float32 or float64.

    Raises:
        TypeError: z is not floating-point, or neither a tensor nor an array.
        ValueError: z is not (N, D), or N < 2.
    """
    z = as_tensor(z)
    if isinstance(z, Tensor) and z.ndim != 2:
        hint = "pass z[view]" if z.ndim > 2 else "N values in one dimension are z[:, None]"
        raise ValueError(f"expected embeddings (N, D) of one view, got shape {tuple(z.shape)}; {hint}")
    return checked(z)


def as_tensor(x: Any) -> Any:
    """An array of NumPy, or what converts itself to one, as a tensor; anything else as it is."""
    if isinstance(x, Tensor) or not hasattr(x, "__array__"):
        return x
    return torch.tensor(x.__array__())  # a copy: as_tensor warns of an array that is read-only

"""A last batch of one row, at which hosts go on and `sigreg.SIGReg` stops."""

from __future__ import annotations

import torch
from torch import Tensor


def weights_of_one_row(z: Tensor, weights: Tensor | None) -> Tensor | None:
    """The weights `(1,)` of a single row `(..., 1, D)` that has none; else the weights as they are.

    With weights SIGReg takes a sample of one row.  Over several processes it takes one without them.
    """
    if weights is not None or z.shape[-2] != 1:
        return weights
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return None
    return torch.ones(1, dtype=torch.bool, device=z.device)

"""A last batch of one row, which other libraries' classes accept and `sigreg.SIGReg` refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sigreg.collectives import Group, resolve


def weights_of_one_row(z: Any, weights: Tensor | None, group: Group) -> Tensor | None:
    """The weights `(1,)` of a single row `(..., 1, D)` that has none; else the weights as they are.

    SIGReg accepts a sample of one row if it has weights, or if there are several processes.
    """
    one_row = isinstance(z, Tensor) and z.ndim > 1 and z.shape[-2] == 1
    if weights is not None or not one_row or resolve(group).size > 1:
        return weights
    return torch.ones(1, dtype=torch.bool, device=z.device)

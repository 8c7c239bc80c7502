"""LeJEPA's projector, as every adapter builds it."""

from __future__ import annotations

import itertools

from torch import nn


def projector(input_dim: int, hidden_dim: int, output_dim: int, num_layers: int = 3) -> nn.Sequential:
    """Linear layers with BatchNorm and ReLU between; nothing follows the last, so its output can be Gaussian.

    Shapes: `(N, input_dim)` -> `(N, output_dim)`.

    Example:
        >>> import torch
        >>> projector(512, 2048, 64)(torch.randn(4, 512)).shape
        torch.Size([4, 64])
    """
    layers = nn.Sequential()
    for width, next_width in itertools.pairwise([input_dim] + [hidden_dim] * (num_layers - 1)):
        layers.extend([nn.Linear(width, next_width, bias=False), nn.BatchNorm1d(next_width), nn.ReLU()])
    return layers.append(nn.Linear(hidden_dim, output_dim))

"""Multi-crop views of a whole batch at once, as tensors: a few operations instead of a loop over images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Scale = tuple[float, float]


def views(
    x: Tensor,
    count: int,
    scale: Scale,
    *,
    size: int | None = None,
    flip: bool = True,
    aspect: float = 4 / 3,
    rotate: float = 0.0,
    jitter: float = 0.4,
    noise: float = 0.05,
) -> Tensor:
    """`count` random views of every image: `(N, C, H, W)` in [0, 1] -> `(count, N, C, size, size)`.

    Each is a crop of a random share `scale` of the area with an aspect ratio in [1/aspect, aspect], possibly
    mirrored and turned by up to `rotate` degrees, then changed in brightness, contrast, colour and noise.
    """
    N, C = x.shape[:2]
    size = x.shape[-1] if size is None else size
    n = count * N
    batch = x.repeat(count, 1, 1, 1)  # view by view
    grid = F.affine_grid(_crops(n, scale, aspect, flip, rotate, x), [n, C, size, size], align_corners=False)
    out = F.grid_sample(batch, grid, padding_mode="reflection", align_corners=False)
    return _colour(out, jitter, noise).reshape(count, N, C, size, size)


def _uniform(n: int, low: float, high: float, like: Tensor) -> Tensor:
    return torch.empty(n, device=like.device, dtype=like.dtype).uniform_(low, high)


def _crops(n: int, scale: Scale, aspect: float, flip: bool, rotate: float, like: Tensor) -> Tensor:
    """Affine maps `(n, 2, 3)` from the crop to the image, in coordinates of [-1, 1]."""
    area = _uniform(n, *scale, like)
    stretch = _uniform(n, -math.log(aspect), math.log(aspect), like).exp().sqrt()
    w, h = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    dx, dy = (1 - w) * _uniform(n, -1, 1, like), (1 - h) * _uniform(n, -1, 1, like)
    angle = _uniform(n, -rotate, rotate, like).deg2rad()
    mirror = (_uniform(n, 0, 1, like) < 0.5).to(like.dtype).mul(-2).add(1) if flip else 1.0
    cos, sin = angle.cos(), angle.sin()
    rows = [w * cos * mirror, -h * sin, dx, w * sin * mirror, h * cos, dy]
    return torch.stack(rows, dim=-1).reshape(n, 2, 3)


def _colour(x: Tensor, jitter: float, noise: float) -> Tensor:
    """Contrast, brightness and, where there are colours, saturation and gray; each image its own."""
    n, C = x.shape[:2]

    def factor(width: float) -> Tensor:
        return _uniform(n, 1 - width, 1 + width, x)[:, None, None, None]

    if jitter:
        if C == 3:
            gray = x.mean(1, keepdim=True)
            keep = factor(jitter) * (_uniform(n, 0, 1, x) > 0.2)[:, None, None, None]  # one in five is gray
            x = gray + keep * (x - gray)
            x = x * _uniform(n * C, 1 - jitter / 2, 1 + jitter / 2, x).reshape(n, C, 1, 1)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (mean + factor(jitter) * (x - mean)) * factor(jitter)
    if noise:
        x = x + noise * torch.randn_like(x)
    return x.clamp(0, 1)

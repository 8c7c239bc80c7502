"""Scenes whose masks are known: a textured shape on textured ground.

Both textures are draws from one distribution (stripes or checks of two colours, any direction, wavelength and
contrast), so that nothing but the boundary between two textures tells the shape from its ground: no colour,
no pattern and no brightness belongs to shapes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SHAPES = ("disc", "square", "triangle", "cross", "star", "bar")
RADIUS = (0.18, 0.36)  # of a shape, as a share of the image's side
MARGIN = 0.03  # between a shape and the border, likewise
WAVELENGTH = (0.06, 0.2)  # of a texture, likewise
NOISE = 0.04
AT_ONCE = 100  # scenes drawn together


class Scenes(NamedTuple):
    """Images `(n, 3, s, s)` in uint8, their masks `(n, s, s)` and the index of each one's shape `(n,)`."""

    images: Tensor
    masks: Tensor
    shapes: Tensor


def draw(n: int, size: int, seed: int) -> Scenes:
    """`n` scenes of `size` pixels; every shape lies wholly in its image.

    The same for the same seed, and the first ones the same for every n.
    """
    g = torch.Generator().manual_seed(seed)
    parts = [_some(size, g) for _ in range(-(-n // AT_ONCE))]
    images, masks, shapes = (torch.cat(part)[:n] for part in zip(*parts, strict=True))
    return Scenes(images, masks, shapes)


def _some(size: int, g: torch.Generator) -> Scenes:
    n = AT_ONCE

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=g)

    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")  # (s, s) each, in [0, 1]
    radius = uniform(*RADIUS)[:, None, None]
    reach = radius + MARGIN
    cx, cy = (reach + (1 - 2 * reach) * uniform(0, 1)[:, None, None] for _ in range(2))
    turn = uniform(0, 2 * math.pi)[:, None, None]
    dx, dy = (x - cx) / radius, (y - cy) / radius
    u, v = turn.cos() * dx + turn.sin() * dy, turn.cos() * dy - turn.sin() * dx
    shapes = torch.randint(len(SHAPES), (n,), generator=g)
    masks = torch.zeros(n, size, size, dtype=torch.bool)
    for i, name in enumerate(SHAPES):
        masks[shapes == i] = _inside(name, u[shapes == i], v[shapes == i])
    shape, ground = (_texture(x, y, uniform) for _ in range(2))
    slope = uniform(-0.5, 0.5, 2)[..., None, None]
    light = 1 + slope[:, 0] * (x - 0.5) + slope[:, 1] * (y - 0.5)
    images = torch.where(masks[:, None], shape, ground) * light[:, None]
    images = images + NOISE * torch.randn(images.shape, generator=g)
    return Scenes(images.clamp(0, 1).mul(255).round().to(torch.uint8), masks, shapes)


def _inside(name: str, u: Tensor, v: Tensor) -> Tensor:
    """Which points, in units of the shape's radius and turned with it, belong to a shape."""
    rho, phi = torch.hypot(u, v), torch.atan2(v, u)
    if name == "disc":
        return rho < 0.9
    if name == "square":
        return torch.maximum(u.abs(), v.abs()) < 0.71
    if name == "triangle":
        third = 2 * math.pi / 3
        return rho * torch.cos(torch.remainder(phi, third) - third / 2) < 0.5
    if name == "cross":
        return (torch.minimum(u.abs(), v.abs()) < 0.28) & (torch.maximum(u.abs(), v.abs()) < 0.95)
    if name == "star":
        return rho < 0.68 + 0.32 * torch.cos(5 * phi)
    return (u.abs() < 0.95) & (v.abs() < 0.3)


def _texture(x: Tensor, y: Tensor, uniform) -> Tensor:  # type: ignore[no-untyped-def]
    """Textures `(n, 3, s, s)`: two colours, mixed by one wave (stripes) or by the product of two (checks)."""
    angle = uniform(0, math.pi)[:, None, None]
    wave = 2 * math.pi / uniform(*WAVELENGTH)[:, None, None]
    along = wave * (x * angle.cos() + y * angle.sin()) + uniform(0, 2 * math.pi)[:, None, None]
    across = wave * (y * angle.cos() - x * angle.sin()) + uniform(0, 2 * math.pi)[:, None, None]
    checks = (uniform(0, 1) < 0.5)[:, None, None]
    mixed = torch.where(checks, along.sin() * across.sin(), along.sin())
    mixed = 0.5 + 0.5 * torch.tanh(3 * mixed)  # (n, s, s)
    one, other = uniform(0.1, 0.9, 3)[..., None, None], uniform(0.1, 0.9, 3)[..., None, None]
    return one + (other - one) * mixed[:, None]

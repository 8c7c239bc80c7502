"""The world: an agent in a room with two walls, seen as a noisy image of 32 x 32 pixels.

Positions are in units of the room's width, actions in units of the longest move.  All functions take tensors
with any leading dimensions, so that thousands of agents move at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SIZE = 32  # pixels along each side
RADIUS = 0.04  # of the agent
LONGEST = 0.08  # the longest move along each axis in one step
WALLS = torch.tensor([[0.30, 0.00, 0.36, 0.66], [0.64, 0.34, 0.70, 1.00]])  # x0, y0, x1, y1
EMPTY = torch.empty(0, 4)  # a room without walls


class Episodes(NamedTuple):
    """B episodes of T steps: frames `(B, T, 1, 32, 32)`, actions `(B, T - 1, 2)`, positions `(B, T, 2)`."""

    frames: Tensor
    actions: Tensor
    positions: Tensor


def step(position: Tensor, action: Tensor, walls: Tensor = WALLS) -> Tensor:
    """The position `(..., 2)` after an action `(..., 2)`; a wall stops motion towards it, not along it."""
    move = LONGEST * action.clamp(-1, 1)
    for axis in (0, 1):
        before, position = position, position.clone()
        position[..., axis] = (before[..., axis] + move[..., axis]).clamp(RADIUS, 1 - RADIUS)
        for wall in walls:
            low, high = wall[:2] - RADIUS, wall[2:] + RADIUS
            face = torch.where(before[..., axis] <= low[axis], low[axis], high[axis])
            position[..., axis] = torch.where(_within(position, wall), face, position[..., axis])
    return position


def _within(position: Tensor, wall: Tensor) -> Tensor:
    """Where the agent would overlap a wall."""
    return ((position > wall[:2] - RADIUS) & (position < wall[2:] + RADIUS)).all(-1)


def free(position: Tensor, walls: Tensor = WALLS) -> Tensor:
    """Where the agent overlaps no wall."""
    blocked = [_within(position, wall) for wall in walls]
    return ~torch.stack([torch.zeros(position.shape[:-1], dtype=torch.bool), *blocked]).any(0)


def places(number: int, generator: torch.Generator, walls: Tensor = WALLS) -> Tensor:
    """Positions `(number, 2)`, uniform where the agent overlaps no wall."""
    found = torch.empty(0, 2)
    while len(found) < number:
        tried = RADIUS + (1 - 2 * RADIUS) * torch.rand(2 * number, 2, generator=generator)
        found = torch.cat([found, tried[free(tried, walls)]])
    return found[:number]


def random_actions(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Actions `(..., T, 2)` of the random policy: each is correlated, by 0.8, with the one before."""
    noise = torch.randn(*shape, 2, generator=generator)
    found = [noise[..., 0, :]]
    for t in range(1, shape[-1]):
        found.append(0.8 * found[-1] + 0.6 * noise[..., t, :])
    return torch.stack(found, dim=-2).clamp(-1, 1)


def drawing(position: Tensor, walls: Tensor = WALLS) -> Tensor:
    """The image `(..., 1, 32, 32)`, rows are y: the agent and the walls have brightness 1, the floor 0."""
    at = (torch.arange(SIZE) + 0.5) / SIZE
    x, y = position[..., 0, None, None] - at, position[..., 1, None, None] - at[:, None]
    image = torch.sigmoid((RADIUS - torch.hypot(x, y)) * 4 * SIZE)  # an edge of about one pixel
    for x0, y0, x1, y1 in walls:
        wall = (at >= x0) & (at <= x1) & (at[:, None] >= y0) & (at[:, None] <= y1)
        image = torch.maximum(image, wall.float())
    return image.unsqueeze(-3)


def camera(position: Tensor, noise: float, generator: torch.Generator, walls: Tensor = WALLS) -> Tensor:
    """What is seen: the drawing and Gaussian noise of that standard deviation, new in every frame."""
    image = drawing(position, walls)
    return image + noise * torch.randn(image.shape, generator=generator)


def episodes(number: int, steps: int, noise: float, seed: int, walls: Tensor = WALLS) -> Episodes:
    """Episodes of the random policy."""
    generator = torch.Generator().manual_seed(seed)
    actions = random_actions((number, steps - 1), generator)
    path = [places(number, generator, walls)]
    for t in range(steps - 1):
        path.append(step(path[-1], actions[:, t], walls))
    positions = torch.stack(path, dim=1)
    return Episodes(camera(positions, noise, generator, walls), actions, positions)

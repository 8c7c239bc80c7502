"""Epps-Pulley by its definition in float64, on any grid, and which grid a given copy has.

In one dimension every unit direction is +1 or -1 and the statistic is even, so a copy's value at
D = 1 does not depend on the directions it draws: it can be compared to the last digit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

FIT = 1e-4  # relative; float32 copies of one grid agree to 1e-6, neighbouring grids differ by 1e-3


@dataclass(frozen=True)
class Grid:
    """A quadrature of the integral over t: `half` is [0, t_max] doubled, otherwise [-t_max, t_max].

    `t_max = inf` stands for the closed form over the whole line.
    """

    t_max: float = 3.0
    num_points: int = 17
    half: bool = True

    def __str__(self) -> str:
        if self.t_max == math.inf:
            return "the closed form over the whole line"
        if self.half:
            return f"{self.num_points} points on [0, {self.t_max:g}], doubled"
        return f"{self.num_points} points on [-{self.t_max:g}, {self.t_max:g}]"

    def distance(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The statistic without its factor N: `(N,)` in float64 -> scalar, differentiable."""
        w = torch.ones_like(x) if weights is None else weights
        w = w / w.sum()
        if self.t_max == math.inf:
            pairs = w @ (-(x[:, None] - x).square() / 2).exp() @ w
            singles = w @ (-x.square() / 4).exp()
            return math.sqrt(2 * math.pi) * (pairs - math.sqrt(2) * singles + 1 / math.sqrt(3))
        t, dt = self.points()
        tx = t[:, None] * x  # (num_points, N)
        phi = (-t.square() / 2).exp()
        distance = (tx.cos() @ w - phi).square() + (tx.sin() @ w).square()
        return (dt * phi * distance).sum()

    def points(self) -> tuple[Tensor, Tensor]:
        """The points t and their trapezoid weights."""
        first = 0.0 if self.half else -self.t_max
        t = torch.linspace(first, self.t_max, self.num_points, dtype=torch.float64)
        dt = torch.full_like(t, (t[1] - t[0]).item() * (2 if self.half else 1))
        dt[[0, -1]] /= 2
        return t, dt


REFERENCE = Grid()
KNOWN = (
    REFERENCE,
    Grid(5.0),
    Grid(4.0, 9),
    Grid(3.0, 10, half=False),
    Grid(5.0, 17, half=False),
    Grid(math.inf),
)


def _grids() -> Iterator[Grid]:
    for t_max in (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0, 10.0):
        for num_points in range(3, 66):
            yield Grid(t_max, num_points)
            if num_points % 2 == 0:  # an odd number is the half-line grid again
                yield Grid(t_max, num_points, half=False)


@dataclass(frozen=True)
class Convention:
    """What a copy computes: `scale * N^power * distance`, with `error` relative to its own values."""

    scale: float
    power: float
    grid: Grid
    error: float

    def value(self, x: Tensor) -> Tensor:
        x = x.double().flatten()
        value: Tensor = self.scale * len(x) ** self.power * self.grid.distance(x)
        return value

    def __str__(self) -> str:
        factor = {0.0: "not times N", 1.0: "times N"}.get(self.power, f"times N^{self.power:g}")
        if abs(self.scale - 1) < FIT:
            return f"{factor}; {self.grid}"
        return f"{self.scale:.6g} times the statistic; {factor}; {self.grid}"


@functools.cache
def samples() -> tuple[Tensor, ...]:
    """Samples `(N, 1)` that tell one grid from another: narrow, Gaussian, wide, off-centre, far."""
    normal = torch.randn(6, 64, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    plain = [normal[0], 0.1 * normal[1], 2 * normal[2], normal[3] + 1.5, 12 * normal[4], normal[5, :16]]
    plain += [torch.zeros(16), torch.zeros(256), torch.full((32,), 5.0)]
    return tuple(x.float()[:, None] for x in plain)


def fitted(values: list[float]) -> Convention:
    """The convention closest to a copy's values on `samples()`; its `error` says how close."""
    small, large = values[6], values[7]  # collapsed at N = 16 and N = 256
    power = math.log(large / small) / math.log(16) if small > 0 and large > 0 else 1.0
    power = round(2 * power) / 2 if abs(power - round(2 * power) / 2) < 0.01 else power
    best = min((_with_grid(grid, values, power) for grid in KNOWN), key=lambda found: found.error)
    if best.error < FIT:
        return best
    return min(
        (_with_grid(grid, values, power, at_most=min(best.error, 0.05)) for grid in _grids()),
        key=lambda c: c.error,
    )


def _with_grid(grid: Grid, values: list[float], power: float, at_most: float = math.inf) -> Convention:
    """The best scale for one grid; gives up (with an infinite error) once it errs by more than `at_most`."""
    ratios: list[float] = []
    for value, x in zip(values, samples(), strict=True):
        ratios.append(value / (len(x) ** power * float(grid.distance(x.double().flatten()))))
        if max(ratios) > (1 + at_most) ** 2 * min(ratios):
            return Convention(1.0, power, grid, math.inf)
    scale = float(torch.tensor(ratios, dtype=torch.float64).median())
    error = max(abs(ratio / scale - 1) for ratio in ratios) if scale > 0 else math.inf
    return Convention(scale, power, grid, error)

"""Planning to a goal that is shown as a frame: random shooting, in the embeddings of a model.

Every four steps 128 sequences of 16 random actions are tried in the model; the first four actions of the one
whose path comes closest to the goal are taken.  An episode succeeds when the agent comes within 0.1 room
widths of the goal in 40 steps; the random policy has as many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor

from integrations.world_model import world
from integrations.world_model.model import WorldModel

WITHIN = 0.1  # of the goal, in room widths
APART = 0.3  # start and goal, at least
STEPS, HORIZON, CANDIDATES, REPLAN = 40, 16, 128, 4

# How near each path `(n, candidates)` comes, from positions `(n, 2)` and actions `(n, candidates, H, 2)`.
Closest = Callable[[Tensor, Tensor], Tensor]


class Tasks(NamedTuple):
    """Start and goal `(n, 2)`, and whether a wall lies on the straight line between them `(n,)`."""

    start: Tensor
    goal: Tensor
    behind: Tensor


def tasks(number: int, seed: int) -> Tasks:
    """Random tasks whose start and goal are apart."""
    generator = torch.Generator().manual_seed(seed)
    start, goal = world.places(4 * number, generator), world.places(4 * number, generator)
    far = (start - goal).norm(dim=1) > APART
    start, goal = start[far][:number], goal[far][:number]
    line = torch.lerp(start[:, None], goal[:, None], torch.linspace(0, 1, 101)[:, None])  # (n, 101, 2)
    return Tasks(start, goal, ~world.free(line).all(1))


def in_embeddings(model: WorldModel, goal: Tensor, noise: float, seed: int) -> Closest:
    """Distances in the embeddings of a model, which sees noisy frames of the start and of the goal."""
    generator = torch.Generator().manual_seed(seed)
    wanted = model.encode(world.camera(goal, noise, generator))[:, None, None]  # (n, 1, 1, D)

    def closest(position: Tensor, actions: Tensor) -> Tensor:
        z = model.encode(world.camera(position, noise, generator))
        path = model.rollout(z[:, None].expand(-1, actions.shape[1], -1), actions)
        return (path - wanted).norm(dim=-1).amin(-1)

    return closest


def in_truth(goal: Tensor) -> Closest:
    """Distances of true positions after true moves: what this planner can reach with a perfect model."""

    def closest(position: Tensor, actions: Tensor) -> Tensor:
        now, near = position[:, None].expand(-1, actions.shape[1], -1), []
        for action in actions.unbind(-2):
            now = world.step(now, action)
            near.append((now - goal[:, None]).norm(dim=-1))
        return torch.stack(near).amin(0)

    return closest


@torch.no_grad()
def paths(todo: Tasks, closest: Closest | None, seed: int) -> Tensor:
    """The positions `(n, 41, 2)` of a planner; of the random policy for None."""
    generator = torch.Generator().manual_seed(seed)
    n, path = len(todo.start), [todo.start]
    chosen = world.random_actions((n, STEPS), generator)
    for t in range(STEPS):
        if closest is not None and t % REPLAN == 0:
            tried = world.random_actions((n, CANDIDATES, HORIZON), generator)
            best = closest(path[-1], tried).argmin(1)
            chosen[:, t : t + REPLAN] = tried[torch.arange(n), best, :REPLAN]
        path.append(world.step(path[-1], chosen[:, t]))
    return torch.stack(path, dim=1)


def reached(path: Tensor, goal: Tensor) -> Tensor:
    """Which paths `(n, steps, 2)` come within 0.1 of their goals `(n, 2)`."""
    return ((path - goal[:, None]).norm(dim=-1) < WITHIN).any(1)


def success(path: Tensor, todo: Tasks) -> dict[str, float]:
    """Success rates: of all tasks, of those that no wall separates from the start and of those behind one."""
    ok = reached(path, todo.goal).float()
    rates = {"success": ok, "success_free": ok[~todo.behind], "success_behind": ok[todo.behind]}
    return {name: float(values.mean()) for name, values in rates.items()}


def interval(rate: float, number: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a success rate of so many tasks."""
    found = binomtest(round(rate * number), number).proportion_ci(method="wilson")
    return float(found.low), float(found.high)

"""One variant of the experiment: trained with SIGReg or without, untrained, or none (the references)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from integrations.world_model import planning, probes, world
from integrations.world_model.model import Settings, WorldModel, convolved, embed, health, train

VARIANTS = {
    "sigreg": "with SIGReg",
    "without": "without SIGReg",
    "untrained": "untrained",
    "reference": "pixels and other references",
}


@dataclass
class Setting:
    """The data of one seed.  Frames that measure are of other episodes than those that train."""

    training: Settings
    episodes: world.Episodes
    held_out: world.Episodes
    todo: planning.Tasks


def prepare(training: Settings, held_out: int = 400, tasks: int = 200) -> Setting:
    """Draws the episodes and the planning tasks of a seed."""
    seed, length, noise = 3 * training.seed, training.length, training.noise
    return Setting(
        training,
        world.episodes(training.episodes, length, noise, seed),
        world.episodes(held_out, length, noise, seed + 1),
        planning.tasks(tasks, seed + 2),
    )


def run(variant: str, setting: Setting) -> tuple[dict[str, Any], WorldModel | None]:
    """What a variant measures, flat, and its model."""
    if variant == "reference":
        return reference(setting), None
    if variant == "untrained":
        torch.manual_seed(setting.training.seed)
        model, log = WorldModel(setting.training.dim).eval(), []
    else:
        weight = setting.training.lambda_param if variant == "sigreg" else 0.0
        training = replace(setting.training, lambda_param=weight)
        model, log = train(training, setting.episodes, setting.held_out, VARIANTS[variant])
    found: dict[str, Any] = {f"curve_{key}": [row[key] for row in log] for key in (log or [{}])[0]}
    found |= health(model, setting.held_out)
    for end, encode in (("", embed), ("_convolved", convolved)):
        features = (encode(model, part.frames) for part in (setting.episodes, setting.held_out))
        decoded = probes.decodable(*features, setting.episodes, setting.held_out)
        found |= {f"{name}{end}": value for name, value in decoded.items()}
    errors = probes.rollout_errors(model, setting.episodes, setting.held_out)
    found |= {f"rollout_{key}": values for key, values in errors.items()}
    closest = planning.in_embeddings(model, setting.todo.goal, setting.training.noise, setting.training.seed)
    return found | _planned(setting, closest), model


def reference(setting: Setting) -> dict[str, Any]:
    """Pixels under the same probes, the random policy, and the planner in the true world."""
    pixels = (part.frames.flatten(2) for part in (setting.episodes, setting.held_out))
    found = probes.decodable(*pixels, setting.episodes, setting.held_out)
    truth = _planned(setting, planning.in_truth(setting.todo.goal))
    found |= {name.replace("success", "truth"): value for name, value in truth.items()}
    return found | _planned(setting, None)


def _planned(setting: Setting, closest: planning.Closest | None) -> dict[str, float]:
    return planning.success(planning.paths(setting.todo, closest, setting.training.seed), setting.todo)

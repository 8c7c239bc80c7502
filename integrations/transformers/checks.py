"""One step on one batch: what padding and the number of microbatches do to the loss and to the gradient."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from integrations.transformers import text
from integrations.transformers.model import BATCH, PARTS, bert, trainer

PADDING = 32  # more positions than the longest passage of a batch needs


@dataclass
class Step(TrainerCallback):
    """What Trainer logged of a step, and the gradient of all parameters."""

    loss: float = float("nan")
    sigreg: float = float("nan")
    gradient: Tensor | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = kwargs["model"].parameters()
        self.gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if "sigreg" in kwargs["logs"]:
            self.loss, self.sigreg = kwargs["logs"]["loss"], kwargs["logs"]["sigreg"]


def step(rows: list[text.Row], weight: float, **settings: Any) -> Step:
    """The first step of a new model on the first `BATCH` rows."""
    quiet = {"use_cpu": True, "disable_tqdm": True, "train_sampling_strategy": "sequential"}
    once = {"max_steps": 1, "logging_steps": 1, "max_grad_norm": 0.0}
    result = Step()
    one = trainer(bert(), rows[:BATCH], weight, **quiet | once | settings)
    one.add_callback(result)
    one.train()
    return result


def unmasked(rows: list[text.Row]) -> text.Row:
    """A batch whose mask says that padding counts: the mistake that a mask prevents."""
    batch = text.padded(rows, PADDING)
    return {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}


def mean_of_microbatches(rows: list[text.Row], weight: float) -> float:
    """SIGReg as accumulation without a first pass has it: of each microbatch by itself, averaged."""
    size = BATCH // PARTS
    parts = [rows[n : n + size] for n in range(0, BATCH, size)]
    found = [step(part, weight, parts=1, per_device_train_batch_size=size) for part in parts]
    return sum(each.sigreg for each in found) / PARTS


def compare(rows: list[text.Row], weight: float) -> dict[str, dict[str, float]]:
    """Loss and SIGReg of one batch in five ways, and the relative distance of the gradient to the first's."""
    rows = rows[:BATCH]
    steps = {
        "one batch": step(rows, weight, parts=1),
        f"{PARTS} microbatches": step(rows, weight),
        f"{PADDING} more padded positions": step(
            rows, weight, parts=1, collate=functools.partial(text.padded, more=PADDING)
        ),
        "without the mask": step(rows, weight, parts=1, collate=unmasked),
    }
    whole = steps["one batch"].gradient
    assert whole is not None
    table = {
        name: {
            "loss": each.loss,
            "sigreg": each.sigreg,
            "gradient differs by": float((each.gradient - whole).norm() / whole.norm()),
        }
        for name, each in steps.items()
    }
    return table | {"each microbatch by itself": {"sigreg": mean_of_microbatches(rows, weight)}}

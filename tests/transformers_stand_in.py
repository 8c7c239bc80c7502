"""A stand-in for transformers.Trainer: what SIGRegTrainer overrides, called as Trainer calls it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class Trainer:
    """One epoch over a list of batches, one optimizer step for each `accumulation` of them."""

    def __init__(self, model: nn.Module, batches: list[dict[str, Tensor]], accumulation: int = 1) -> None:
        self.model, self.batches = model, batches
        self.args = SimpleNamespace(
            n_gpu=0, device=torch.device("cpu"), gradient_accumulation_steps=accumulation
        )
        self.state = SimpleNamespace(global_step=0)
        self.accelerator = SimpleNamespace(unwrap_model=lambda model: model)
        self.model_accepts_loss_kwargs, self.compute_loss_func = False, None
        self.logs: list[dict[str, float]] = []

    def get_batch_samples(self, iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], None]:
        return [next(iterator) for _ in range(num_batches)], None

    def _prepare_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return inputs

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(**inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float]) -> None:
        self.logs.append(logs)

    def train(self) -> None:
        optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        iterator, parts = iter(self.batches), self.args.gradient_accumulation_steps
        self.model.train()
        for _ in range(len(self.batches) // parts):
            window, num_items = self.get_batch_samples(iterator, parts, self.args.device)
            total = 0.0
            for inputs in window:
                loss = self.compute_loss(self.model, inputs, num_items_in_batch=num_items) / len(window)
                loss.backward()
                total += float(loss.detach())
            optimizer.step()
            optimizer.zero_grad()
            self.state.global_step += 1
            self.log({"loss": total})

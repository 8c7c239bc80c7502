# mypy: disable-error-code="import-not-found,import-untyped,misc"
"""SIGReg for Hugging Face Transformers: a Trainer that adds it to the loss of any model.

    - trainer = Trainer(model, args, train_dataset=...)
    + trainer = SIGRegTrainer(model, args, train_dataset=..., sigreg_weight=0.05, pooling="mean")

Tried with transformers 5.23.0 and accelerate 1.15.0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from transformers import Trainer

from sigreg import SIGReg

Pooled = tuple[Tensor, "Tensor | None"]  # embeddings (N, D) and their weights (N,)
POOLINGS = ("tokens", "mean", "cls")
DRIFT = 0.05  # more than half precision's noise, less than another dropout mask


@dataclass
class Share:
    """One microbatch's share in SIGReg of a step: its embeddings, their gradient, a part of the value."""

    z: Tensor
    gradient: Tensor
    value: Tensor

    def of(self, z: Tensor) -> Tensor:
        """The part of the value, with its gradient in the second pass's embeddings."""
        z = z.float()
        moved, size = (z.detach() - self.z).norm(), self.z.norm()
        if not moved <= DRIFT * size and self.z.isfinite().all():
            raise RuntimeError(
                f"the second pass encoded a microbatch otherwise, by {float(moved / size):.0%}: the gradient "
                "would be wrong; take random numbers from torch's generators, which are replayed"
            )
        result: Tensor = _Given.apply(z, self.gradient, self.value)
        return result


class SIGRegTrainer(Trainer):
    """`Trainer` with `loss = task's loss + sigreg_weight * SIGReg(embeddings)`.

    SIGReg sees the embeddings of a whole optimizer step: all ranks and all accumulated microbatches, exactly.
    With `gradient_accumulation_steps` above 1 each microbatch is therefore encoded twice, first without a
    graph; dropout is the same both times.  Evaluation reports the task's loss alone.

    Args:
        *args: as Trainer's.
        sigreg_weight: the weight of SIGReg, >= 0.  The task's loss keeps the weight 1.
        pooling: what is an embedding in the base model's `last_hidden_state (B, L, D)`: "tokens", each token
            of the attention mask; "mean", the mean over them; "cls", the first token; or a function
            `(outputs, inputs) -> (N, D)`, or a pair of that and weights `(N,)`.
        sigreg: a `sigreg.SIGReg` with settings of your own.  Its directions follow from its seed and the
            optimizer step, so that a resumed run continues them.
        **kwargs: as Trainer's.

    Logs the mean of "sigreg", unweighted, beside "loss".

    Raises:
        ValueError: a negative weight, an unknown pooling, SIGReg with a memory, several GPUs in one process.
        TypeError: at the first step, a base model without `last_hidden_state (B, L, D)`.

    Source: LeJEPA, arXiv 2511.08544; the two passes are gradient caching, arXiv 2101.06983.
    """

    def __init__(
        self,
        *args: Any,
        sigreg_weight: float = 0.05,
        pooling: str | Callable[[Any, dict[str, Any]], Tensor | Pooled] = "mean",
        sigreg: SIGReg | None = None,
        **kwargs: Any,
    ) -> None:
        if not sigreg_weight >= 0:
            raise ValueError(f"sigreg_weight={sigreg_weight} must not be negative")
        if not callable(pooling) and pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r} is unknown; use one of {POOLINGS} or a function")
        super().__init__(*args, **kwargs)
        if self.args.n_gpu > 1:
            raise ValueError("DataParallel splits a batch where SIGReg cannot follow; launch with torchrun")
        self.sigreg_weight, self.pooling = sigreg_weight, pooling
        self.sigreg = SIGReg() if sigreg is None else sigreg
        if self.sigreg.memory is not None:
            raise ValueError(
                "SIGReg's memory serves small batches; here, accumulate more microbatches instead"
            )
        self._window: list[Any] = []  # the microbatches of this optimizer step
        self._shares: deque[Share] | None = None  # theirs in SIGReg, once the first pass has been made
        self._values: list[Tensor] = []  # of SIGReg, since the last log
        self._steps = 0
        self._watched: Any = None
        self._outputs: Any = None

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The microbatches of one optimizer step, which Trainer fetches before it runs the first."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        self._window, self._shares = batches, None
        self._steps += 1
        return batches, num_items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The task's loss of a microbatch and, in training, its part of the step's SIGReg."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._watch(model)
        if len(self._window) > 1 and self._shares is None:
            self._shares = self._first_pass(model, num_items_in_batch)
        loss, outputs = super().compute_loss(model, dict(inputs), True, num_items_in_batch)
        z, weights = self._pooled(inputs)
        if self._shares is None:
            term = self.sigreg(z, weights, step=self.state.global_step)
        else:
            term = self._shares.popleft().of(z)
        self._values.append(term.detach())
        if not self._is_scaled(num_items_in_batch):
            term = term * len(self._window)  # Trainer divides the loss by the number of microbatches
        loss = loss + self.sigreg_weight * term
        return (loss, outputs) if return_outputs else loss

    def _watch(self, model: Any) -> None:
        """Keep what the base model returns, of whichever model Trainer has made or been given."""
        model = self.accelerator.unwrap_model(model)
        model = getattr(model, "base_model", model)
        if model is not self._watched:
            model.register_forward_hook(self._keep)
            self._watched = model

    def _keep(self, module: Any, inputs: Any, outputs: Any) -> None:
        self._outputs = outputs

    def _first_pass(self, model: Any, num_items: Any) -> deque[Share]:
        """Every microbatch encoded without a graph, and its share in SIGReg of them all."""
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        device = self.args.device
        random = (
            torch.random.fork_rng([])
            if device.type == "cpu"
            else torch.random.fork_rng([device], device_type=device.type)
        )
        pooled = []
        with torch.no_grad(), random:
            for batch in self._window:
                inputs = self._prepare_inputs(batch)
                super().compute_loss(model, dict(inputs), num_items_in_batch=num_items)
                pooled.append(self._pooled(inputs))
            torch.clear_autocast_cache()  # it may hold weights that were cast without a graph
            for buffer, before in buffers:  # such as running means, which the second pass moves
                buffer.copy_(before)
        z = torch.cat([z.float() for z, _ in pooled]).requires_grad_()
        given = [weights for _, weights in pooled if weights is not None]
        weights = torch.cat(given) if given else None
        value = self.sigreg(z, weights, step=self.state.global_step)
        (gradient,) = torch.autograd.grad(value, z)
        value = value.detach() / len(pooled)
        sizes = [len(z) for z, _ in pooled]
        return deque(
            Share(*parts, value)
            for parts in zip(torch.split(z.detach(), sizes), torch.split(gradient, sizes), strict=True)
        )

    def _pooled(self, inputs: dict[str, Any]) -> Pooled:
        """The embeddings in what the base model returned last, and which of them count."""
        outputs, self._outputs = self._outputs, None
        if callable(self.pooling):
            result = self.pooling(outputs, inputs)
            return result if isinstance(result, tuple) else (result, None)
        hidden = getattr(outputs, "last_hidden_state", None)
        if hidden is None or hidden.ndim != 3:
            raise TypeError(
                f"pooling={self.pooling!r} needs last_hidden_state (B, L, D) of the base model, which "
                f"returned {type(outputs).__name__}; give a function (outputs, inputs) -> (N, D) as pooling"
            )
        mask = inputs.get("attention_mask")
        if mask is None:
            pooled = {"tokens": hidden.flatten(0, 1), "mean": hidden.mean(1), "cls": hidden[:, 0]}
            return pooled[str(self.pooling)], None
        mask = mask.bool()
        if mask.shape != hidden.shape[:2]:
            raise TypeError(
                f"attention_mask {tuple(mask.shape)} does not fit last_hidden_state {tuple(hidden.shape)}; "
                "give a function (outputs, inputs) -> (N, D) as pooling"
            )
        if self.pooling == "tokens":
            return hidden.flatten(0, 1), mask.flatten()
        if self.pooling == "cls":
            return hidden[:, 0], mask.any(1)
        total = torch.where(mask[..., None], hidden, 0.0).sum(1)
        return total / mask.sum(1, keepdim=True).clamp(min=1), mask.any(1)

    def _is_scaled(self, num_items: Any) -> bool:
        """Whether Trainer takes a microbatch's loss as it is, by Trainer's own rule."""
        told = getattr(self, "loss_is_scaled_for_ga", None)
        if told is not None:
            return bool(told)
        return (
            self.model_accepts_loss_kwargs and num_items is not None
        ) or self.compute_loss_func is not None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's log, with the mean of SIGReg since the last one."""
        if "loss" in logs and self._values:
            logs = {**logs, "sigreg": float(torch.stack(self._values).sum()) / self._steps}
            self._values, self._steps = [], 0
        super().log(logs, *args, **kwargs)


class _Given(Function):
    """A value whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.saved_tensors[0], None, None

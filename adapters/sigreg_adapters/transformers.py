# mypy: disable-error-code="import-not-found,import-untyped,misc"
"""SIGReg for Hugging Face Transformers: a Trainer that adds it to the loss of any model.

    - trainer = Trainer(model, args, train_dataset=...)
    + trainer = SIGRegTrainer(model, args, train_dataset=..., sigreg_weight=0.05, pooling="mean")

Tried with transformers 5.23.0 and accelerate 1.15.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from sigreg import SIGReg
from sigreg.microbatches import DRIFT
from sigreg.regularizer import regularizer
from sigreg.replay import Called, random_state, set_random_state
from sigreg_adapters.last_batch import weights_of_one_row
from sigreg_adapters.pooling import NAMES, Pooled, Pooling, pooled


class SIGRegTrainer(Trainer):
    """`Trainer` with `loss = task's loss + sigreg_weight * SIGReg(embeddings)`.

    SIGReg sees the embeddings of a whole optimizer step: all ranks and all accumulated microbatches, exactly.
    With `gradient_accumulation_steps` above 1 each microbatch is therefore encoded twice, first without a
    graph; dropout is the same both times.  Evaluation reports the task's loss alone.

    Args:
        *args: as Trainer's.
        sigreg_weight: the weight of SIGReg, >= 0.  The task's loss keeps the weight 1.
        pooling: what is an embedding in the base model's `last_hidden_state (B, L, D)`: "tokens", each token
            of the attention mask; "mean", the mean over them; "cls", the first of them; or a function
            `(outputs, inputs) -> (N, D)`, or a pair of that and weights `(N,)`.  If the model has a decoder,
            its states and `decoder_attention_mask` are taken.
        sigreg: a `sigreg.SIGReg` with settings of your own.  Its directions follow from its seed and the
            optimizer step, so that a resumed run continues them.
        **kwargs: as Trainer's.

    Logs the mean of "sigreg", unweighted, beside "loss".

    Raises:
        ValueError: a negative weight, an unknown pooling, SIGReg with a memory, several GPUs in one process.
        TypeError: sigreg is not a module such as `SIGReg`; at the first step, a base model without
            `last_hidden_state (B, L, D)`, or a decoder without `decoder_attention_mask`.
        RuntimeError: a microbatch whose second encoding differs from its first.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
        >>> size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        >>> model = BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=2, **size))
        >>> data = [{"input_ids": torch.randint(50, (12,)), "labels": n % 2} for n in range(64)]
        >>> args = TrainingArguments(
        ...     tempfile.mkdtemp(), max_steps=2, logging_steps=1, report_to="none", save_strategy="no",
        ... )
        >>> trainer = SIGRegTrainer(model, args, train_dataset=data, sigreg_weight=0.05, pooling="mean")
        >>> _ = trainer.train()  # prints its logs
        {...
        >>> [log["sigreg"] > 0 for log in trainer.state.log_history if "sigreg" in log]
        [True, True]

    Source: LeJEPA, arXiv 2511.08544; the two passes are gradient caching, arXiv 2101.06983.
    """

    def __init__(
        self,
        *args: Any,
        sigreg_weight: float = 0.05,
        pooling: str | Pooling = "mean",
        sigreg: SIGReg | None = None,
        **kwargs: Any,
    ) -> None:
        if not sigreg_weight >= 0:
            raise ValueError(f"sigreg_weight={sigreg_weight} must not be negative")
        if not callable(pooling) and pooling not in NAMES:
            raise ValueError(f"pooling={pooling!r} is unknown; use one of {NAMES} or a function")
        super().__init__(*args, **kwargs)
        if self.args.n_gpu > 1:
            raise ValueError("DataParallel splits a batch where SIGReg cannot follow; launch with torchrun")
        self.sigreg_weight, self.pooling = sigreg_weight, pooling
        self.sigreg = regularizer(sigreg)
        if self.sigreg.memory is not None:
            raise ValueError(
                "SIGReg's memory serves small batches; here, accumulate more microbatches instead"
            )
        self._microbatches: list[Any] = []  # of this optimizer step
        self._shares: list[_Share] = []  # theirs in SIGReg, if they are several
        self._sum, self._steps = torch.zeros(()), 0  # of SIGReg since the last log
        self._base: Any = None  # the model whose outputs are kept
        self._hook: Any = None
        self._kept = _Kept()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's training; the model's outputs are kept until it ends."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._release()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The microbatches of one optimizer step, which Trainer fetches before it runs the first."""
        self._microbatches, num_items = super().get_batch_samples(*args, **kwargs)
        self._shares = []
        return self._microbatches, num_items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The task's loss of a microbatch and, in training, its share in the step's SIGReg."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        parts = max(len(self._microbatches), 1)
        if parts > 1 and not self._shares:
            self._shares = self._first_pass(model, num_items_in_batch)
        loss, outputs, (z, weights) = self._encode(model, inputs, num_items_in_batch)
        if parts > 1:
            share = self._shares.pop(0)(z)
        else:
            share = self.sigreg(
                z, weights_of_one_row(z, weights, self.sigreg.group), step=self.state.global_step
            )
            self._count(share)
        if not self._is_scaled(num_items_in_batch):
            share = share * parts  # Trainer divides the loss by the number of microbatches
        loss = loss + self.sigreg_weight * share
        return (loss, outputs) if return_outputs else loss

    def _first_pass(self, model: Any, num_items: Any) -> list[_Share]:
        """Every microbatch encoded without a graph, and its share in SIGReg of them all."""
        called, state = Called(None, [model]), random_state()
        found: list[Pooled] = []
        with torch.no_grad():
            for inputs in self._microbatches:
                z, weights = self._encode(model, self._prepare_inputs(inputs), num_items)[2]
                found.append((z.clone(), weights))  # a view would keep the states of all tokens
        torch.clear_autocast_cache()  # it may hold weights that were cast without a graph
        called.restore()
        set_random_state(state)
        z = torch.cat([part.float() for part, _ in found]).requires_grad_()
        given = None
        if any(weights is not None for _, weights in found):
            every = [z.new_ones(len(part), dtype=torch.bool) if w is None else w for part, w in found]
            given = torch.cat(every)
        value = self.sigreg(z, given, step=self.state.global_step)
        (gradient,) = torch.autograd.grad(value, z)
        self._count(value)
        sizes = [len(part) for part, _ in found]
        parts = zip(torch.split(z.detach(), sizes), torch.split(gradient, sizes), strict=True)
        return [_Share(*part, value.detach() / len(found)) for part in parts]

    def _encode(self, model: Any, inputs: dict[str, Any], num_items: Any) -> tuple[Tensor, Any, Pooled]:
        """The task's loss, the model's outputs, and the embeddings in those of its base model."""
        base = self.accelerator.unwrap_model(model)
        base = getattr(base, "base_model", base)
        if base is not self._base:  # Trainer may make another model, by model_init
            self._release()
            self._base, self._hook = base, base.register_forward_hook(self._kept)
        loss, outputs = super().compute_loss(model, dict(inputs), True, num_items)
        kept, self._kept.outputs = self._kept.outputs, None
        return loss, outputs, pooled(self.pooling, kept, inputs)

    def _release(self) -> None:
        """Leave the model as it was."""
        if self._hook is not None:
            self._hook.remove()
        self._base = self._hook = self._kept.outputs = None

    def _is_scaled(self, num_items: Any) -> bool:
        """Whether Trainer takes a microbatch's loss as it is, by Trainer's own rule."""
        told = getattr(self, "loss_is_scaled_for_ga", None)
        counted = self.model_accepts_loss_kwargs and num_items is not None
        return bool(counted or self.compute_loss_func is not None) if told is None else bool(told)

    def _count(self, value: Tensor) -> None:
        """Add the value of a step to those for the next log."""
        self._sum, self._steps = self._sum.to(value.device) + value.detach(), self._steps + 1

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's log, with the mean of SIGReg since the last one."""
        if "loss" in logs and self._steps:
            logs = {**logs, "sigreg": float(self._sum / self._steps)}
            self._sum, self._steps = torch.zeros(()), 0
        super().log(logs, *args, **kwargs)


class _Kept:
    """A forward hook that keeps what a module returned in training.

    It outlives a step, because a compiled model runs the hooks that it was traced with; and it is no method
    of the trainer, because hooks are copied and saved with their module.
    """

    outputs: Any = None

    def __call__(self, module: Any, inputs: Any, outputs: Any) -> None:
        if module.training:
            self.outputs = outputs


@dataclass
class _Share:
    """A microbatch's share in SIGReg of a step: its embeddings, their gradient, a part of the value."""

    z: Tensor
    gradient: Tensor
    value: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """The part of the value, with its gradient in the second pass's embeddings."""
        counts = self.gradient != 0  # NaN in a row of weight 0 stays out
        z, before = torch.where(counts, z.float(), 0.0), torch.where(counts, self.z, 0.0)
        moved, size = (z.detach() - before).norm(), before.norm()
        if moved > DRIFT * size:
            raise RuntimeError(
                f"the second pass encoded a microbatch otherwise, by {float(moved / size):.0%}: the gradient "
                "would be wrong; take random numbers from torch's generators, which are replayed"
            )
        return self.value + (self.gradient * (z - z.detach())).sum()

"""What counts as an embedding in the hidden states of a sequence model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Pooled = tuple[Tensor, "Tensor | None"]  # embeddings (N, D), and weights (N,) or None where each counts
Pooling = Callable[[Any, dict[str, Any]], "Tensor | Pooled"]
NAMES = ("tokens", "mean", "cls")


def pooled(pooling: str | Pooling, outputs: Any, inputs: dict[str, Any]) -> Pooled:
    """The embeddings in what a base model returned: by a function, or by name from `last_hidden_state`.

    Args:
        pooling: "tokens", every token of the attention mask; "mean", the mean over them; "cls", the first
            of them; or a function `(outputs, inputs) -> (N, D)`, or a pair of that and weights `(N,)`.
        outputs: of the base model; for a name, with `last_hidden_state (B, L, D)`.
        inputs: of the model; `attention_mask (B, L)` is used if there is one.  If the outputs are those of an
            encoder and a decoder, `decoder_attention_mask` is used instead, and needed.

    Raises:
        TypeError: there is no `last_hidden_state (B, L, D)`, the mask is not `(B, L)`, or a decoder has none.
    """
    if callable(pooling):
        result = pooling(outputs, inputs)
        return result if isinstance(result, tuple) else (result, None)
    of_decoder = getattr(outputs, "encoder_last_hidden_state", None) is not None
    name = "decoder_attention_mask" if of_decoder else "attention_mask"
    hidden, mask = getattr(outputs, "last_hidden_state", None), inputs.get(name)
    if of_decoder and mask is None:
        raise TypeError(
            f"last_hidden_state holds the states of a decoder, for which pooling={pooling!r} needs "
            "decoder_attention_mask in the inputs (attention_mask is that of the encoder): add it, or give a "
            "function (outputs, inputs) -> (N, D) as pooling"
        )
    if hidden is None or hidden.ndim != 3 or (mask is not None and mask.shape != hidden.shape[:2]):
        got = "no last_hidden_state" if hidden is None else f"last_hidden_state {tuple(hidden.shape)}"
        masked = "" if mask is None else f" and {name} {tuple(mask.shape)}"
        raise TypeError(
            f"got {got}{masked}; pooling={pooling!r} needs last_hidden_state (B, L, D) of the base model and "
            "a mask (B, L), if any: give a function (outputs, inputs) -> (N, D) as pooling"
        )
    if mask is None:
        return {"tokens": hidden.flatten(0, 1), "mean": hidden.mean(1), "cls": hidden[:, 0]}[pooling], None
    mask = mask.bool()
    if pooling == "tokens":
        return hidden.flatten(0, 1), mask.flatten()
    if pooling == "cls":
        first = mask.int().argmax(1)  # not 0 where padding is on the left
        return hidden[torch.arange(len(hidden), device=hidden.device), first], mask.any(1)
    wide = torch.promote_types(hidden.dtype, torch.float32)  # a sum of many tokens overflows float16
    total = torch.where(mask[..., None], hidden, 0.0).sum(1, dtype=wide)  # NaN in padding stays out
    return (total / mask.sum(1, keepdim=True).clamp(min=1)).to(hidden.dtype), mask.any(1)

"""Patch tokens and attention maps of timm's vision transformers, for `sigreg_adapters.timm.Encoder`.

timm computes attention either with the fused kernel, which never holds the weights, or with a softmax.  Here
the module whose weights are wanted takes the second way for one forward pass, and the softmax is recorded:
whatever the model does to queries and keys before it (norms, rotary or relative positions) is in the weights.

Tried with timm 1.0.31.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SOFTMAX = (torch.softmax, torch.Tensor.softmax, nn.functional.softmax)


class _LastSoftmax(TorchFunctionMode):
    """Keeps the result of the last softmax."""

    weights: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in SOFTMAX:
            self.weights = out
        return out


def patch_tokens(model: Any, images: Tensor) -> Tensor:
    """Patch tokens after the last block and norm: images `(N, channels, H, W)` -> `(N, h, w, C)`.

    Raises:
        ValueError: the model has no patch tokens, or dropped some of them.
    """
    grid = _grid(model, images)
    tokens: Tensor = model.forward_features(images)[:, model.num_prefix_tokens :]
    return _on_grid(tokens, 1, grid)


def pooled_attention(model: Any, images: Tensor) -> Tensor:
    """Attention of the pooled token to the patches: images `(N, channels, H, W)` -> `(N, heads, h, w)`.

    Raises:
        ValueError: the model has no patch tokens, dropped some of them, or has no attention over all tokens.
    """
    grid = _grid(model, images)
    pool = getattr(model, "attn_pool", None)
    by_latent = isinstance(pool, AttentionPoolLatent)
    module: Any = pool if by_latent else _attentions(model)[-1]
    recorder = _LastSoftmax()
    with _not_fused(module), recorder:
        tokens = model.forward_features(images)
        if by_latent:
            model.forward_head(tokens, pre_logits=True)
    weights = recorder.weights  # (N, heads, queries, keys)
    if weights is None or weights.ndim != 4 or weights.shape[1] != module.num_heads:
        found = "no softmax" if weights is None else f"weights of shape {tuple(weights.shape)}"
        raise ValueError(
            f"expected attention weights (N, {module.num_heads}, queries, keys) in the last "
            f"{type(module).__name__} of {type(model).__name__}, found {found}; "
            "use tokens(x), or a model of plain attention"
        )
    queries = slice(None) if by_latent else _pooled(model)
    rows = weights[:, :, queries].mean(2)  # (N, heads, keys)
    prefix = 0 if by_latent and rows.shape[2] == grid[0] * grid[1] else model.num_prefix_tokens
    return _on_grid(rows[:, :, prefix:], 2, grid)


def _pooled(model: Any) -> slice:
    """The queries whose outputs the model averages into its embedding."""
    if model.global_pool == "token":
        return slice(0, 2 if hasattr(model, "dist_token") else 1)
    return slice(0 if getattr(model, "pool_include_prefix", False) else model.num_prefix_tokens, None)


def _attentions(model: Any) -> list[Any]:
    """The modules of the last block that compute attention."""
    return [m for m in model.blocks[-1].modules() if hasattr(m, "num_heads") and hasattr(m, "attn_drop")]


@contextmanager
def _not_fused(module: Any) -> Iterator[None]:
    before = getattr(module, "fused_attn", False)
    module.fused_attn = False
    try:
        yield
    finally:
        module.fused_attn = before


def _grid(model: Any, images: Tensor) -> tuple[int, int]:
    """Rows and columns of patches; ValueError for a model that is no plain vision transformer."""
    embed = getattr(model, "patch_embed", None)
    if not (hasattr(model, "num_prefix_tokens") and hasattr(embed, "dynamic_feat_size") and _attends(model)):
        raise ValueError(
            f"{type(model).__name__} has no patch tokens that all attend to each other; expected a plain "
            "vision transformer, such as timm's vit_*, deit_*, eva02_* or beit_*. For the feature map of any "
            "other model use encoder.backbone.forward_intermediates(x, indices=[-1], intermediates_only=True)"
        )
    h, w = embed.dynamic_feat_size(tuple(images.shape[-2:]))  # type: ignore[union-attr]
    return int(h), int(w)


def _attends(model: Any) -> bool:
    """Whether the last layer is attention of all tokens to each other, which in CaiT it is not."""
    if not hasattr(model, "blocks") or hasattr(model, "blocks_token_only"):
        return False
    return bool(_attentions(model))


def _on_grid(x: Tensor, dim: int, grid: tuple[int, int]) -> Tensor:
    if x.shape[dim] != grid[0] * grid[1]:
        raise ValueError(
            f"expected {grid[0]} x {grid[1]} patches, found {x.shape[dim]}; if the model drops patches in "
            "training (patch_drop_rate), call encoder.eval() first"
        )
    return x.reshape(*x.shape[:dim], *grid, *x.shape[dim + 1 :])

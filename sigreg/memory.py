"""Embeddings of earlier calls, for batches too small to be tested alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sigreg.sample import Sample


class Memory(nn.Module):
    """The last `size` embeddings of each view, detached, first in first out; empty at the start.

    Each process keeps the rows that it saw itself, `size` divided by the number of processes, so that
    statistics that are mergeable by sums need no gathering.  Rows and weights are in the state_dict but no
    buffers, because DDP would overwrite the buffers of every process with those of the first.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.rows: Tensor | None = None  # (..., M, D), the newest last
        self.weights: Tensor | None = None  # (..., M), 0 where nothing has been stored yet

    def reset(self) -> None:
        """Empty the memory."""
        self.rows = self.weights = None

    def joined(self, sample: Sample, *, advance: bool) -> Sample:
        """The sample with the stored rows behind it; `advance` stores its own rows for the next call."""
        x, weights = sample.x, sample.weights
        assert weights is not None
        M = -(-self.size // sample.group.size)
        if self.rows is None or self.weights is None:
            self.rows, self.weights = (
                x.new_zeros(*x.shape[:-2], M, x.shape[-1]),
                x.new_zeros(*x.shape[:-2], M),
            )
        if self.rows.shape[:-2] != x.shape[:-2] or self.rows.shape[-1] != x.shape[-1]:
            raise ValueError(
                f"the memory holds embeddings {tuple(self.rows.shape)}, got {tuple(x.shape)}; views and "
                "width must stay the same: call reset_memory() first"
            )
        rows, kept = self.rows.to(x), self.weights.to(x)
        joined = Sample(torch.cat([x, rows], dim=-2), torch.cat([weights, kept], dim=-1), sample.group)
        joined.boolean = sample.boolean
        if advance:
            rows, kept = torch.cat([rows, x.detach()], dim=-2), torch.cat([kept, weights], dim=-1)
            order = (kept > 0).int().argsort(dim=-1, stable=True)  # rows that do not count move to the front
            rows, kept = rows.gather(-2, order.unsqueeze(-1).expand_as(rows)), kept.gather(-1, order)
            # copies, because the graph of this call still needs what is stored now
            self.rows, self.weights = rows[..., -M:, :].clone(), kept[..., -M:].clone()
        return joined

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in ("rows", "weights"):
            if (stored := getattr(self, name)) is not None:
                destination[prefix + name] = stored

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        for name in ("rows", "weights"):  # a checkpoint without them is one of an empty memory
            stored = state_dict.get(prefix + name)
            setattr(self, name, None if stored is None else stored.clone())

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
        self.weights: Tensor | None = None  # (..., M), 0 where nothing is stored; bool while all were masks

    def reset(self) -> None:
        """Empty the memory."""
        self.rows = self.weights = None

    def joined(self, sample: Sample) -> Sample:
        """The sample with the stored rows behind it."""
        x, weights = sample.x, sample.weights
        assert weights is not None
        rows, kept = self._stored(sample)
        if rows.shape[:-2] != x.shape[:-2] or rows.shape[-1] != x.shape[-1]:
            raise ValueError(
                f"the memory holds embeddings {tuple(rows.shape)}, got {tuple(x.shape)}; views and "
                "width must stay the same: call reset_memory() first"
            )
        joined = Sample(torch.cat([x, rows], dim=-2), torch.cat([weights, kept.to(x)], dim=-1), sample.group)
        joined.boolean = sample.boolean and kept.dtype == torch.bool
        return joined

    def store(self, sample: Sample) -> None:
        """Keep the sample's own rows for the next call."""
        x, weights = sample.x.detach(), sample.weights
        assert weights is not None
        rows, kept = self._stored(sample)
        M = rows.shape[-2]
        # A GradScaler skips a step that is not finite; the next step must not find its rows.
        weights = (weights > 0 if sample.boolean else weights) * x.isfinite().all(-1)
        rows, kept = torch.cat([rows, x], dim=-2), torch.cat([kept, weights], dim=-1)
        order = (kept > 0).int().argsort(dim=-1, stable=True)  # rows that do not count move to the front
        rows, kept = rows.gather(-2, order.unsqueeze(-1).expand_as(rows)), kept.gather(-1, order)
        # copies, because the graph of this call still needs what is stored now
        self.rows, self.weights = rows[..., -M:, :].clone(), kept[..., -M:].clone()

    def _stored(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Rows and weights of the memory; of an empty one, zeros that do not count."""
        x = sample.x
        if self.rows is None or self.weights is None:
            M = -(-self.size // sample.group.size)
            return x.new_zeros(*x.shape[:-2], M, x.shape[-1]), x.new_zeros(*x.shape[:-2], M, dtype=torch.bool)
        return self.rows.to(x), self.weights.to(x.device)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in ("rows", "weights"):
            if (stored := getattr(self, name)) is not None:
                destination[prefix + name] = stored

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        for name in ("rows", "weights"):  # a checkpoint without them is one of an empty memory
            stored = state_dict.get(prefix + name)
            setattr(self, name, None if stored is None else stored.clone())

"""Who shares this batch: every collective of the library, each with its gradient.

A statistic never imports `torch.distributed`; it is handed a `Ranks` and asks it
for the sums (or the sample) of the whole batch.  The gradients follow the
convention of DistributedDataParallel, which averages them over the ranks: each
rank receives `world_size` times its share, so the average is exactly the gradient
of one process that held the concatenated batch.  Because every rank ends with the
same value, that takes no communication in the backward pass.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

Group: TypeAlias = "dist.ProcessGroup | str | None"

# A count travels in the float message as digits to this base: every digit's sum stays below 2^24,
# where float32 is exact, for up to 4096 ranks, and 5 digits hold more than 2^53.
_BASE, _DIGITS = 4096, 5


class _SumOverRanks(Function):
    @staticmethod
    def forward(ctx: Any, message: Tensor, group: dist.ProcessGroup, size: int) -> Tensor:
        ctx.size = size
        total = message.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.size, None, None


class _GatherOverRanks(Function):
    """Concatenate uneven parts along the sample dimension (-2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, size: int, counts: list[int]) -> Tensor:
        rank = dist.get_rank(group)
        ctx.size, ctx.start, ctx.count = size, sum(counts[:rank]), counts[rank]
        padded = x.new_zeros(*x.shape[:-2], max(counts), x.shape[-1])
        padded[..., : x.shape[-2], :] = x
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[..., :n, :] for part, n in zip(parts, counts, strict=True)], dim=-2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad.narrow(-2, ctx.start, ctx.count) * ctx.size, None, None, None


class Ranks:
    """The processes that share one batch; `Ranks()` is this process alone.

    Example:
        >>> import torch
        >>> (total,), count = Ranks().sum(torch.ones(3), count=8)
        >>> total, count
        (tensor([1., 1., 1.]), 8)
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.size = 1 if group is None else dist.get_world_size(group)

    def sum(self, *parts: Tensor, count: int) -> tuple[tuple[Tensor, ...], Tensor | int]:
        """Sum `parts` and `count` over the ranks, in one message.

        Args:
            parts: tensors of one dtype, each the same shape on every rank.
            count: this rank's number of samples; ranks may differ.

        Returns:
            The summed parts and the total count (a float64 scalar tensor; the `int` itself when
            alone).  Exact up to 2^53, whatever the dtype of the message.

        Raises:
            ValueError: on a rank without samples (after it took part, so that nobody waits for it).
            RuntimeError: on the other ranks, when one came without samples.
        """
        if self.group is None or self.size == 1:
            return parts, count
        digits = [count // _BASE**i % _BASE for i in range(_DIGITS)]
        tail = torch.tensor([*digits, float(count == 0)], dtype=parts[0].dtype).to(parts[0].device)
        message = torch.cat([*(part.reshape(-1) for part in parts), tail])
        message = _SumOverRanks.apply(message, self.group, self.size)
        *flat, tail = message.split([*(part.numel() for part in parts), len(tail)])
        if count == 0:
            raise ValueError("this rank came with an empty batch; give every rank at least one sample")
        torch._assert_async(tail[-1] == 0, "another rank came with an empty batch; give every rank a sample")
        powers = torch.tensor([float(_BASE**i) for i in range(_DIGITS)], dtype=torch.float64)
        total = (tail[:-1].double() * powers.to(tail.device)).sum()
        return tuple(f.reshape(part.shape) for f, part in zip(flat, parts, strict=True)), total

    def gather(self, x: Tensor) -> Tensor:
        """Concatenate the ranks' samples: `(..., N_r, K) -> (..., sum N_r, K)`, uneven N_r allowed.

        The sizes are exchanged first and read on the host, so this costs one synchronisation; the
        sums above cost none.
        """
        if self.group is None or self.size == 1:
            return x
        mine = torch.tensor([x.shape[-2]], device=x.device)
        sizes = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(sizes, mine, group=self.group)
        counts = [int(n) for n in torch.cat(sizes).tolist()]
        if 0 in counts:
            raise ValueError(f"rank {counts.index(0)} came with an empty batch; give every rank a sample")
        gathered: Tensor = _GatherOverRanks.apply(x, self.group, self.size, counts)
        return gathered


ALONE = Ranks()


def resolve(group: Group) -> Ranks:
    """The ranks behind a `group` argument: `"auto"`, `None` or a process group."""
    if isinstance(group, str):
        if group != "auto":
            raise ValueError(
                f"group={group!r} is unknown; use 'auto', None or a torch.distributed process group"
            )
        return Ranks(dist.group.WORLD) if dist.is_available() and dist.is_initialized() else ALONE
    return ALONE if group is None else Ranks(group)

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

_COUNT_DIGITS, _STAMP_DIGITS = 7, 3


def _digits(value: int | Tensor, n: int, device: torch.device) -> Tensor:
    """The last n base-256 digits: their sums stay exact in float32 (below 2^24) on 65,536 ranks.

    Made on the device: a tensor copied from the host would make the host wait for the stream.
    """
    return torch.bitwise_right_shift(value, _shifts(n, device)) & 255


def _shifts(n: int, device: torch.device) -> Tensor:
    return torch.arange(0, 8 * n, 8, device=device)


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


def _padded(x: Tensor, rows: int) -> Tensor:
    """`(..., N, K) -> (..., rows, K)`, zeros below: collectives want one shape on every rank."""
    return torch.cat([x, x.new_zeros(*x.shape[:-2], rows - x.shape[-2], x.shape[-1])], dim=-2)


class _GatherOverRanks(Function):
    """Concatenate uneven parts along the sample dimension (-2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, counts: list[int], same_loss: bool) -> Tensor:
        ctx.group, ctx.counts, ctx.same_loss = group, counts, same_loss
        mine = _padded(x, max(counts))
        parts = [torch.empty_like(mine) for _ in counts]
        dist.all_gather(parts, mine, group=group)
        return torch.cat([part[..., :n, :] for part, n in zip(parts, counts, strict=True)], dim=-2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        counts, rank = ctx.counts, dist.get_rank(ctx.group)
        parts = list(torch.split(grad, counts, dim=-2))
        if ctx.same_loss:  # the other ranks hold the same gradient: scaling stands for summing
            return parts[rank] * len(counts), None, None, None
        parts = [_padded(part, max(counts)) for part in parts]
        total = torch.empty_like(parts[rank])
        dist.reduce_scatter(total, parts, group=ctx.group)
        return total[..., : counts[rank], :], None, None, None


class Ranks:
    """The processes that share one batch; `Ranks()` is this process alone.

    `stamp` is a fingerprint (an int64 scalar) of what the ranks must have in common, such as the
    directions they project on.  It travels with every message, so that ranks which drifted apart
    are an error rather than an average of unrelated numbers.

    Example:
        >>> import torch
        >>> (total,), count = Ranks().sum(torch.ones(3), count=8)
        >>> total, count
        (tensor([1., 1., 1.]), 8)
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, *, stamp: Tensor | None = None, present: bool = True
    ) -> None:
        self.group = group
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)
        self.stamp = stamp
        self.present = present

    def sum(self, *parts: Tensor, count: int) -> tuple[tuple[Tensor, ...], Tensor | int]:
        """Sum `parts` and `count` over the ranks, in one message that the host does not wait for.

        The gradient is right where all that follows is the same on every rank.  A sum that goes back
        to the samples, as a mean that is subtracted from them, must be detached first.

        Args:
            parts: tensors of one dtype, each the same shape on every rank.
            count: this rank's number of samples; ranks may differ.

        Returns:
            The summed parts and the total count (a float64 scalar tensor; the `int` itself when
            alone).  Exact up to 2^53, whatever the dtype of the message.

        Raises:
            ValueError: on a rank without samples (after it took part, so that nobody waits for it).
            RuntimeError: on the other ranks, when one came without samples, and on ranks whose
                stamps differ.  On a GPU it is a device-side assertion, seen at a later call.
        """
        if self.group is None or self.size == 1:
            return parts, count
        device = parts[0].device
        stamp = _digits(0 if self.stamp is None else self.stamp, _STAMP_DIGITS, device)
        is_empty = torch.full((1,), count == 0 or not self.present, device=device)
        tail = [_digits(count, _COUNT_DIGITS, device), stamp, is_empty]
        message = torch.cat([*(p.reshape(-1) for p in parts), *(t.to(parts[0].dtype) for t in tail)])
        message = _SumOverRanks.apply(message, self.group, self.size)
        *sums, digits, stamps, empty = message.split([t.numel() for t in (*parts, *tail)])
        if count == 0 or not self.present:
            raise ValueError("this rank came with an empty batch; give every rank at least one sample")
        # The only assertion that neither makes the host wait nor breaks a compiled graph.  On a GPU it
        # ends the process, and there is nothing left to save: the empty rank has raised already.
        torch._assert_async(empty[0] == 0, "another rank came with an empty batch; give every rank a sample")
        torch._assert_async((stamps == self.size * stamp).all(), DRIFTED)
        total = (digits.long() << _shifts(_COUNT_DIGITS, device)).sum().double()
        return tuple(s.reshape(p.shape) for s, p in zip(sums, parts, strict=True)), total

    def mean(self, value: Tensor) -> Tensor:
        """The average over the ranks of values that differ, such as losses along other directions."""
        if self.group is None or self.size == 1:
            return value
        average: Tensor = _SumOverRanks.apply(value, self.group, self.size) / self.size
        return average

    def gather(self, x: Tensor, *, same_loss: bool = True) -> Tensor:
        """Concatenate the ranks' samples: `(..., N_r, K) -> (..., sum N_r, K)`, uneven N_r allowed.

        The sizes are exchanged first and read on the host, so this costs one synchronisation; the
        sums above cost none.

        Args:
            x: this rank's samples.
            same_loss: every rank goes on to compute the same value, so the backward pass needs no
                communication.  False where they differ: it is then a reduce-scatter.

        Raises:
            ValueError: on every rank, when one came without samples.
            RuntimeError: on every rank, when their stamps differ.
        """
        if self.group is None or self.size == 1:
            return x
        count = torch.full((), x.shape[-2] if self.present else 0, device=x.device)
        mine = torch.stack([count, torch.zeros_like(count) if self.stamp is None else self.stamp.reshape(())])
        theirs = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(theirs, mine, group=self.group)
        counts, stamps = torch.stack(theirs, dim=1).tolist()
        if 0 in counts:
            raise ValueError(f"rank {counts.index(0)} came with an empty batch; give every rank a sample")
        if len(set(stamps)) > 1:
            raise RuntimeError(DRIFTED)
        gathered: Tensor = _GatherOverRanks.apply(x, self.group, counts, same_loss)
        return gathered

    def require_equal(self, **facts: object) -> None:
        """Raise on every rank unless all came with the same facts; waits for all of them.

        Raises:
            RuntimeError: that names each fact that differs and its value on each rank.
        """
        if self.group is None or self.size == 1:
            return
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, facts, group=self.group)
        differing = [
            f"{name} is " + ", ".join(f"{theirs[name]} on rank {r}" for r, theirs in enumerate(everyone))
            for name in facts
            if any(theirs[name] != everyone[0][name] for theirs in everyone)
        ]
        if differing:
            raise RuntimeError(
                f"the ranks that share a batch must agree, but {'; '.join(differing)}; build the same module"
                " on every rank and load the same checkpoint on all of them, or none"
            )


DRIFTED = (
    "the ranks project on different directions: their seed or step differ; load the same checkpoint on all"
    " of them, and call SIGReg equally often, in the same mode, on each"
)
ALONE = Ranks()


def resolve(group: Group) -> Ranks:
    """The ranks behind a `group` argument: `"auto"`, `None` or a process group."""
    if group is None:
        return ALONE
    if isinstance(group, str):
        if group != "auto":
            raise ValueError(
                f"group={group!r} is unknown; use 'auto', None or a torch.distributed process group"
            )
        return Ranks(dist.group.WORLD) if dist.is_available() and dist.is_initialized() else ALONE
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"group must be 'auto', None or a torch.distributed process group that holds this rank, got "
            f"{group!r}; of a device mesh, give e.g. mesh['data'].get_group()"
        )
    return Ranks(group)

"""Every collective operation of the library, each with its gradient.

A statistic never imports `torch.distributed`: it asks a `BatchGroup` for the sums, or for the
whole sample, of the processes that share a batch.  The gradients follow the convention of
DistributedDataParallel, which averages them over the processes: each process receives
`world_size` times its share, so that the average is the gradient of one process that held the
concatenated batch.  Since every process ends with the same value, the backward pass needs no
communication; that of a second derivative does, and must run on all processes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

Group: TypeAlias = "dist.ProcessGroup | str | BatchGroup | None"

DRIFTED = (
    "the ranks project on different directions: their seed or step differ; load the same checkpoint on all"
    " of them, and call SIGReg equally often, in the same mode, on each"
)


class _AllReduce(Function):
    @staticmethod
    def forward(ctx: Any, message: Tensor, group: dist.ProcessGroup, size: int) -> Tensor:
        ctx.arguments = group, size
        total = message.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Scale.apply(grad, *ctx.arguments), None, None


class _Scale(Function):
    """The gradient of `_AllReduce`; in a second derivative every rank contributes to the sum."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, group: dist.ProcessGroup, size: int) -> Tensor:
        ctx.arguments = group, size
        return grad * size

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _AllReduce.apply(grad, *ctx.arguments), None, None


class _AllGather(Function):
    """Concatenate uneven parts along the sample dimension (-2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, counts: list[int]) -> Tensor:
        ctx.arguments = group, counts
        padding = x.new_zeros(*x.shape[:-2], max(counts) - x.shape[-2], x.shape[-1])
        mine = torch.cat([x, padding], dim=-2)  # a collective needs one shape on every rank
        parts = [torch.empty_like(mine) for _ in counts]
        dist.all_gather(parts, mine, group=group)
        return torch.cat([part[..., :n, :] for part, n in zip(parts, counts, strict=True)], dim=-2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Share.apply(grad, *ctx.arguments), None, None


class _Share(Function):
    """The gradient of `_AllGather`; in a second derivative every rank contributes its part."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, group: dist.ProcessGroup, counts: list[int]) -> Tensor:
        ctx.arguments = group, counts
        # every rank holds the same gradient, so multiplying by the world size replaces summing
        return torch.split(grad, counts, dim=-2)[dist.get_rank(group)] * len(counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _AllGather.apply(grad, *ctx.arguments), None, None


class BatchGroup:
    """The processes that share one batch; `BatchGroup()` is this process alone.

    `fingerprint` (an int64 scalar tensor) identifies what the ranks must have in common, such as the
    directions that they project on.  Its last 8 bits travel with every message, so that ranks which
    drifted apart are an error rather than an average of unrelated numbers.

    Example:
        >>> import torch
        >>> BatchGroup().all_reduce(torch.ones(3))
        (tensor([1., 1., 1.]),)
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, fingerprint: Tensor | None = None) -> None:
        self.group = group
        self.size = 1 if group is None else dist.get_world_size(group)
        self.fingerprint = fingerprint

    def with_fingerprint(self, fingerprint: Tensor) -> BatchGroup:
        """The same processes, which must agree on `fingerprint`."""
        return BatchGroup(self.group, fingerprint=fingerprint)

    def all_reduce(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Sum each of `parts` over the ranks, in one message that the host does not wait for.

        The gradient is right where all that follows is the same on every rank.  A sum that goes back
        to the samples, as a mean that is subtracted from them, must be detached first.

        Args:
            parts: tensors of one dtype, each the same shape on every rank.

        Raises:
            RuntimeError: the ranks' fingerprints differ.  On a GPU it is a device-side assertion, seen at
                a later call.
        """
        if self.group is None or self.size == 1:
            return parts
        mine = 0 if self.fingerprint is None else self.fingerprint.reshape(1) & 255
        mine = torch.zeros_like(parts[0].reshape(-1)[:1]) + mine  # sums stay exact up to 65,536 ranks
        message = torch.cat([*(p.reshape(-1) for p in parts), mine])
        message = _AllReduce.apply(message, self.group, self.size)
        *sums, total = message.split([*(p.numel() for p in parts), 1])
        # the only assertion that neither makes the host wait nor breaks a compiled graph
        torch._assert_async((total == self.size * mine).all(), DRIFTED)
        return tuple(s.reshape(p.shape) for s, p in zip(sums, parts, strict=True))

    def all_gather(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Concatenate the ranks' samples: each `(..., N_r, C) -> (..., sum N_r, C)`, uneven N_r allowed.

        The sizes are exchanged first and read on the host, so this costs one synchronisation; the
        sums of `all_reduce` cost none.

        Raises:
            RuntimeError: on every rank, when their fingerprints differ.
        """
        if self.group is None or self.size == 1:
            return parts
        count = torch.full((), parts[0].shape[-2], device=parts[0].device)
        mine = torch.stack([count, count * 0 if self.fingerprint is None else self.fingerprint.reshape(())])
        theirs = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(theirs, mine, group=self.group)
        counts, fingerprints = torch.stack(theirs, dim=1).tolist()
        if len(set(fingerprints)) > 1:
            raise RuntimeError(DRIFTED)
        return tuple(_AllGather.apply(part, self.group, counts) for part in parts)

    def assert_equal(self, **facts: object) -> None:
        """Raise on every rank unless all ranks pass equal facts; waits for all of them.

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


SINGLE_PROCESS = BatchGroup()


def resolve(group: Group) -> BatchGroup:
    """The processes behind a `group` argument: `"auto"`, `None` or a process group."""
    if group is None:
        return SINGLE_PROCESS
    if isinstance(group, BatchGroup):
        return group
    if isinstance(group, str):
        if group != "auto":
            raise ValueError(
                f"group={group!r} is unknown; use 'auto', None or a torch.distributed process group"
            )
        ready = dist.is_available() and dist.is_initialized()
        return BatchGroup(dist.group.WORLD) if ready else SINGLE_PROCESS
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"group must be 'auto', None or a torch.distributed process group that holds this rank, got "
            f"{group!r}; of a device mesh, give e.g. mesh['data'].get_group()"
        )
    return BatchGroup(group)

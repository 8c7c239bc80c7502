"""Batches that are split over ranks: what the tests of distributed training share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from sigreg.univariate import STATISTICS
from tests.pool import on_ranks

WIDTH = 5  # of the inputs of the small network


def fourth_moment(x: Tensor) -> Tensor:
    """A statistic of a user's own: it knows nothing of ranks and is given the gathered sample."""
    return x.shape[-2] * (x.pow(4).mean(-2) - 3).square()


CHOICES: dict[str, Any] = {
    **{name: name for name in STATISTICS},
    "mix of sums": {"epps_pulley": 1.0, "vcreg": 0.1},
    "mix with order": {"epps_pulley": 1.0, "watson": 0.5},
    "user's own": fourth_moment,
}


@dataclass(frozen=True)
class Problem:
    """A batch, how it is split over the ranks, and the loss to take of it."""

    split: tuple[int, ...] = (5, 3)
    V: int = 2
    D: int = 4
    K: int = 8
    statistic: str = "epps_pulley"
    backend: str = "eager"
    dtype: torch.dtype = torch.float64
    seed: int = 0

    def batch(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.V, sum(self.split), WIDTH, dtype=torch.float64, generator=generator)
        return x.to(self.dtype)

    def part(self, rank: int) -> Tensor:
        return self.batch().split(self.split, dim=1)[rank]

    def network(self) -> nn.Module:
        torch.manual_seed(self.seed + 1)
        return nn.Sequential(nn.Linear(WIDTH, 7), nn.Tanh(), nn.Linear(7, self.D)).to(self.dtype)

    def sigreg(self, **changes: Any) -> SIGReg:
        arguments = {"num_slices": self.K, "seed": self.seed, "backend": self.backend, **changes}
        return SIGReg(CHOICES[self.statistic], **arguments)

    def tolerance(self, expected: Tensor) -> dict[str, float]:
        relative = 1e-10 if self.dtype == torch.float64 else 1e-5
        return {"rtol": relative, "atol": relative * max(1.0, float(expected.abs().max()))}


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def step(problem: Problem, model: nn.Module, x: Tensor, sigreg: SIGReg, weight: float = 0.3) -> Tensor:
    loss = LeJEPALoss(weight, sigreg)(model(x))
    loss.backward()
    return loss.detach()


def alone(problem: Problem, **changes: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradients of one process that holds the whole batch."""
    model = problem.network()
    loss = step(problem, model, problem.batch(), problem.sigreg(group=None, **changes))
    return loss, gradients(model)


def with_ddp(problem: Problem, **changes: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradients of this rank, which holds its part."""
    model = DDP(problem.network())
    loss = step(problem, model, problem.part(dist.get_rank()), problem.sigreg(**changes))
    return loss, gradients(model)


def check_any_split_equals_one_process(problem: Problem) -> None:
    loss, gradient = alone(problem)
    for theirs, their_gradient in on_ranks(len(problem.split), with_ddp, problem):
        assert_close(theirs, loss, **problem.tolerance(loss))
        assert_close(their_gradient, gradient, **problem.tolerance(gradient))


def error_of(function: Any, *args: Any, **kwargs: Any) -> str:
    """The error as a readable line, or an empty one."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Traffic(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts collectives, the bytes this rank hands to each, and reads by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self.reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "c10d":
            name = function.overloadpacket.__name__.strip("_")
            self.calls[name] = self.calls.get(name, 0) + 1
            sent = args[1] if name.startswith("allgather") else args[0]
            tensors = [
                t
                for part in ([sent] if isinstance(sent, Tensor) else sent)
                for t in ([part] if isinstance(part, Tensor) else part)
            ]
            self.bytes[name] = self.bytes.get(name, 0) + sum(t.nbytes for t in tensors)
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def traffic_of_a_step(problem: Problem, **changes: Any) -> Traffic:
    """One forward and backward of SIGReg, the second of its life: the first compares settings."""
    sigreg = problem.sigreg(**changes)
    z = torch.randn(problem.V, problem.split[dist.get_rank()], problem.D, requires_grad=True)
    sigreg(z)
    with Traffic() as traffic:
        sigreg(z).backward()
    return traffic


def fit_with_lightning(module: Any, batches: Any) -> None:
    """`Trainer(strategy="ddp")` on this rank, under the variables that torchrun sets."""
    import lightning

    rank, size = str(dist.get_rank()), str(dist.get_world_size())
    elastic = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update(elastic, GROUP_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="29500")
    trainer = lightning.Trainer(
        max_epochs=1,
        strategy="ddp",
        accelerator="cpu",
        devices=int(size),
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))

"""A batch in parts on every rank is one batch under DDP, Lightning and FSDP2, synchronised once a step."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.testing import assert_close

from sigreg import LeJEPALoss
from sigreg.microbatches import backward
from tests.distributed_problem import Problem, Traffic, fit_with_lightning, gradients
from tests.microbatch_problem import EXACT, network
from tests.pool import on_ranks


class Synchronisations:
    """Counts the messages of DDP's reducer, and averages as it does."""

    def __init__(self) -> None:
        self.buckets: list[int] = []

    def hook(self) -> Any:
        def count(_: Any, bucket: dist.GradBucket) -> Any:
            self.buckets.append(bucket.index())
            tensor = bucket.buffer() / dist.get_world_size()
            return dist.all_reduce(tensor, async_op=True).get_future().then(lambda done: done.value()[0])

        future = torch.futures.Future[torch.Tensor]
        count.__annotations__ = {"bucket": dist.GradBucket, "return": future}  # not as text
        return count


def in_parts(
    problem: Problem, norm: type[nn.Module], sizes: list[list[int]] | None = None, steps: int = 2
) -> tuple[Tensor, Tensor, int, dict[str, Tensor]]:
    """This rank's loss and gradients, how often DDP communicated them, and its buffers."""
    rank, sent = dist.get_rank(), Synchronisations()
    model = DDP(network(norm))
    model.register_comm_hook(None, sent.hook())
    # by default their number differs over the ranks
    parts = problem.part(rank).split(2 + rank if sizes is None else sizes[rank], dim=1)

    def encode(part: Tensor) -> list[Tensor]:
        return model(part.flatten(0, 1)).unflatten(0, part.shape[:2])

    for _ in range(steps):
        model.zero_grad()
        loss = backward(LeJEPALoss(0.3, problem.sigreg()), encode, parts)
    return loss, gradients(model), len(sent.buckets), dict(model.module.named_buffers())


@settings(max_examples=15)
@given(
    sizes=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=3).filter(
        lambda sizes: sum(map(sum, sizes)) > 1
    ),
    statistic=st.sampled_from(["epps_pulley", "watson", "mix of sums"]),
    V=st.integers(1, 3),
    seed=st.integers(0, 999),
)
@example(sizes=[[2, 2, 2, 3]], statistic="epps_pulley", V=2, seed=0)
@example(sizes=[[2, 2, 2, 1], [3, 1]], statistic="vcreg", V=2, seed=0)
@example(sizes=[[1], [3, 3], [2, 1, 2]], statistic="anderson_darling", V=2, seed=0)
@example(sizes=[[0], [2, 0, 3]], statistic="epps_pulley", V=2, seed=0)
def test_parts_on_ranks_are_one_batch_with_one_synchronisation_a_step(sizes, statistic, V, seed):
    problem, model = Problem(tuple(map(sum, sizes)), V=V, statistic=statistic, seed=seed), network()
    expected = LeJEPALoss(0.3, problem.sigreg(group=None))(model(problem.batch()))
    expected.backward()
    results = on_ranks(len(sizes), in_parts, problem, nn.LayerNorm, sizes, 1)
    for loss, gradient, synchronisations, _ in results:
        assert_close(loss, expected.detach(), **EXACT)
        assert_close(gradient, gradients(model), **EXACT)
        assert synchronisations == 1


def in_lightning(problem: Problem) -> tuple[list[tuple[Tensor, Tensor]], int]:
    """Two steps of manual optimization under Lightning's `ddp`: losses, gradients and messages."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(?!sigreg)")  # Lightning's advice and its imports
        import lightning

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.seen = network(), []
                self.criterion = LeJEPALoss(0.3, problem.sigreg())
                self.automatic_optimization = False

            def on_train_start(self) -> None:
                self.trainer.strategy.model.register_comm_hook(None, sent.hook())

            def training_step(self, x: Tensor) -> None:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                loss = backward(self.criterion, self.net, x.split(2 + dist.get_rank(), dim=1))
                self.seen.append((loss, gradients(self.net)))
                optimizer.step()

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        module, sent = Module(), Synchronisations()
        fit_with_lightning(module, [problem.part(dist.get_rank())] * 2)
    return module.seen, len(sent.buckets)


def test_lightning_s_ddp_needs_nothing_more():
    problem, model = Problem(split=(7, 4)), network()
    criterion, expected = LeJEPALoss(0.3, problem.sigreg(group=None)), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss = criterion(model(problem.batch()))
        loss.backward()
        expected.append((loss.detach(), gradients(model)))
        optimizer.step()
    for seen, synchronisations in on_ranks(2, in_lightning, problem):
        assert_close(seen, expected, **EXACT)
        assert synchronisations == 2


def test_ddp_broadcasts_batchnorms_statistics_as_it_did():
    problem = Problem(split=(6, 6))
    own = []  # after rank 0's first step, and then after the second one of each
    for last in (0, 1):
        model = network(nn.BatchNorm1d)
        with torch.no_grad():
            for rank in (0, last):  # a step begins with the statistics of rank 0
                for part in problem.part(rank).split(2 + rank, dim=1):
                    model(part.flatten(0, 1))
        own.append(dict(model.named_buffers()))
    for result, buffers in zip(on_ranks(2, in_parts, problem, nn.BatchNorm1d), own, strict=True):
        assert_close(result[3], buffers)


def with_fsdp2(problem: Problem) -> tuple[Tensor, Tensor, int]:
    from torch.distributed.fsdp import fully_shard

    model = network()
    with warnings.catch_warnings():
        # Linear on (V, N, D) gives a view, of which fully_shard advises not to change it in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        fully_shard(model)
        parts = problem.part(dist.get_rank()).tensor_split(3, dim=1)
        with Traffic() as traffic:
            loss = backward(LeJEPALoss(0.3, problem.sigreg()), lambda part: model(part), parts)
        gradient = torch.cat([p.grad.full_tensor().flatten() for p in model.parameters()])
    return loss, gradient, sum(n for name, n in traffic.calls.items() if "reduce_scatter" in name)


def test_fsdp2_shards_the_sum_of_the_parts_once():
    problem, model = Problem(split=(7, 4)), network()
    expected = LeJEPALoss(0.3, problem.sigreg(group=None))(model(problem.batch()))
    expected.backward()
    for loss, gradient, scatters in on_ranks(2, with_fsdp2, problem):
        assert_close(loss, expected.detach(), **EXACT)
        assert_close(gradient, gradients(model), **EXACT)
        assert scatters == 1

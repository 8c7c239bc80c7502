"""Weights, masks and memories over ranks are those of one process."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.testing import assert_close

from sigreg import LeJEPALoss
from tests.distributed_problem import CHOICES, Problem, Traffic, gradients, traffic_of_a_step
from tests.pool import on_ranks


def weighted(problem: Problem, masked: bool) -> Tensor:
    generator = torch.Generator().manual_seed(problem.seed)
    w = torch.rand(problem.V, sum(problem.split), dtype=torch.float64, generator=generator)
    w[:, sum(problem.split[:-1]) :] = 0  # the last rank has no valid row
    return w > 0.4 if masked else w.to(problem.dtype)


def weighted_step(problem: Problem, masked: bool, rank: int | None) -> tuple[Tensor, Tensor]:
    model, weights = problem.network(), weighted(problem, masked)
    if rank is None:
        loss = LeJEPALoss(0.3, problem.sigreg(group=None))(model(problem.batch()), weights=weights)
        loss.backward()
        return loss.detach(), gradients(model)
    ddp, part = DDP(model), weights.split(problem.split, dim=1)[rank]
    loss = LeJEPALoss(0.3, problem.sigreg())(ddp(problem.part(rank)), weights=part)
    loss.backward()
    return loss.detach(), gradients(ddp)


def weighted_on_rank(problem: Problem, masked: bool) -> tuple[Tensor, Tensor]:
    return weighted_step(problem, masked, dist.get_rank())


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("statistic", sorted(set(CHOICES) - {"user's own"}))
def test_weights_over_ranks_equal_one_process(statistic, masked):
    if statistic == "vasicek_entropy" and not masked:
        pytest.skip("spacings have no weighted form")
    problem = Problem(split=(7, 4, 3), statistic=statistic)
    loss, gradient = weighted_step(problem, masked, None)
    for theirs, their_gradient in on_ranks(3, weighted_on_rank, problem, masked):
        assert_close(theirs, loss, **problem.tolerance(loss))
        assert_close(their_gradient, gradient, **problem.tolerance(gradient))


def traffic_of_a_weighted_step(problem: Problem, masked: bool, objective: bool) -> Traffic:
    sigreg = problem.sigreg()
    criterion = LeJEPALoss(sigreg=sigreg) if objective else sigreg
    z = torch.randn(problem.V, problem.split[dist.get_rank()], problem.D, requires_grad=True)
    w = torch.arange(z.shape[1])
    w = w > 0 if masked else w.float()
    criterion(z, weights=w)
    with Traffic() as traffic:
        criterion(z, weights=w).backward()
    return traffic


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("objective", [False, True])
def test_weights_need_no_second_message(masked, objective):
    problem = Problem(split=(5, 5))
    numbers = problem.V * problem.K * 16 * 2 + 2 * problem.V + 1  # sum w and sum w^2 of each view
    if objective:
        numbers += 3  # the prediction: distance, weight, and no fingerprint
    for traffic in on_ranks(2, traffic_of_a_weighted_step, problem, masked, objective):
        assert traffic.calls == {"allreduce": 1 + objective}
        assert traffic.bytes == {"allreduce": 4 * numbers}
        # the check for negative weights reads a CPU's weights; on a GPU it is an assertion on the device
        assert traffic.reads == (0 if masked else 1 + objective)


def with_memory(problem: Problem, calls: int) -> list[Tensor]:
    sigreg = problem.sigreg(memory=4)
    return [sigreg(problem.part(dist.get_rank()) + i) for i in range(calls)]


def test_memories_of_ranks_are_one_memory():
    """Each of two ranks keeps half of the four rows, so that one process holds the same ones."""
    problem = Problem(split=(2, 2))
    batches = [problem.batch() + i for i in range(3)]
    expected = [
        problem.sigreg(group=None)(torch.cat(batches[max(0, i - 1) : i + 1], dim=1), step=i) for i in range(3)
    ]
    for values in on_ranks(2, with_memory, problem, 3):
        assert_close(values, expected)


def masked_with_memory(problem: Problem) -> list[Tensor]:
    """Three calls in which the ranks bring other numbers of rows, and the last rank none that counts."""
    sigreg, rank = problem.sigreg(memory=4), dist.get_rank()
    values = []
    for batch, mask in masked_batches(problem):
        part, w = (t.split(problem.split, dim=1)[rank] for t in (batch, mask))
        values.append(sigreg(torch.where(w[..., None], part, torch.nan), w))
    return values


def masked_batches(problem: Problem) -> list[tuple[Tensor, Tensor]]:
    masks = [
        torch.rand(problem.V, sum(problem.split), generator=torch.Generator().manual_seed(i)) < 0.6
        for i in range(3)
    ]
    for mask in masks:
        mask[:, sum(problem.split[:-1]) :] = False
    return [(problem.batch() + i, mask) for i, mask in enumerate(masks)]


@pytest.mark.parametrize("statistic", ["epps_pulley", "vcreg", "watson"])
def test_memories_of_ranks_that_fill_at_another_pace_hold_the_last_valid_rows_of_each(statistic):
    """Each of three ranks keeps two rows of each view; the statistic sees those that are there."""
    problem = Problem(split=(4, 2, 3), statistic=statistic)
    seen = [[[] for _ in problem.split] for _ in range(problem.V)]  # valid rows of each view and rank
    expected = []
    for step, (batch, mask) in enumerate(masked_batches(problem)):
        terms = []
        for v in range(problem.V):
            now = []
            for rank, (rows, w) in enumerate(
                zip(batch[v].split(problem.split), mask[v].split(problem.split), strict=True)
            ):
                now += [*seen[v][rank][-2:], *rows[w]]
                seen[v][rank] += list(rows[w])
            terms.append(problem.sigreg(group=None)(torch.stack(now), step=step))
        expected.append(torch.stack(terms).mean())
    for values in on_ranks(3, masked_with_memory, problem):
        assert_close(values, expected, rtol=1e-10, atol=1e-10)


def test_a_memory_of_a_statistic_of_sums_is_never_gathered():
    for traffic in on_ranks(2, functools.partial(traffic_of_a_step, memory=64), Problem(split=(5, 3))):
        assert traffic.calls == {"allreduce": 1}

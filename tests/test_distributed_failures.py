"""Ranks that disagree, drift apart, die or are late, and a NaN on one of them."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel as DDP

from sigreg import LeJEPALoss
from tests.distributed_problem import CHOICES, WIDTH, Problem, error_of, step
from tests.pool import on_ranks, outcomes


def disagree(problem: Problem, differs: str) -> tuple[str, str]:
    """Ranks that differ from the start, and ranks that drift apart later."""
    rank = dist.get_rank()
    z = torch.randn(problem.V, 4, problem.D + (differs == "shape") * rank)
    sigreg = problem.sigreg(num_slices=4 + (differs == "num_slices") * rank, seed=(differs == "seed") * rank)
    if differs == "step":
        sigreg.step += 7 * rank
    if differs == "dtype" and rank:
        z = z.double()
    return error_of(sigreg, z)


@pytest.mark.parametrize(
    ("differs", "said"),
    [
        ("step", "step is 0 on rank 0, 7 on rank 1"),
        ("seed", "seed is 0 on rank 0, 1 on rank 1"),
        ("shape", "shape is (2, N, 4) on rank 0, (2, N, 5) on rank 1"),
        ("dtype", "dtype is torch.float32 on rank 0, torch.float64 on rank 1"),
        ("num_slices", "num_slices=4, directions=gaussian) on rank 0"),
    ],
)
def test_ranks_that_disagree_at_the_start_are_told_how(differs, said):
    for error in on_ranks(2, disagree, Problem(), differs):
        assert error.startswith("RuntimeError: the ranks that share a batch must agree")
        assert said in error


def drift(problem: Problem) -> tuple[str, str]:
    """One rank alone loads a checkpoint in the middle of a run."""
    sigreg, z = problem.sigreg(), torch.randn(problem.V, 4, problem.D)
    sigreg(z)
    if dist.get_rank():
        sigreg.load_state_dict({"_extra_state": torch.tensor([0, 100])})
    return error_of(sigreg, z)


@pytest.mark.parametrize("statistic", ["epps_pulley", "watson"])
def test_ranks_that_drift_apart_later_are_an_error_at_the_next_step(statistic):
    for error in on_ranks(2, drift, Problem(statistic=statistic)):
        assert "the ranks project on different directions" in error


def one_rank_is_nan(problem: Problem) -> Tensor:
    z = problem.part(dist.get_rank()).clone()
    if dist.get_rank() == 1:
        z[0, 0, 0] = torch.nan
    return LeJEPALoss(sigreg=problem.sigreg())(z)


@pytest.mark.parametrize("statistic", sorted(CHOICES))
def test_a_nan_on_one_rank_is_a_non_finite_loss_on_all(statistic):
    for loss in on_ranks(2, one_rank_is_nan, Problem(D=WIDTH, statistic=statistic)):
        assert not loss.isfinite()


def nothing() -> None:
    """On a busy machine a new worker takes longer to start than the timeouts below."""


def die_in_the_second_step(problem: Problem) -> str:
    model, sigreg = DDP(problem.network()), problem.sigreg()
    step(problem, model, problem.part(dist.get_rank()), sigreg)
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return error_of(step, problem, model, problem.part(dist.get_rank()), sigreg)


def test_a_rank_killed_in_a_step_ends_the_others_with_an_error_within_the_timeout():
    on_ranks(3, nothing)
    first, killed, last = outcomes(3, die_in_the_second_step, Problem(split=(3, 3, 3)), timeout=5.0)
    assert killed.kind == "Died"
    for error in (first, last):
        assert error.startswith(("RuntimeError", "DistBackendError", "DistNetworkError"))
        assert re.search("Connection (closed|reset) by peer|[Tt]imed out", error)


def one_rank_is_late(problem: Problem) -> str:
    sigreg, z = problem.sigreg(), problem.part(dist.get_rank())
    sigreg(z)
    if dist.get_rank() == 1:
        time.sleep(4)
        return ""
    return error_of(sigreg, z)


def test_a_rank_that_does_not_come_is_an_error_after_the_timeout():
    on_ranks(2, nothing)
    assert "imed out" in outcomes(2, one_rank_is_late, Problem(), timeout=2.0)[0]

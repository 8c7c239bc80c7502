"""What travels between ranks: collectives, their bytes, reads by the host, exact counts."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sigreg.collectives import BatchGroup
from sigreg.sample import Sample
from tests.distributed_problem import Problem, Traffic, traffic_of_a_step
from tests.pool import on_ranks


@pytest.mark.parametrize("N", [3, 300])
def test_epps_pulley_is_one_all_reduce_of_slices_times_points_whatever_the_batch(N):
    problem = Problem(split=(N, N), K=8)
    for traffic in on_ranks(2, traffic_of_a_step, problem):
        assert traffic.calls == {"allreduce": 1}  # no broadcast, and nothing in the backward pass
        numbers = problem.V * problem.K * 16 * 2 + 3  # cosines, sines; sum w, sum w^2; fingerprint
        assert traffic.bytes == {"allreduce": 4 * numbers}


@pytest.mark.parametrize("statistic", ["moments", "jarque_bera", "extended_jarque_bera", "vcreg"])
def test_statistics_of_moments_send_a_message_that_does_not_grow_with_the_batch(statistic):
    small, large = (
        on_ranks(2, traffic_of_a_step, Problem(split=(N, N), statistic=statistic))[0] for N in (3, 300)
    )
    assert small.calls.keys() == {"allreduce"}
    assert small.calls["allreduce"] == (1 if statistic == "moments" else 2)  # the mean goes first
    assert small.bytes == large.bytes


@pytest.mark.parametrize("statistic", ["epps_pulley", "moments", "vcreg", "mix of sums"])
def test_a_step_never_reads_a_number_on_the_host(statistic):
    for traffic in on_ranks(2, traffic_of_a_step, Problem(statistic=statistic)):
        assert traffic.reads == 0


def test_the_count_of_reads_sees_an_item():
    with Traffic() as traffic:
        torch.ones(()).item()
    assert traffic.reads == 1


def test_statistics_of_order_gather_the_projections_and_nothing_in_the_backward_pass():
    problem = Problem(split=(9, 9), statistic="cramer_von_mises")
    for traffic in on_ranks(2, traffic_of_a_step, problem):
        assert traffic.calls == {"allgather": 2}  # the sizes, then the projections
        assert traffic.bytes["allgather"] == 2 * 8 + 4 * problem.V * 9 * problem.K


def counted(count: int, dtype: torch.dtype) -> Tensor:
    one = Sample(torch.zeros(count, 1, dtype=dtype).expand(count, 1), group=BatchGroup(dist.group.WORLD))
    return one.N


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("count", [515, 32_769])
def test_counts_are_exact_whatever_the_dtype_of_the_embeddings(count, dtype):
    for total in on_ranks(3, counted, count, dtype):
        assert float(total) == 3 * count

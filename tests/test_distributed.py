"""Any split of a batch over ranks is one batch: real gloo processes, DDP's gradients."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.testing import assert_close

from sigreg import SIGReg
from tests.distributed_problem import (
    CHOICES,
    Problem,
    Traffic,
    alone,
    check_any_split_equals_one_process,
    error_of,
    gradients,
    step,
    with_ddp,
)
from tests.pool import on_ranks

problems = st.builds(
    Problem,
    split=st.lists(st.one_of(st.just(1), st.integers(1, 9)), min_size=1, max_size=4)
    .filter(lambda split: sum(split) > 1)
    .map(tuple),
    V=st.integers(1, 3),
    D=st.integers(1, 6),
    K=st.integers(1, 9),
    statistic=st.sampled_from(sorted(CHOICES)),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=15)
@given(problem=problems)
@example(problem=Problem(split=(1, 1, 1, 1)))
@example(problem=Problem(split=(17, 1), statistic="vasicek_entropy"))
def test_any_split_over_ranks_equals_one_process(problem):
    check_any_split_equals_one_process(problem)


@pytest.mark.long
@settings(max_examples=500, derandomize=False)
@given(problem=problems)
def test_any_split_over_ranks_equals_one_process_in_five_hundred_examples(problem):
    check_any_split_equals_one_process(problem)


@pytest.mark.parametrize("statistic", sorted(CHOICES))
def test_every_statistic_on_two_uneven_ranks_equals_one_process(statistic):
    check_any_split_equals_one_process(Problem(split=(7, 2), statistic=statistic))


@pytest.mark.long  # compiles C++ in every worker
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_loops_on_two_uneven_ranks_equal_one_process(dtype):
    problem = Problem(split=(7, 2), backend="inductor", dtype=dtype)
    loss, gradient = alone(replace(problem, backend="eager"))
    for theirs, their_gradient in on_ranks(2, with_ddp, problem):
        assert_close(theirs, loss, **problem.tolerance(loss))
        assert_close(their_gradient, gradient, **problem.tolerance(gradient))


def test_ranks_that_average_their_own_statistics_do_not_equal_one_process():
    problem = Problem()
    _, gradient = alone(problem)
    _, local = on_ranks(2, functools.partial(with_ddp, group=None), problem)[0]
    assert (local - gradient).abs().max() > 1e-3 * gradient.abs().max()


@pytest.mark.parametrize("statistic", sorted(CHOICES))
def test_a_rank_without_rows_contributes_nothing(statistic):
    check_any_split_equals_one_process(Problem(split=(4, 0, 3), statistic=statistic))


# Groups


def with_group_of_pairs(problem: Problem) -> tuple[Tensor, Tensor]:
    """Four ranks as a 2 x 2 mesh: data parallel along one axis, something else along the other."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    group = mesh["data"].get_group()
    model = DDP(problem.network(), process_group=group)
    part = problem.part(mesh["data"].get_local_rank())
    return step(problem, model, part, problem.sigreg(group=group)), gradients(model)


def test_a_data_parallel_axis_of_a_device_mesh_is_a_group():
    problem = Problem()
    loss, gradient = alone(problem)
    for theirs, their_gradient in on_ranks(4, with_group_of_pairs, problem):
        assert_close(theirs, loss, **problem.tolerance(loss))
        assert_close(their_gradient, gradient, **problem.tolerance(gradient))


def local_value_and_calls(problem: Problem) -> tuple[Tensor, dict[str, int]]:
    with Traffic() as traffic:
        value = problem.sigreg(group=None)(problem.part(dist.get_rank()))
    return value, traffic.calls


def test_group_none_stays_local():
    problem = Problem()
    for rank, (value, calls) in enumerate(on_ranks(2, local_value_and_calls, problem)):
        assert_close(value, problem.sigreg(group=None)(problem.part(rank)))
        assert calls == {}


def outside_the_group() -> str:
    group = dist.new_group([0])
    return "" if dist.get_rank() == 0 else error_of(SIGReg, group=group)


def test_a_group_without_this_rank_is_refused():
    assert "TypeError: group must be" in on_ranks(2, outside_the_group)[1]

"""Any split of a batch over ranks is one batch: real gloo processes, DDP's gradients."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pool import on_ranks, outcomes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from sigreg.univariate import STATISTICS

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


# Groups and slices


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


def error_of(function: Any, *args: Any, **kwargs: Any) -> str:
    """The error as a readable line, or an empty one."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_a_group_without_this_rank_is_refused():
    assert "TypeError: group must be" in on_ranks(2, outside_the_group)[1]


# What travels


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
    from sigreg.collectives import BatchGroup
    from sigreg.sample import Sample

    one = Sample(torch.zeros(count, 1, dtype=dtype).expand(count, 1), group=BatchGroup(dist.group.WORLD))
    return one.N


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("count", [515, 32_769])
def test_counts_are_exact_whatever_the_dtype_of_the_embeddings(count, dtype):
    for total in on_ranks(3, counted, count, dtype):
        assert float(total) == 3 * count


# What goes wrong


@pytest.mark.parametrize("statistic", sorted(CHOICES))
def test_a_rank_without_rows_contributes_nothing(statistic):
    check_any_split_equals_one_process(Problem(split=(4, 0, 3), statistic=statistic))


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


def die_in_the_second_step(problem: Problem) -> str:
    import os
    import signal

    model, sigreg = DDP(problem.network()), problem.sigreg()
    step(problem, model, problem.part(dist.get_rank()), sigreg)
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return error_of(step, problem, model, problem.part(dist.get_rank()), sigreg)


def test_a_rank_killed_in_a_step_ends_the_others_with_an_error_within_the_timeout():
    first, killed, last = outcomes(3, die_in_the_second_step, Problem(split=(3, 3, 3)), timeout=5.0)
    assert killed.kind == "Died"
    for error in (first, last):
        assert error.startswith(("RuntimeError", "DistBackendError", "DistNetworkError"))
        assert re.search("Connection (closed|reset) by peer|[Tt]imed out", error)


def one_rank_is_late(problem: Problem) -> str:
    import time

    sigreg, z = problem.sigreg(), problem.part(dist.get_rank())
    sigreg(z)
    if dist.get_rank() == 1:
        time.sleep(4)
        return ""
    return error_of(sigreg, z)


def test_a_rank_that_does_not_come_is_an_error_after_the_timeout():
    assert "imed out" in outcomes(2, one_rank_is_late, Problem(), timeout=2.0)[0]


def test_every_test_that_the_document_names_exists():
    here = Path(__file__).parent
    named = set(re.findall(r"test_\w+(?![\w.])", (here.parent / "docs" / "distributed.md").read_text()))
    defined = {
        name for file in here.glob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    files = {file.stem for file in here.glob("test_*.py")}
    assert len(named) > 20
    assert named - defined - files == set()


# Weights and memory


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

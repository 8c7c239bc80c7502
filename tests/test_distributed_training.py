"""What people train with, on real processes: DDP, FSDP2, compile, lightly, Lightning, torchrun."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from tests.distributed_problem import WIDTH, Problem, Traffic, alone, fit_with_lightning, gradients, step
from tests.pool import on_ranks

UNEVEN = Problem(split=(6, 2))


class WithLoss(nn.Module):
    """A network that holds its criterion, as many training scripts do."""

    def __init__(self, problem: Problem, **changes: Any) -> None:
        super().__init__()
        self.network = problem.network()
        self.criterion = LeJEPALoss(0.3, problem.sigreg(**changes))

    def forward(self, x: Tensor) -> Tensor:
        return self.criterion(self.network(x))


def descend(model: nn.Module, x: Tensor, loss: Any, steps: int = 3) -> list[float]:
    """The losses of a few steps of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def descend_inside_ddp(problem: Problem) -> tuple[list[float], int]:
    model = WithLoss(problem)
    model.criterion.sigreg.step += 5 * dist.get_rank()  # DDP's broadcast of buffers mends this
    model = DDP(model)
    return descend(model, problem.part(dist.get_rank()), model), int(model.module.criterion.sigreg.step)


def test_sigreg_inside_the_wrapped_module_lives_with_the_broadcast_of_buffers():
    model = WithLoss(UNEVEN, group=None)
    expected = descend(model, UNEVEN.batch(), model)
    for losses, steps in on_ranks(2, descend_inside_ddp, UNEVEN):
        assert losses == pytest.approx(expected, rel=1e-10)
        assert steps == 3


def descend_with_memory_inside_ddp(problem: Problem) -> list[float]:
    model = DDP(WithLoss(problem, memory=8))
    return descend(model, problem.part(dist.get_rank()), model, steps=4)


def test_a_memory_inside_the_wrapped_module_keeps_the_rows_of_its_own_rank():
    """One process keeps the last batch of eight; each of two ranks its four rows of it."""
    problem = Problem(split=(4, 4))
    model = WithLoss(problem, group=None, memory=8)
    expected = descend(model, problem.batch(), model, steps=4)
    for losses in on_ranks(2, descend_with_memory_inside_ddp, problem):
        assert losses == pytest.approx(expected, rel=1e-10)


def accumulate(problem: Problem, distributed: bool) -> Tensor:
    """The gradients of two micro-batches, communicated with the second one only."""
    model: Any = problem.network()
    x, sigreg = problem.batch(), problem.sigreg(group="auto" if distributed else None)
    if distributed:
        model, x = DDP(model), problem.part(dist.get_rank())
    for micro_batch, quiet in ((x, distributed), (2 * x, False)):
        with model.no_sync() if quiet else contextlib.nullcontext():
            step(problem, model, micro_batch, sigreg)
    return gradients(model)


def test_gradients_accumulated_under_no_sync_equal_one_process():
    expected = accumulate(UNEVEN, distributed=False)
    for gradient in on_ranks(2, accumulate, UNEVEN, True):
        assert_close(gradient, expected, **UNEVEN.tolerance(expected))


def with_fsdp2(problem: Problem) -> tuple[Tensor, Tensor]:
    from torch.distributed.fsdp import fully_shard

    model = problem.network()
    with warnings.catch_warnings():
        # Linear on (V, N, D) gives a view, of which fully_shard advises not to change it in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        for layer in (model[0], model[2], model):
            fully_shard(layer)
        loss = step(problem, model, problem.part(dist.get_rank()), problem.sigreg())
        gradient = torch.cat([p.grad.full_tensor().flatten() for p in model.parameters()])
    return loss, gradient


@pytest.mark.parametrize("statistic", ["epps_pulley", "watson"])
def test_fsdp2_equals_one_process(statistic):
    problem = Problem(split=(6, 2), statistic=statistic)
    loss, gradient = alone(problem)
    for theirs, their_gradient in on_ranks(2, with_fsdp2, problem):
        assert_close(theirs, loss, **problem.tolerance(loss))
        assert_close(their_gradient, gradient, **problem.tolerance(gradient))


SHORT = {"num_points": 4}  # the formulas are unrolled point by point, and tracing them takes its time


def compiled(problem: Problem) -> tuple[Tensor, Tensor]:
    """The whole of SIGReg in one graph, its collective included, without a C++ compiler."""
    sigreg = torch.compile(problem.sigreg(**SHORT), backend="aot_eager", fullgraph=True)
    z = problem.part(dist.get_rank()).requires_grad_()
    value = sigreg(z)
    value.backward()
    return value.detach(), z.grad


def test_sigreg_and_its_all_reduce_compile_into_one_graph():
    problem = Problem(D=WIDTH)
    z = problem.batch().requires_grad_()
    value = problem.sigreg(group=None, **SHORT)(z)
    value.backward()
    for rank, (theirs, gradient) in enumerate(on_ranks(2, compiled, problem)):
        assert_close(theirs, value.detach())
        assert_close(gradient, 2 * z.grad.split(problem.split, dim=1)[rank])


def compiled_on_rank_1(problem: Problem) -> Tensor:
    sigreg = problem.sigreg(**SHORT)
    z = problem.part(dist.get_rank())
    sigreg(z)  # the first call, not compiled: it compares settings
    return torch.compile(sigreg, backend="aot_eager")(z) if dist.get_rank() else sigreg(z)


def test_a_rank_that_runs_compiled_adds_up_with_one_that_does_not():
    problem = Problem(D=WIDTH)
    sigreg = problem.sigreg(group=None, **SHORT)
    sigreg(problem.batch())
    expected = sigreg(problem.batch())
    for value in on_ranks(2, compiled_on_rank_1, problem):
        assert_close(value, expected)


# Hosts


def lightly_and_ours(problem: Problem) -> list[tuple[Tensor, Tensor]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightly's imports, and torch's deprecation of what lightly calls
        from lightly.loss.lejepa_loss import SIGReg as LightlySIGReg

        A = torch.nn.functional.normalize(torch.randn(problem.D, problem.K), dim=0)
        dist.broadcast(A, src=0)
        theirs = LightlySIGReg(num_vectors=problem.K, gather_distributed=True)
        theirs._generate_unit_vectors = lambda *args, **kwargs: A
        ours = problem.sigreg(directions=lambda *args, **kwargs: A)
        results = []
        for sigreg in (theirs, ours):
            model = DDP(problem.network())
            value = sigreg(model(problem.part(dist.get_rank())))
            value.backward()
            results.append((value.detach(), gradients(model)))
    return results


@pytest.mark.parametrize("split", [(5, 5), (7, 3)])
def test_lightly_gathering_and_ours_agree_along_the_same_directions(split):
    problem = Problem(split=split, dtype=torch.float32)
    for (theirs, their_gradient), (ours, our_gradient) in on_ranks(2, lightly_and_ours, problem):
        assert_close(ours, theirs, **problem.tolerance(theirs))
        assert_close(our_gradient, their_gradient, **problem.tolerance(their_gradient))


def with_lightning(problem: Problem) -> tuple[list[float], int]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(?!sigreg)")  # Lightning's advice and its imports
        import lightning

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model, self.losses = WithLoss(problem), []

            def training_step(self, x: Tensor, index: int) -> Tensor:
                loss = self.model(x)
                self.losses.append(float(loss.detach()))
                return loss

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        module, x = Module(), problem.part(dist.get_rank())
        fit_with_lightning(module, [x] * 3)
    return module.losses, int(module.model.criterion.sigreg.step)


def test_lightning_ddp_equals_one_process():
    model = WithLoss(UNEVEN, group=None)
    expected = descend(model, UNEVEN.batch(), model)
    for losses, steps in on_ranks(2, with_lightning, UNEVEN):
        assert losses == pytest.approx(expected, rel=1e-10)
        assert steps == 3


TRAIN = Path(__file__).parents[1] / "integrations" / "torchrun" / "train.py"


@functools.cache
def losses_of_torchrun(ranks: int, *arguments: str) -> list[float]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *(launcher if ranks > 1 else []), str(TRAIN), *arguments]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr
    return [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", ran.stdout)]


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_the_torchrun_recipe_prints_the_losses_of_one_process(wrapper):
    small = ("--steps", "3", "--slices", "32", "--batch", "32", "--wrapper", wrapper)
    one, two = losses_of_torchrun(1, *small[:-2]), losses_of_torchrun(2, *small)
    assert len(one) == 3
    assert two == pytest.approx(one, rel=1e-4)


def test_sigreg_alone_in_a_group_of_one_sends_nothing():
    assert on_ranks(1, traffic_of_one) == [{}]


def traffic_of_one() -> dict[str, int]:
    with Traffic() as traffic:
        SIGReg(num_slices=4)(torch.randn(6, 3, requires_grad=True)).backward()
    return traffic.calls

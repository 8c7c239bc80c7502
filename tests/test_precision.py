"""Half precision outside, float32 inside: values, counts, gradients, and steps that are skipped together."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from sigreg.univariate import STATISTICS, epps_pulley
from tests.distributed_problem import CHOICES, Problem
from tests.pool import on_ranks

HALVES = [torch.bfloat16, torch.float16]


def embeddings(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 24, 6, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("statistic", sorted(CHOICES))
def test_the_statistic_of_a_half_precision_embedding_runs_in_float32(statistic, dtype):
    z = embeddings(dtype).requires_grad_()
    value = SIGReg(CHOICES[statistic], num_slices=8)(z)
    assert value.dtype == torch.float32
    assert_close(value, SIGReg(CHOICES[statistic], num_slices=8)(z.detach().float()), rtol=0, atol=0)
    value.backward()
    assert z.grad.dtype == dtype


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_does_not_reach_the_statistic(dtype):
    z = embeddings()
    with torch.autocast("cpu", dtype=dtype):
        assert (z @ z.mT).dtype == dtype  # autocast is on
        components = LeJEPALoss(sigreg=SIGReg(num_slices=8)).components(z)
    expected = LeJEPALoss(sigreg=SIGReg(num_slices=8)).components(z)
    for value, reference in zip(components, expected, strict=True):
        assert value.dtype == torch.float32
        assert_close(value, reference, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("parameters", ["float32", "half"])
def test_gradients_reach_the_parameters_in_their_dtype(parameters, dtype):
    layer = nn.Linear(6, 4).to(torch.float32 if parameters == "float32" else dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=parameters == "float32"):
        z = layer(embeddings(layer.weight.dtype))
        assert z.dtype == dtype
        LeJEPALoss(sigreg=SIGReg(num_slices=8))(z).backward()
    assert layer.weight.grad.dtype == layer.weight.dtype
    assert layer.weight.grad.abs().sum() > 0


def gradients_of_halves(problem: Problem, inside: bool, dtype: torch.dtype) -> Tensor:
    z = problem.part(dist.get_rank()).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = problem.sigreg()(z)
        if inside:
            value.backward()
    if not inside:
        value.backward()
    return z.grad


@pytest.mark.parametrize("dtype", HALVES)
def test_a_backward_pass_called_under_autocast_sums_in_float32_too(dtype):
    problem = Problem(dtype=torch.float32)
    inside, outside = (on_ranks(2, gradients_of_halves, problem, where, dtype)[0] for where in (True, False))
    assert_close(inside, outside, rtol=0, atol=0)


def collapsed(count: int, dtype: torch.dtype) -> Tensor:
    """N times a constant: a count that lost a digit shows in the value."""
    with torch.autocast("cpu", dtype=dtype):
        return SIGReg(num_slices=2)(torch.zeros(count + dist.get_rank(), 2, dtype=dtype))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("count", [515, 32_760])  # 1,031 is no bfloat16 number, 65,521 no float16 one
def test_counts_over_ranks_do_not_round_to_half_precision(count, dtype):
    expected = epps_pulley(torch.zeros(2 * count + 1, 1))[0]
    for value in on_ranks(2, collapsed, count, dtype):
        assert_close(value, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("statistic", sorted(CHOICES.keys() - {"user's own"}))
def test_one_coordinate_that_is_not_finite_shows_in_value_and_gradient(statistic, bad, masked):
    z = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    z[3, 1] = bad
    mask = torch.arange(16) < 14 if masked else None
    value = SIGReg(CHOICES[statistic], num_slices=8)(z.requires_grad_(), mask)
    value.backward()
    assert not value.isfinite()
    assert not z.grad.isfinite().all()  # which is what a GradScaler looks at


@pytest.mark.parametrize("dtype", HALVES)
def test_a_graph_of_the_gradient_made_under_autocast_is_of_float32(dtype):
    z = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    sigreg = SIGReg(num_slices=32).eval()
    (expected,) = torch.autograd.grad(sigreg(z), z, create_graph=True)
    with torch.autocast("cpu", dtype=dtype):
        (got,) = torch.autograd.grad(sigreg(z), z, create_graph=True)
    assert_close(got, expected, rtol=0, atol=0)


def scaled_steps(problem: Problem) -> list[tuple[Tensor, float]]:
    """Weights and scale after a good step, one that is infinite on rank 1 only, and a good one."""
    model = DDP(problem.network())
    criterion, scaler = LeJEPALoss(sigreg=problem.sigreg()), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    for bad in (False, True, False):
        x = problem.part(dist.get_rank()).clone()
        if bad and dist.get_rank() == 1:
            x[0, 0, 0] = torch.inf
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = criterion(model(x))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        history.append((weights.clone(), scaler.get_scale()))
    return history


@pytest.mark.parametrize("statistic", ["epps_pulley", "watson"])
def test_a_grad_scaler_skips_a_non_finite_step_on_every_rank_alike(statistic):
    first, second = on_ranks(2, scaled_steps, Problem(dtype=torch.float32, statistic=statistic))
    for (weights, scale), (their_weights, their_scale) in zip(first, second, strict=True):
        assert scale == their_scale
        assert_close(weights, their_weights, rtol=0, atol=0)
    (good, scale), (skipped, backed_off), (after, _) = first
    assert_close(skipped, good, rtol=0, atol=0)
    assert backed_off == scale / 2
    assert after.isfinite().all()
    assert (after - skipped).abs().max() > 0


@pytest.mark.parametrize("kind", ["none", "mask", "weights"])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_default_dtype_does_not_change_that_of_the_result(statistic, kind):
    z = embeddings()
    weights = {"none": None, "mask": torch.arange(24) < 20, "weights": torch.linspace(0, 1, 24)}[kind]
    if statistic == "vasicek_entropy" and kind == "weights":
        pytest.skip("it takes masks only")
    values = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            values.append(STATISTICS[statistic](z, weights=weights))
        finally:
            torch.set_default_dtype(torch.float32)
    assert values[1].dtype == torch.float32
    assert_close(*values, rtol=1e-5, atol=1e-5)

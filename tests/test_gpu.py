"""On a CUDA GPU: the values and gradients of a CPU, without waiting for the device, and what they cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from sigreg import LeJEPALoss, SIGReg
from sigreg.directions import DIRECTIONS, gaussian
from sigreg.functional import sigreg as functional
from sigreg.kernels.choice import chosen
from sigreg.univariate import STATISTICS
from tests.kernel_cases import assert_near, problem, reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
V, N, D, K = 3, 200, 48, 256


def embeddings(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(V, N, D, generator=generator) * torch.linspace(0.5, 1.5, D)


def value_and_gradient(loss, z: Tensor, *arguments, **settings) -> tuple[Tensor, Tensor]:
    z = z.detach().requires_grad_()
    value = loss(z, *arguments, **settings)
    (grad,) = torch.autograd.grad(value, z)
    return value.detach().cpu(), grad.cpu()


def close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b.double()).norm() <= tolerance * b.double().norm()


def test_auto_is_triton_for_float32_and_eager_for_float64() -> None:
    z = embeddings().cuda()
    assert chosen("auto", z) == "triton"
    assert chosen("auto", z.double()) == "eager"
    assert "auto (triton)" in repr(SIGReg().cuda())


@pytest.mark.parametrize("name", sorted(DIRECTIONS))
def test_directions_are_those_of_a_cpu(name) -> None:
    for seed, step in ((0, 0), (3, 2**33 + 5)):
        here = DIRECTIONS[name](D, K, seed=seed, step=step, device=torch.device("cuda"))
        moved = DIRECTIONS[name](D, K, seed=seed, step=torch.tensor(step, device="cuda"), device=here.device)
        there = DIRECTIONS[name](D, K, seed=seed, step=step)
        # numbers of size 1, whose logarithm, root and cosine may differ in the last digits; QR adds to them
        assert_close(here.cpu(), there, rtol=0, atol=1e-6 if name != "orthogonal" else 1e-5)
        assert torch.equal(here, moved)


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("num_points", [2, 17, 33])
@pytest.mark.parametrize("shape", [(3, 41, 7, 401), (8, 256, 64, 1024), (1, 5000, 300, 77), (2, 3, 1, 1)])
def test_value_and_gradient_are_the_reference_s(shape, num_points, unbiased, backend) -> None:
    z, A = problem(*shape)
    settings = {"num_points": num_points, "unbiased": unbiased}
    value, grad = value_and_gradient(functional, z.cuda(), A.cuda(), backend=backend, **settings)
    scale = float(reference(z, A, num_points=num_points)[0])
    assert_near(value, grad, reference(z, A, **settings), scale if unbiased else None)


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 20.0])
def test_from_collapse_to_far_away(scale) -> None:
    z, A = problem(K=50, scale=scale)
    assert_near(*value_and_gradient(functional, z.cuda(), A.cuda()), reference(z, A))


@pytest.mark.parametrize("kind", ["mask", "weights"])
@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_every_statistic_is_that_of_a_cpu(name, kind) -> None:
    if name == "vasicek_entropy" and kind == "weights":
        pytest.skip("it has no weighted form")
    # of given projections: rounding may exchange two neighbours in the order, which is 1e-3 of the gradient
    x, identity = embeddings() @ gaussian(D, K), torch.eye(K)
    w = torch.rand(V, N, generator=torch.Generator().manual_seed(1))
    w = w > 0.3 if kind == "mask" else w
    on_gpu = value_and_gradient(functional, x.cuda(), identity.cuda(), statistic=name, weights=w.cuda())
    on_cpu = value_and_gradient(functional, x.double(), identity.double(), statistic=name, weights=w)
    close(on_gpu, on_cpu, 1e-4)


def test_learned_directions_and_second_derivatives() -> None:
    results = []
    for device, dtype in (("cuda", torch.float32), ("cpu", torch.float64)):
        z = embeddings().to(device, dtype).requires_grad_()
        A = gaussian(D, K).to(device, dtype).requires_grad_()
        first = torch.autograd.grad(functional(z, A), (z, A), create_graph=True)
        fixed = functional(z, A.detach())
        (gz,) = torch.autograd.grad(fixed, z, create_graph=True)
        second = torch.autograd.grad(gz.square().sum(), z)
        results.append([x.detach().cpu() for x in (*first, *second)])
    close(*results, 1e-4)


@pytest.mark.parametrize("weights", [None, "mask"])
def test_a_training_step_never_waits_for_the_device(weights) -> None:
    z, criterion = embeddings().cuda().requires_grad_(), LeJEPALoss().cuda()
    w = None if weights is None else torch.rand(N, device="cuda") < 0.8
    criterion(z, weights=w).backward()  # loads and compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(z, weights=w).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_replayed_graph_moves_to_new_directions() -> None:
    z, sigreg = embeddings().cuda().requires_grad_(), SIGReg(num_slices=K).cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # as torch.cuda.graph asks for: warm up on another stream
        for _ in range(2):
            torch.autograd.grad(sigreg(z), z)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = sigreg(z)
        (grad,) = torch.autograd.grad(value, z)
    for _ in range(3):
        before = int(sigreg.step)
        graph.replay()
        expected = value_and_gradient(sigreg, z, step=before)
        assert int(sigreg.step) == before + 1
        close((value.detach().cpu(), grad.cpu()), expected, 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing_but_the_input(dtype) -> None:
    z, A = embeddings().cuda().to(dtype), gaussian(D, K, device=torch.device("cuda"))
    with torch.autocast("cuda", dtype):
        value, grad = value_and_gradient(functional, z, A)
    expected, slope = value_and_gradient(functional, z.float(), A)
    assert (value.dtype, grad.dtype) == (torch.float32, dtype)
    assert_close(value, expected, rtol=1e-6, atol=0)
    assert_close(grad, slope.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-7)


def test_a_grad_scaler_skips_what_is_not_finite() -> None:
    layer, scaler = torch.nn.Linear(D, D).cuda(), torch.amp.GradScaler("cuda")
    optimizer, before = torch.optim.SGD(layer.parameters(), lr=1.0), layer.weight.detach().clone()
    z = embeddings().cuda()
    z[0, 0, 0] = torch.inf
    scaler.scale(SIGReg(num_slices=K).cuda()(layer(z))).backward()
    scaler.step(optimizer)
    assert torch.equal(layer.weight, before)


def test_two_calls_agree_to_the_last_bit() -> None:
    z, A = embeddings().cuda(), gaussian(D, K, device=torch.device("cuda"))
    first, second = (value_and_gradient(functional, z, A) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_activation_checkpointing_uses_the_directions_of_the_forward_pass() -> None:
    gradients = []
    for checkpointed in (False, True):
        z, sigreg = embeddings().cuda().requires_grad_(), SIGReg(num_slices=K).cuda()
        for _ in range(2):
            loss = checkpoint(sigreg, z, use_reentrant=False) if checkpointed else sigreg(z)
            loss.backward()
        gradients.append(z.grad)
    assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_compiled_into_a_model_s_graph() -> None:
    z, sigreg = embeddings().cuda(), SIGReg(num_slices=K).cuda()
    expected = value_and_gradient(sigreg, z, step=0)
    compiled = torch.compile(sigreg, fullgraph=True)
    close(value_and_gradient(compiled, z), expected, 1e-4)
    assert int(sigreg.step) == 1


def launches(loss, z: Tensor) -> int:
    """Kernels that the GPU ran for a value and its gradient."""
    torch.autograd.grad(loss(z), z)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        torch.autograd.grad(loss(z), z)
        torch.cuda.synchronize()
    events = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not e.name.startswith(("Memcpy", "Memset")) for e in events)


@pytest.mark.parametrize("shape", [(8, 256, 64), (10, 512, 512)], ids=str)
def test_a_value_and_its_gradient_take_at_most_20_launches(shape) -> None:
    z = torch.randn(shape, device="cuda", requires_grad=True)
    assert 5 < launches(SIGReg().cuda(), z) <= 20
    assert launches(SIGReg(backend="eager").cuda(), z) <= 128


def peak(loss, z: Tensor) -> int:
    """Bytes beyond what was there."""
    torch.autograd.grad(loss(z), z)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.autograd.grad(loss(z), z)
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("shape", [(8, 256, 64), (10, 512, 512)], ids=str)
def test_a_tenth_of_lightly_s_memory(shape) -> None:
    lightly = pytest.importorskip("lightly.loss.lejepa_loss")
    z = torch.randn(shape, device="cuda", requires_grad=True)
    assert peak(SIGReg().cuda(), z) <= peak(lightly.SIGReg(num_vectors=1024).cuda(), z) / 10

"""Every backend computes one number: value and gradient against a plain float64 reference."""

import functools
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from sigreg import LeJEPALoss, SIGReg, kernels
from sigreg.collectives import BatchGroup
from sigreg.kernels import eager, inductor, sincos
from sigreg.sample import Sample
from sigreg.univariate import epps_pulley

GRID = {"t_max": 3.0, "num_points": 17}
VALUE, GRADIENT = 1e-5, 1e-4  # relative


def reference(z: Tensor, A: Tensor, t_max=3.0, num_points=17, unbiased=False) -> tuple[Tensor, Tensor]:
    """Epps-Pulley knot by knot in float64, with the (V, N, K, points) tensor that the library avoids."""
    z = z.detach().double().requires_grad_()
    x, N = z @ A.double(), z.shape[-2]
    t = torch.linspace(0, t_max, num_points, dtype=torch.float64)
    phi = torch.exp(-(t**2) / 2)
    xt = x[..., None] * t
    re, im = xt.cos().mean(-3), xt.sin().mean(-3)
    modulus = re**2 + im**2
    if unbiased:
        modulus = (N * modulus - 1) / (N - 1)
    error = modulus - 2 * re * phi + phi**2
    value = N * 2 * torch.trapezoid(error * phi, t).mean()
    (grad,) = torch.autograd.grad(value, z)
    return value.detach(), grad


def problem(V=3, N=41, D=7, K=401, scale=1.0, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(V * N + D * K)
    z = torch.randn(V, N, D, generator=generator, dtype=torch.float64) * scale
    A = torch.nn.functional.normalize(torch.randn(D, K, generator=generator, dtype=torch.float64), dim=0)
    return z.to(dtype).requires_grad_(), A.to(dtype)


class AnotherRank(BatchGroup):
    """Two ranks in one process: adds the sums of `other`, a sample that only it can see."""

    def __init__(self, other: Tensor, A: Tensor) -> None:
        self.group, self.size, self.other, self.A = None, 2, other, A

    def all_reduce(self, *parts: Tensor) -> tuple[Tensor, ...]:
        count = torch.tensor([float(self.other.shape[-2])])
        theirs = (*kernels.ecf_sums(self.other, self.A, None, 3.0 / 16, 16), count, count)
        return tuple(a + b for a, b in zip(parts, theirs, strict=True))


def empty_rank(z: Tensor, A: Tensor) -> AnotherRank:
    return AnotherRank(z.new_zeros(*z.shape[:-2], 0, z.shape[-1]), A)


COMPILED = pytest.param("inductor", marks=pytest.mark.long)


@pytest.fixture(params=["reference", "eager", "eager of a GPU", "two-phase", "formula", COMPILED])
def backend(request, monkeypatch):
    """ "two-phase" is eager over ranks, "formula" is what inductor compiles, as it stands."""
    name = request.param
    if name == "formula":
        name = "inductor"
        monkeypatch.setattr(inductor, "_PART", 200)  # so that small problems have several parts too
        monkeypatch.setattr(inductor, "_run", lambda formula, *x, J: formula(*x, J, sincos.cos_sin))
    if name == "eager of a GPU":
        name = "eager"
        monkeypatch.setitem(eager._TILE, "cpu", eager._TILE["other"])

    def compute(z: Tensor, A: Tensor, *, weights: Tensor | None = None, group=None, **settings) -> Tensor:
        backend = "eager" if name == "two-phase" else name
        if name == "two-phase" and group is None and settings.get("num_points", 17) == 17:
            group = empty_rank(z.detach(), A.detach()) if settings.get("t_max", 3.0) == 3.0 else None
        sample = Sample(z, weights, group)
        return sample.mean_over_views(
            kernels.sliced_epps_pulley(sample, A, backend=backend, **(GRID | settings))
        )

    return compute


def assert_near(value: Tensor, grad: Tensor, expected: tuple[Tensor, Tensor], scale: float | None = None):
    """Within the promised distance; `scale` replaces the value where that may be near zero."""
    assert_close(value.double(), expected[0], rtol=VALUE, atol=VALUE * (scale or 0.0))
    assert (grad.double() - expected[1]).norm() <= GRADIENT * expected[1].norm()


@pytest.mark.parametrize("V", [1, 3, 10])
def test_value_and_gradient_are_the_reference_s(backend, V):
    z, A = problem(V=V)
    value = backend(z, A)
    (grad,) = torch.autograd.grad(value, z)
    assert_near(value, grad, reference(z, A))


@pytest.mark.parametrize(
    ("V", "N", "D", "K"), [(1, 2, 1, 1), (2, 3, 5, 2), (1, 1037, 3, 67), (2, 9, 130, 70), (1, 7, 2, 4099)]
)
def test_shapes_that_divide_nothing(backend, V, N, D, K):
    z, A = problem(V, N, D, K)
    value = backend(z, A)
    (grad,) = torch.autograd.grad(value, z)
    assert_near(value, grad, reference(z, A))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("num_points", [2, 4, 5, 6, 9, 17, 18, 65])
def test_any_grid_biased_or_not(backend, num_points, unbiased):
    z, A = problem(V=2, K=37)
    settings = {"t_max": 4.0, "num_points": num_points, "unbiased": unbiased}
    value = backend(z, A, **settings)
    (grad,) = torch.autograd.grad(value, z)
    scale = float(reference(z, A, 4.0, num_points)[0])  # the unbiased value is a difference of such numbers
    assert_near(value, grad, reference(z, A, **settings), scale if unbiased else None)


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-2, 0.1, 1.0, 5.0, 20.0])
def test_from_collapse_to_far_away(backend, scale):
    z, A = problem(K=50, scale=scale)
    value = backend(z, A)
    (grad,) = torch.autograd.grad(value, z)
    assert_near(value, grad, reference(z, A))


def test_collapse_onto_one_point_away_from_the_origin(backend):
    z, A = problem(V=1, N=1, K=50)
    z = (z.detach() + 1e-3 * torch.randn(1, 41, 7)).requires_grad_()
    value = backend(z, A)
    (grad,) = torch.autograd.grad(value, z)
    assert_near(value, grad, reference(z, A))


def test_collapse_at_the_origin_has_no_gradient(backend):
    z = torch.zeros(1, 30, 4, requires_grad=True)
    value = backend(z, torch.eye(4))
    (grad,) = torch.autograd.grad(value, z)
    assert_close(value / 30, torch.tensor(0.40205), rtol=1e-4, atol=0)
    assert_close(grad, torch.zeros_like(z), rtol=0, atol=0)


def test_an_upstream_gradient_scales_the_gradient(backend):
    z, A = problem(K=50)
    (grad,) = torch.autograd.grad(-3.5 * backend(z, A), z)
    value, expected = reference(z, A)
    assert_near(value, grad, (value, -3.5 * expected))


@pytest.mark.parametrize(
    "view",
    [
        lambda z: z[:, ::2],
        lambda z: z[..., ::3],
        lambda z: z.transpose(0, 1),
        lambda z: z.permute(2, 1, 0),
        lambda z: z[:1].expand(4, -1, -1),
        lambda z: z.flip(1)[1:],
    ],
)
def test_strides_do_not_matter(backend, view):
    base = torch.randn(6, 14, 9, requires_grad=True)
    z = view(base)
    A = problem(D=z.shape[-1], K=33)[1]
    (grad,) = torch.autograd.grad(backend(z, A), base)
    (expected,) = torch.autograd.grad(z, base, reference(z, A)[1].float())
    assert_near(backend(z, A), grad, (reference(z, A)[0], expected.double()))


def test_double_precision_stays_double(backend):
    z, A = problem(K=33, dtype=torch.float64)
    value = backend(z, A)
    (grad,) = torch.autograd.grad(value, z)
    assert_close((value, grad), reference(z, A), rtol=1e-11, atol=1e-13)


def test_uneven_ranks_meet_between_sums_and_value(backend):
    (z, A), other = problem(V=2, N=20, K=33), torch.randn(2, 13, 7)
    value = backend(z, A, group=AnotherRank(other, A))
    (grad,) = torch.autograd.grad(value, z)
    both, expected = reference(torch.cat([z.detach(), other], dim=1), A)
    assert_near(value, grad, (both, expected[:, :20]))


def test_second_derivatives(backend):
    z, A = problem(V=2, N=4, D=3, K=3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: backend(z, A), z, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda z: backend(z, A), z, fast_mode=True)


def test_directions_can_be_learned(backend):
    z, A = problem(V=2, N=5, D=3, K=30, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda A: backend(z.detach(), A), A.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("backend", ["eager", "two-phase", "formula", COMPILED], indirect=True)
def test_a_backward_pass_called_under_autocast_stays_in_float32(backend):
    z, A = problem()
    value = backend(z, A)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (grad,) = torch.autograd.grad(value, z)
    assert_near(value, grad, reference(z, A))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("hidden", [0.0, math.nan])
def test_a_mask_equals_removing_the_rows_whatever_they_hold(backend, hidden, unbiased):
    """Each view has its own mask, and one view has no valid row."""
    z, A = problem(V=4, N=23, K=33, dtype=torch.float64)
    mask = torch.rand(4, 23, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[2] = False
    masked = torch.where(mask[..., None], z.detach(), hidden).requires_grad_()
    value = backend(masked, A, weights=mask, unbiased=unbiased)
    (grad,) = torch.autograd.grad(value, masked)
    alone = [reference(z[v : v + 1, mask[v]], A, unbiased=unbiased) for v in (0, 1, 3)]
    assert_close(value, torch.stack([v for v, _ in alone]).mean(), rtol=1e-10, atol=1e-10)
    for v, (_, expected) in zip((0, 1, 3), alone, strict=True):
        assert_close(grad[v, mask[v]], expected[0] / 3, rtol=1e-10, atol=1e-10)
    assert not grad[~mask].any()


def test_weights_are_repetitions(backend):
    """Of rows with N in the place of (sum w)^2 / sum w^2, and the gradient w times that of one copy."""
    z, A = problem(V=2, N=11, K=33, dtype=torch.float64)
    times = torch.tensor([1, 2, 3, 1, 5, 1, 2, 1, 4, 1, 1])
    weights = times.double()
    value = backend(z, A, weights=weights)
    (grad,) = torch.autograd.grad(value, z)
    repeated, their_grad = reference(z.detach().repeat_interleave(times, dim=1), A)
    size = weights.sum() ** 2 / weights.square().sum()
    assert_close(value / size, repeated / times.sum(), rtol=1e-10, atol=1e-10)
    last = times.cumsum(0) - 1  # one copy of each row
    expected = their_grad[:, last] * (weights * size / times.sum()).unsqueeze(-1)
    assert_close(grad, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_one_non_finite_number_is_seen(backend, bad):
    z, A = problem(K=33)
    z = z.detach()
    z[1, 3, 2] = bad
    assert not torch.isfinite(backend(z, A))


class LargestTensor(TorchDispatchMode):
    """Records the most numbers that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_eager_never_holds_the_projections():
    V, N, D, K = 4, 64, 8, 4096
    z, A = problem(V, N, D, K)
    with LargestTensor() as largest:
        kernels.sliced_epps_pulley(Sample(z), A, backend="eager").mean().backward()
    assert 0 < largest.numel < V * N * K  # where others hold 17 times that, several times


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_gradient_comes_back_in_the_input_s_dtype(dtype):
    sigreg = SIGReg(num_slices=33, directions=lambda D, K, **_: problem(D=D, K=K)[1].to(_["dtype"]))
    z = problem(dtype=dtype)[0]
    sigreg(z).backward()
    assert z.grad.dtype == dtype
    _, expected = reference(z, problem(K=33)[1])
    error = (z.grad.double() - expected).norm() / expected.norm()
    assert error < max(GRADIENT, torch.finfo(dtype).eps)


def test_sigreg_s_backends_agree_with_the_statistic():
    z = torch.randn(2, 3, 20, 5)
    for settings in ({}, {"grid": "accurate"}, {"t_max": 5.0, "num_points": 12}, {"unbiased": True}):
        sigreg = SIGReg(num_slices=16, **settings).eval()
        A = sigreg.directions(5, 16, seed=sigreg.seed, step=sigreg.step)
        assert_close(sigreg(z), epps_pulley(z @ A, **settings).mean())


def test_sigreg_says_which_backend_runs():
    assert "backend=auto (eager)" in repr(SIGReg())
    assert "backend=inductor" in repr(SIGReg(backend="inductor"))
    assert "backend=reference" in repr(SIGReg(backend="reference"))


@pytest.mark.parametrize("backend", ["inductor", "triton"])
@pytest.mark.parametrize("statistic", ["cramer_von_mises", {"vcreg": 0.1}, lambda x: x[0]])
def test_a_compiled_backend_is_for_epps_pulley_alone(backend, statistic):
    with pytest.raises(ValueError, match="computes epps_pulley alone"):
        SIGReg(statistic, backend=backend)


def test_a_partial_of_epps_pulley_is_epps_pulley():
    partial = functools.partial(epps_pulley, t_max=5.0)
    z = torch.randn(30, 4)
    assert_close(SIGReg(partial, backend="eager")(z), SIGReg(t_max=5.0)(z), rtol=0, atol=0)


@pytest.mark.long
def test_inductor_without_a_compiler_says_what_to_do():
    code = "import torch, sigreg\nsigreg.SIGReg(num_slices=4, backend='inductor')(torch.randn(5, 3))\n"
    environment = os.environ | {"CXX": "/no/such/compiler", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "RuntimeError: backend='inductor' could not compile here" in run.stderr


class Step(torch.nn.Module):
    """A training step as users write it: an encoder, views, the loss."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(6, 4)
        self.criterion = LeJEPALoss(sigreg=SIGReg(num_slices=8, **settings))

    def forward(self, views: Tensor) -> Tensor:
        return self.criterion(self.encoder(views))


@pytest.mark.parametrize("compiler", ["aot_eager", COMPILED])  # the first traces and generates no code
@pytest.mark.parametrize("backend", ["auto", "inductor"])
def test_a_whole_training_step_is_one_graph(backend, compiler):
    views, step = torch.randn(2, 10, 6), Step(backend=backend)
    plain = Step(backend="eager")
    plain.load_state_dict(step.state_dict())
    compiled = torch.compile(step, fullgraph=True, backend=compiler)
    for count in (1, 2):
        losses = compiled(views), plain(views)
        for loss in losses:
            loss.backward()
        assert_close(*losses, rtol=1e-5, atol=0)
        assert_close(step.encoder.weight.grad, plain.encoder.weight.grad, rtol=1e-4, atol=1e-6)
        assert int(step.criterion.sigreg.step) == count


@pytest.mark.long
def test_a_new_batch_size_costs_no_new_compilation():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    inductor._compiled.cache_clear()
    stats = torch._dynamo.utils.counters["stats"]
    for graphs, shapes in ((2, ((2, 20), (2, 21), (3, 35), (16, 9))), (4, ((1, 64), (1, 65)))):
        for V, N in shapes:
            z, A = problem(V, N, 5, 9)
            kernels.sliced_epps_pulley(Sample(z), A, backend="inductor").mean().backward()
        assert stats["unique_graphs"] == graphs, stats  # one forward, one backward; a size of 1 is special


@pytest.mark.long
def test_many_kinds_of_calls_stay_within_the_limit_of_compilations(monkeypatch):
    """Dynamo's guards without generated code: sizes of 1, masks and dtypes are compiled one by one."""
    torch._dynamo.reset()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, options, **k: compile_(f, backend="eager", **k))
    inductor._compiled.cache_clear()
    calls = ((2, 64), False, True), ((2, 40), False, True), ((64,), False, False), ((2, 64), True, True)
    for shape, masked, train in (*calls, ((64,), True, True)):
        z = torch.randn(*shape, 8, requires_grad=train)
        sample = Sample(z, torch.rand(shape) < 0.8 if masked else None)
        value = kernels.sliced_epps_pulley(
            sample, torch.randn(8, 16), num_points=33, backend="inductor"
        ).sum()
        if train:
            value.backward()
    inductor._compiled.cache_clear()


def test_many_grids_fit_into_one_process(monkeypatch):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, options, **kw: compile(f, **kw, backend="eager"))
    inductor._compiled.cache_clear()
    phi = torch.randn(5, 2, 6)
    for J in range(1, 12):  # torch.compile gives up at the ninth variant of one function
        assert inductor._run(inductor._products, phi, None, None, J=J).shape == (5, 2, 8 * J)
    inductor._compiled.cache_clear()

"""Every backend computes one number: value and gradient against a plain float64 reference."""

import functools
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from sigreg import SIGReg, kernels
from sigreg.sample import Sample
from sigreg.univariate import epps_pulley
from tests.kernel_cases import COMPILED, GRADIENT, AnotherRank, assert_near, problem, reference


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

"""Closed forms in R^D: against quadrature, sampled slices, loops, and each other."""

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from sigreg import SIGReg
from sigreg.directions import gaussian
from sigreg.multivariate import bhep, exact_sigreg, henze_zirkler, pairs
from sigreg.multivariate.sphere import sphere_mean, sphere_mean_slope
from sigreg.univariate import epps_pulley
from tests import oracles, strategies
from tests.samples import normal64 as normal

FORMS = {"exact_sigreg": exact_sigreg, "bhep": bhep, "henze_zirkler": henze_zirkler}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@pytest.mark.parametrize("D", [1, 2, 3, 4, 5, 16, 64, 255, 1024])
def test_mean_over_the_sphere_is_the_confluent_hypergeometric_function(D: int) -> None:
    s = torch.tensor([0.0, 1e-6, 1e-2, 0.3, 1.0, 7.0, 30.0, 111.0, 1e3, 2e4, 1e8], dtype=torch.float64)
    with mpmath.workdps(40):

        def M(a: float, b: float) -> list[float]:
            return [float(mpmath.hyp1f1(a, b, -mpmath.mpf(v), maxterms=10**6)) for v in s.tolist()]

        value, slope = M(0.5, D / 2), [-m / D for m in M(1.5, D / 2 + 1)]
    assert_close(sphere_mean(s, D), torch.tensor(value, dtype=torch.float64), rtol=0, atol=1e-12)
    # in D = 1 the function is exp(-s), which the table leaves to absolute accuracy
    rtol, atol = (0, 1e-10) if D == 1 else (1e-9, 0)
    assert_close(sphere_mean_slope(s, D), torch.tensor(slope, dtype=torch.float64), rtol=rtol, atol=atol)


@given(D=st.sampled_from([1, 2, 3, 6, 10, 17, 100, 384, 768, 1000]), s=st.floats(0, 500))
def test_mean_over_the_sphere_is_scipys_function_for_every_dimension(D: int, s: float) -> None:
    value = float(sphere_mean(torch.tensor([s], dtype=torch.float64), D))
    assert value == pytest.approx(float(scipy.special.hyp1f1(0.5, D / 2, -s)), abs=1e-10)


def test_one_dimension_is_the_epps_pulley_integral() -> None:
    x = normal(40, 1) * 1.5 + 0.3
    expected = torch.tensor(oracles.epps_pulley_integral(x[:, 0].numpy()), dtype=torch.float64)
    assert_close(exact_sigreg(x), expected)
    assert_close(math.sqrt(2 * math.pi) * bhep(x, 1.0), expected)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(("D", "scale"), [(2, 1.0), (16, 0.5), (48, 1.3)])
def test_exact_sigreg_is_the_mean_over_many_slices(D: int, scale: float, unbiased: bool) -> None:
    """8,000 slices, within three standard errors; 200,000 in the long run."""
    compare_with_slices(D, scale, unbiased, slices=8_000)


@pytest.mark.long
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("D", [2, 16, 64, 256])
def test_exact_sigreg_is_the_mean_over_200000_slices(D: int, unbiased: bool) -> None:
    compare_with_slices(D, 0.8, unbiased, slices=200_000)


def compare_with_slices(D: int, scale: float, unbiased: bool, slices: int) -> None:
    z = scale * normal(24, D) * torch.linspace(0.3, 1.5, D).double() + 0.2
    total, square = 0.0, 0.0
    for step in range(slices // 2000):
        x = z @ gaussian(D, 2000, seed=1, step=step, dtype=torch.float64)
        values = epps_pulley(x, t_max=7.0, num_points=29, unbiased=unbiased)
        total, square = total + float(values.sum()), square + float(values.square().sum())
    mean = total / slices
    error = math.sqrt((square / slices - mean**2) / slices)
    assert abs(float(exact_sigreg(z, unbiased=unbiased)) - mean) < 3 * error


def test_sigreg_with_many_slices_agrees() -> None:
    z = normal(32, 8)
    assert_close(SIGReg(num_slices=8_000, t_max=5.0)(z), exact_sigreg(z), rtol=0.05, atol=0)


@given(seed=st.integers(0, 1000), D=st.sampled_from([2, 3, 8]))
def test_rotation_leaves_exact_sigreg_alone(seed: int, D: int) -> None:
    z = normal(9, D, seed=seed) * 2 + 0.5
    rotation, _ = torch.linalg.qr(normal(D, D, seed=seed + 1))
    assert_close(exact_sigreg(z @ rotation), exact_sigreg(z))


@every_form
def test_order_of_the_sample_does_not_matter(form) -> None:  # type: ignore[no-untyped-def]
    z = normal(30, 4)
    assert_close(form(z.flip(0)), form(z))


@every_form
def test_leading_dimensions_are_tested_one_by_one(form) -> None:  # type: ignore[no-untyped-def]
    z = normal(2, 3, 12, 4)
    assert_close(form(z), torch.stack([form(v) for v in z.flatten(0, 1)]).reshape(2, 3))


@every_form
def test_gradient_is_that_of_finite_differences(form) -> None:  # type: ignore[no-untyped-def]
    z = (normal(9, 3) + 0.3).requires_grad_()
    assert torch.autograd.gradcheck(form, z)


@pytest.mark.parametrize("unbiased", [False, True])
def test_gradient_in_blocks_is_that_of_one_block(unbiased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 3 rows, which do not divide N."""
    z = normal(17, 5).requires_grad_()
    (whole,) = torch.autograd.grad(3 * exact_sigreg(z, unbiased=unbiased), z)
    monkeypatch.setattr(pairs, "_BLOCK", 3 * 17)
    (blocks,) = torch.autograd.grad(3 * exact_sigreg(z, unbiased=unbiased), z)
    assert_close(blocks, whole)


def test_nothing_of_size_n_squared_is_kept_for_the_backward_pass() -> None:
    z = normal(256, 8).requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        exact_sigreg(z)
    assert 0 < max(kept) <= z.numel()


def naive_bhep(y: np.ndarray, beta: float) -> float:
    """Loops over pairs, in 50 digits."""
    N, D = y.shape
    with mpmath.workdps(50):
        b2 = mpmath.mpf(beta) ** 2
        pair = mpmath.fsum(
            mpmath.exp(-b2 / 2 * mpmath.mpf(float(((a - b) ** 2).sum()))) for a in y for b in y
        )
        single = mpmath.fsum(mpmath.exp(-b2 / (2 * (1 + b2)) * mpmath.mpf(float((a**2).sum()))) for a in y)
        half = mpmath.mpf(-D) / 2
        return float(pair / N - 2 * (1 + b2) ** half * single + N * (1 + 2 * b2) ** half)


@pytest.mark.parametrize("D", [1, 2, 64, 1024])
@pytest.mark.parametrize("beta", [0.03, 1.0, 20.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_bhep_equals_fifty_digits_at_every_dimension(D: int, beta: float, scale: float) -> None:
    z = scale * normal(6, D)
    expected = torch.tensor(naive_bhep(z.numpy(), beta), dtype=torch.float64)
    assert_close(bhep(z, beta), expected, rtol=1e-9, atol=1e-9)


def test_bhep_is_the_integral_it_says_it_is() -> None:
    """D = 2, by the trapezoid rule on a grid of t."""
    z, beta = normal(10, 2) + 0.4, 0.8
    line = torch.linspace(-8, 8, 321, dtype=torch.float64)
    t = torch.cartesian_prod(line, line)
    phase = t @ z.T
    target = torch.exp(-t.square().sum(1) / 2)
    error = (phase.cos().mean(1) - target).square() + phase.sin().mean(1).square()
    density = torch.exp(-t.square().sum(1) / (2 * beta**2)) / (2 * math.pi * beta**2)
    integral = 10 * (error * density).sum() * (line[1] - line[0]) ** 2
    assert_close(bhep(z, beta), integral, rtol=1e-8, atol=0)


@pytest.mark.parametrize(("N", "D"), [(50, 1), (40, 3), (300, 64)])
def test_henze_zirkler_is_bhep_of_the_whitened_sample(N: int, D: int) -> None:
    z = normal(N, D).numpy() @ normal(D, D, seed=1).numpy() + 3
    centred = z - z.mean(0)
    values, vectors = np.linalg.eigh(np.cov(z.T, bias=True).reshape(D, D))
    whitened = centred @ vectors / np.sqrt(values)
    beta = ((2 * D + 1) * N / 4) ** (1 / (D + 4)) / math.sqrt(2)
    assert_close(
        henze_zirkler(torch.from_numpy(z)), bhep(torch.from_numpy(whitened), beta), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("N", "D"), [(2, 1), (64, 2), (64, 63), (64, 64), (64, 1024), (1100, 1024)])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
@every_form
def test_value_and_gradient_are_finite(form, N: int, D: int, scale: float) -> None:  # type: ignore[no-untyped-def]
    if N > 1000 and scale not in (0.0, 1.0):
        pytest.skip("once at the largest size is enough")
    z = (scale * normal(N, D)).float().requires_grad_()
    value = form(z)
    (gradient,) = torch.autograd.grad(value, z)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (value.dtype, gradient.dtype) == (torch.float32, torch.float32)
    assert 0 <= float(value.detach()) <= 4 * N * (1 + 1e-6)


def test_henze_zirkler_of_a_singular_sample_is_four_n() -> None:
    flat = normal(50, 3)
    flat[:, 2] = flat[:, 0] + flat[:, 1]
    assert_close(henze_zirkler(flat), torch.tensor(200.0, dtype=torch.float64))


@every_form
def test_normal_samples_score_below_others(form) -> None:  # type: ignore[no-untyped-def]
    null = form(normal(6, 150, 4)).mean()
    bimodal = torch.from_numpy(strategies.alternatives(6 * 150, 4, seed=0)["bimodal"]).reshape(6, 150, 4)
    assert form(bimodal).mean() > 1.3 * null


def test_values_at_the_null_and_at_collapse_are_those_of_the_docstring() -> None:
    z = normal(120, 24, 6)
    assert_close(exact_sigreg(z).mean(), torch.tensor(1.0594, dtype=torch.float64), rtol=0.06, atol=0)
    unbiased = exact_sigreg(z, unbiased=True)
    assert abs(float(unbiased.mean())) < 3 * float(unbiased.std()) / math.sqrt(120)
    collapsed = exact_sigreg(torch.zeros(100, 5, dtype=torch.float64))
    assert_close(collapsed, torch.tensor(40.892, dtype=torch.float64), rtol=1e-4, atol=0)


@every_form
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_sample_gives_a_non_finite_value(form, bad: float) -> None:  # type: ignore[no-untyped-def]
    z = normal(12, 3)
    z[4, 1] = bad
    assert not form(z).isfinite()


@every_form
def test_mistakes_are_explained(form) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TypeError, match=r"floating-point.*int64"):
        form(torch.arange(6).reshape(3, 2))
    with pytest.raises(ValueError, match=r"N >= 2.*\(1, 3\)"):
        form(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"beta=-1"):
        bhep(torch.zeros(3, 3), -1)


@pytest.mark.parametrize("unbiased", [False, True])
def test_weighted_slices_estimate_the_weighted_closed_form(unbiased):
    """20,000 slices; within four standard errors of their mean."""
    generator = torch.Generator().manual_seed(0)
    z = 1.3 * torch.randn(30, 5, generator=generator, dtype=torch.float64)
    w = torch.rand(30, generator=generator, dtype=torch.float64)
    x = z @ gaussian(5, 20_000, dtype=torch.float64)
    sliced = epps_pulley(x, weights=w, t_max=6.0, num_points=33, unbiased=unbiased)
    exact = exact_sigreg(z, weights=w, unbiased=unbiased)
    assert abs(float(sliced.mean() - exact)) < 4 * float(sliced.std()) / 20_000**0.5


def test_torch_func_is_refused_with_a_reason():
    with pytest.raises(RuntimeError, match=r"torch\.func cannot differentiate"):
        torch.func.grad(exact_sigreg)(torch.randn(6, 3))


def test_henze_zirkler_of_unequal_weights_is_not_singular_for_its_effective_number_of_rows():
    z, w = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)), torch.full((200,), 1e-3)
    w[:5] = 1  # an effective number of 5.4 rows in 6 dimensions
    N = w.sum() ** 2 / w.square().sum()
    assert henze_zirkler(z, weights=w) < 0.9 * 4 * N


@every_form
def test_a_second_derivative_is_refused_rather_than_wrong(form):
    z = normal(8, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(form(z), z)
    (again,) = torch.autograd.grad(form(z), z, create_graph=True)
    assert_close(again, gradient, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="have first derivatives only"):
        again.sum().backward()
    with pytest.raises(RuntimeError, match="have first derivatives only"):
        torch.autograd.functional.hessian(form, z.detach())


@every_form
def test_no_rows_count_as_0_where_there_are_weights(form):
    z = torch.zeros(2, 0, 3, requires_grad=True)
    value = form(z, weights=torch.ones(2, 0))
    value.sum().backward()
    assert_close(value.detach(), torch.zeros(2))

"""Theorems 3, 4 and 6: what moments cannot see, gradients that stay bounded, a bias that is known exactly."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from sigreg import SIGReg
from sigreg.directions import gaussian
from sigreg.univariate import epps_pulley, moments
from tests import oracles, strategies
from tests.contract import bind

GRIDS = {"3/17": (3.0, 17), "4/9": (4.0, 9), "5/17": (5.0, 17)}
every_grid = pytest.mark.parametrize(("t_max", "num_points"), GRIDS.values(), ids=GRIDS)


def gradient_bound(t_max: float, num_points: int) -> float:
    """|dEP/dx_n| <= sum_k 2 w_k t_k (1 + phi_k), whatever the sample and N."""
    t, w, phi = oracles.grid(t_max, num_points)
    return float((2 * w * t * (1 + phi)).sum())


def curvature_bound(t_max: float, num_points: int, N: int) -> float:
    """|d2EP/dx_n2| <= sum_k 2 w_k t_k^2 (1 + phi_k + 1/N)."""
    t, w, phi = oracles.grid(t_max, num_points)
    return float((2 * w * t**2 * (1 + phi + 1 / N)).sum())


def derivatives(x: Tensor, t_max: float = 3.0, num_points: int = 17) -> tuple[Tensor, Tensor]:
    """dEP/dx_n and d2EP/dx_n^2, each (N,)."""

    def value(x: Tensor) -> Tensor:
        return epps_pulley(x[:, None], t_max=t_max, num_points=num_points)[0]

    first = torch.autograd.functional.jacobian(value, x)
    second = torch.autograd.functional.hessian(value, x)
    return first, second.diagonal()


def test_the_bounds_of_the_default_grid_are_those_of_the_documentation() -> None:
    assert gradient_bound(3.0, 17) == pytest.approx(5.931, abs=1e-3)
    assert gradient_bound(5.0, 17) == pytest.approx(5.934, abs=1e-3)
    assert curvature_bound(3.0, 17, 10**9) == pytest.approx(6.635, abs=1e-3)


@every_grid
@given(x=strategies.wild_samples())
def test_gradient_and_curvature_stay_bounded_for_any_sample(
    t_max: float, num_points: int, x: np.ndarray
) -> None:
    first, second = derivatives(torch.from_numpy(x), t_max, num_points)
    assert float(first.abs().max()) <= gradient_bound(t_max, num_points) * (1 + 1e-9)
    assert float(second.abs().max()) <= curvature_bound(t_max, num_points, len(x)) * (1 + 1e-9)


@pytest.mark.parametrize("start", [-4.0, -2.0, 1.0, 3.0])
def test_ascent_on_the_gradient_finds_no_way_out(start: float) -> None:
    """An adversary moves 12 samples to make the first one's gradient steep: well above that of a
    normal sample, never beyond the bound (the largest ever seen is 4.16)."""
    x = torch.full((12,), start, dtype=torch.float64)
    x = (x + torch.linspace(-0.3, 0.3, 12)).requires_grad_()
    steepest = 0.0
    for _ in range(40):
        (g,) = torch.autograd.grad(epps_pulley(x[:, None])[0], x, create_graph=True)
        steepest = max(steepest, float(g[0].detach().abs()))
        (up,) = torch.autograd.grad(g[0].abs(), x)
        x = (x + 0.3 * up).detach().requires_grad_()
    assert 2.0 < steepest <= gradient_bound(3.0, 17)


@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-4, 0.1, 1.0, 10.0, 1e4]), V=st.integers(1, 3))
def test_gradient_of_sigreg_per_embedding_inherits_the_bound(seed: int, scale: float, V: int) -> None:
    """|dSIGReg/dz_n| <= mean_k |dEP/dx_nk| |a_k| / V <= bound / V, heavy tails included."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(V, 9, 5, generator=generator, dtype=torch.float64)
    z = (scale * torch.tan(math.pi * (u - 0.5))).requires_grad_()
    (gradient,) = torch.autograd.grad(SIGReg(num_slices=16)(z), z)
    assert float(gradient.norm(dim=-1).max()) <= gradient_bound(3.0, 17) / V


def far(bound: float) -> Tensor:
    """One sample far out."""
    return torch.tensor([0.0, 1.0, -1.0, bound], dtype=torch.float64)


def narrow(bound: float) -> Tensor:
    """A lopsided sample of spread 0.3 / bound."""
    return torch.tensor([0.0, 1.0, 2.0, 7.0], dtype=torch.float64) / (10 * bound)


@pytest.mark.parametrize("bound", [5.931, 1e3, 1e6])
@pytest.mark.parametrize(
    ("name", "sample"),
    [("moments", far), ("vcreg", far), ("extended_jarque_bera", narrow), ("jarque_bera", narrow)],
)
def test_moment_statistics_exceed_any_bound(name: str, sample, bound: float) -> None:  # type: ignore[no-untyped-def]
    x = sample(bound).requires_grad_()
    (gradient,) = torch.autograd.grad(bind(name)(x[:, None]).sum(), x)
    assert float(gradient.abs().max()) > bound
    first, _ = derivatives(x.detach())
    assert float(first.abs().max()) <= gradient_bound(3.0, 17)


@pytest.mark.parametrize("k_max", [1, 2, 3, 4, 6])
def test_the_gradient_of_moments_on_a_far_sample_grows_like_the_stated_power(k_max: int) -> None:
    def gradient(distance: float) -> float:
        x = torch.zeros(128, 1, dtype=torch.float64)
        x[0] = distance
        x.requires_grad_()
        return float(torch.autograd.grad(moments(x, k_max=k_max).sum(), x)[0][0])

    assert gradient(1e6) / gradient(1e5) == pytest.approx(10.0 ** (2 * k_max - 1), rel=1e-4)


@pytest.mark.parametrize("k_max", [1, 2, 3, 4, 5])
def test_five_moments_do_not_make_a_normal_distribution(k_max: int) -> None:
    """The three-point Gauss-Hermite rule as a sample: every moment up to the fifth is N(0,1)'s."""
    r = math.sqrt(3)
    x = torch.tensor([-r, 0, 0, 0, 0, r], dtype=torch.float64).repeat(50)[:, None]
    assert_close(moments(x, k_max=k_max), torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-10)
    assert float(moments(x, k_max=6)) > 0.1
    assert float(epps_pulley(x)) > 2.0


# Theorem 6, without a simulation: over all samples that a population on a few points can give.
POPULATIONS = {"three points": [-1.7, 0.1, 1.1], "two points": [-1.0, 1.0], "one point": [0.4]}


def expectation(support: list[float], N: int, unbiased: bool) -> float:
    """E EP(x) over all len(support)^N equally likely samples."""
    x = torch.tensor(list(itertools.product(support, repeat=N)), dtype=torch.float64)
    return float(epps_pulley(x.T, unbiased=unbiased).mean())


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("N", [2, 3, 6])
def test_minibatch_bias_is_the_stated_one_over_n_term(population: str, N: int) -> None:
    """E EP / N = L + (1/N) sum w (1 - |phi_P|^2), L the population's value; unbiased is L alone."""
    support = POPULATIONS[population]
    t, w, phi = oracles.grid()
    phi_P = np.exp(1j * np.outer(t, support)).mean(1)
    L = float((w * np.abs(phi_P - phi) ** 2).sum())
    bias = float((w * (1 - np.abs(phi_P) ** 2)).sum()) / N
    assert expectation(support, N, unbiased=False) / N == pytest.approx(L + bias, abs=1e-12)
    assert expectation(support, N, unbiased=True) / N == pytest.approx(L, abs=1e-12)


@pytest.mark.parametrize("N", [8, 64])
def test_minibatches_of_laplace_noise_have_the_stated_bias(N: int) -> None:
    """The same for a continuous population, over 4,000 minibatches, within 3.5 standard errors."""
    x = torch.from_numpy(np.random.default_rng(0).laplace(size=(N, 4000)))
    t, w, phi = oracles.grid()
    phi_P = 1 / (1 + t**2)
    L, bias = float((w * (phi_P - phi) ** 2).sum()), float((w * (1 - phi_P**2)).sum()) / N
    for unbiased, expected in ((False, L + bias), (True, L)):
        values = epps_pulley(x, unbiased=unbiased) / N
        error = float(values.std()) / math.sqrt(4000)
        assert abs(float(values.mean()) - expected) < 3.5 * error
        assert not unbiased or bias > 10 * error  # the correction is larger than what the test can miss


# The saddle at collapse, and the way out.
def gradient_norm(statistic, spread: float) -> float:  # type: ignore[no-untyped-def]
    """Mean norm per embedding as the batch collapses onto a point."""
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = (spread * (z - z.mean(0))).requires_grad_()
    A = gaussian(16, 256, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(bind(statistic)(z @ A).mean(), z)
    return float(gradient.norm(dim=1).mean())


MIX = {"epps_pulley": 1.0, "vcreg": 0.1}


def test_gradient_of_epps_pulley_vanishes_linearly_at_collapse() -> None:
    norms = [gradient_norm("epps_pulley", s) for s in (1e-2, 1e-4, 1e-6)]
    assert norms[0] / norms[1] == pytest.approx(100, rel=0.01)
    assert norms[1] / norms[2] == pytest.approx(100, rel=0.01)
    assert norms[2] < 1e-5


def test_gradient_of_the_mix_does_not_vanish_at_collapse() -> None:
    norms = [gradient_norm(MIX, s) for s in (1e-2, 1e-4, 1e-6, 1e-8)]
    assert min(norms) > 0.09
    assert norms[1] == pytest.approx(norms[3], rel=1e-3)


def test_descent_leaves_a_collapse_with_the_mix_and_not_without_it() -> None:
    def spread_after(statistic) -> float:  # type: ignore[no-untyped-def]
        sigreg = SIGReg(statistic, num_slices=64)
        z = 1e-6 * torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
        z.requires_grad_()
        for _ in range(20):
            (gradient,) = torch.autograd.grad(sigreg(z), z)
            z = (z - 0.05 * gradient).detach().requires_grad_()
        return float(z.detach().std())

    assert spread_after("epps_pulley") < 1e-3
    assert spread_after(MIX) > 0.02

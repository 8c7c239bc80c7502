"""The gradient of every statistic far out in the tails: float32 against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigreg import SIGReg
from sigreg.univariate import anderson_darling
from tests.contract import TABLE, promise
from tests.samples import normal64 as normal

DISTANCES = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6]
EPS = torch.finfo(torch.float32).eps
HIGHEST_POWER = {
    "moments six": 6,
    "moments": 4,
}  # powers of 1e6 beyond float32: the docstring says up to where


def gradient(statistic, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(statistic(x).sum(), x)[0]


@promise()
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("distance", DISTANCES)
def test_gradient_of_a_far_sample_is_float64_s(key: str, distance: float, sign: int) -> None:
    powers = HIGHEST_POWER.get(key, 0)
    if powers and distance > {4: 1e4, 6: 1e3}[powers]:
        pytest.skip("documented: the moments of such a sample leave float32")
    x = normal(32, 1).float()
    x[7] = sign * distance
    statistic = TABLE[key].statistic
    ours, exact = gradient(statistic, x).double(), gradient(statistic, x.double())
    # A float32 sum of 32 terms of size s errs by 32 eps s.
    terms = max(1.0, float(exact.abs().max()))
    if "jarque_bera" in key:  # the terms of d(N kurtosis^2 / 24), which cancel where one sample dominates
        variance = distance**2 / 32
        terms = max(terms, 32 * 32 / 12 * (4 * distance**3 / 32 / variance**2))
    # A characteristic function knows the angle t x only to eps t x, t at most 4, which its second derivative
    # (bounded by 6.9) turns into an error of the gradient.
    angle = 7 * 4 * distance if "epps" in key or key == "mixed" else 0.0
    assert float((ours - exact).abs().max()) <= EPS * (32 * terms * max(1, powers) ** 2 + angle)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [*DISTANCES[2:], 1e8, 1e9])
def test_anderson_darling_s_gradient_grows_like_that_of_a_parabola(distance: float, dtype) -> None:
    """The largest of N has 1 - u = 1/(2N), so 2 (1 - u) times the inverse Mills ratio x + 1/x + O(x^-3)."""
    x = normal(32, 1).to(dtype)
    x[7] = distance
    slope = float(gradient(anderson_darling, x)[7])
    assert slope == pytest.approx((distance + 1 / distance) / 32, rel=32 * EPS + 3 / distance**4)


def test_one_far_coordinate_gives_a_finite_gradient_through_sigreg() -> None:
    z = normal(32, 8).float()
    z[3, 2] = 1e5
    ours = gradient(SIGReg("anderson_darling", num_slices=256).eval(), z)
    exact = gradient(SIGReg("anderson_darling", num_slices=256).eval(), z.double())
    assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))

"""Cosine and sine up to a common sign, against the library's in float64."""

import pytest
import torch
from torch.testing import assert_close

from sigreg.kernels.sincos import cos_sin


@pytest.mark.parametrize(("largest", "error"), [(1.5, 1e-7), (30.0, 3e-6), (1e4, 1e-3)])
def test_errors_are_those_of_rounding_the_angle(largest, error):
    phi = torch.linspace(-largest, largest, 100_001)
    c, s = (x.double() for x in cos_sin(phi))
    exact = torch.polar(torch.ones(len(phi), dtype=torch.float64), phi.double())
    # squared, so that the common sign is gone
    assert_close(torch.complex(c, s) ** 2, exact**2, rtol=0, atol=4 * error)


def test_small_angles_keep_their_relative_precision():
    phi = torch.logspace(-30, -1, 200)
    assert_close(cos_sin(phi)[1].double(), phi.double().sin(), rtol=3e-7, atol=0)


def test_cosine_and_sine_of_any_finite_angle_have_squares_that_add_to_one():
    phi = torch.tensor([3e7, -1e10, 1e30, -3e38])
    c, s = cos_sin(phi)
    assert_close(c.square() + s.square(), torch.ones(4))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_a_number_stays_so(value):
    assert all(x.isnan() for x in cos_sin(torch.tensor(value)))


def test_other_precisions_take_the_library_s():
    phi = torch.linspace(-9, 9, 50, dtype=torch.float64)
    assert_close(cos_sin(phi), (phi.cos(), phi.sin()), rtol=0, atol=0)

"""Spherical designs, and the exact means that `theory_rate` holds slices against."""

import math

import numpy as np
import pytest
import torch

from benchmarks.questions import theory_rate
from benchmarks.spherical import design, design_degree, energy, harmonics
from sigreg.univariate import epps_pulley


def test_the_number_of_harmonics_on_the_sphere_is_two_n_plus_one():
    assert [harmonics(n, 3) for n in range(5)] == [1, 3, 5, 7, 9]
    assert [harmonics(n, 2) for n in range(3)] == [1, 2, 2]
    assert harmonics(2, 8) == 35  # symmetric traceless matrices


@pytest.mark.parametrize("D", [3, 5])
def test_the_energys_gradient_is_its_difference_quotient(D):
    rng = np.random.default_rng(0)
    A, V, h = rng.standard_normal((D, 6)), rng.standard_normal((D, 6)), 1e-5
    A /= np.linalg.norm(A, axis=0)
    slope = (energy(A + h * V, 6)[0] - energy(A - h * V, 6)[0]) / (2 * h)
    # A central difference errs by h^2 times the third derivative, of order 6^6 for a polynomial of degree 6.
    assert slope == pytest.approx((energy(A, 6)[1] * V).sum(), abs=h**2 * 6**6)


def test_the_icosahedron_is_a_design_of_degree_four_and_not_six():
    golden = (1 + math.sqrt(5)) / 2
    A = np.array(
        [[0, 1, golden], [0, 1, -golden], [1, golden, 0], [1, -golden, 0], [golden, 0, 1], [-golden, 0, 1]]
    )
    A = A.T / np.linalg.norm(A[0])
    assert energy(A, 4)[0] == pytest.approx(0, abs=1e-14)
    assert energy(A, 6)[0] > 1e-2


@pytest.mark.parametrize(("D", "K"), [(3, 16), (5, 40)])
def test_a_design_integrates_even_polynomials_exactly(D, K):
    """E u^4 = 3 / (D (D + 2)) for a coordinate u along any direction."""
    A = design(D, K, np.random.default_rng(0))
    assert design_degree(D, K) >= 4
    assert np.allclose(np.linalg.norm(A, axis=0), 1)
    c = np.random.default_rng(1).standard_normal((10, D))
    u = (c / np.linalg.norm(c, axis=1, keepdims=True)) @ A
    assert (u**2).mean(1) == pytest.approx(np.full(10, 1 / D), abs=1e-6)  # the search stops at about 1e-8
    assert (u**4).mean(1) == pytest.approx(np.full(10, 3 / (D * (D + 2))), abs=1e-6)


@pytest.mark.parametrize("name", theory_rate.ALPHA)
def test_the_mean_over_all_slices_is_that_of_many(name):
    u = np.random.default_rng(0).standard_normal((200_000, 5))
    values = theory_rate.statistic(name, u[:, 0] / np.linalg.norm(u, axis=1))
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - theory_rate.over_all_slices(name, 5)) < 4 * error


def test_the_formula_is_the_librarys_statistic_on_a_large_sample():
    """Two Gaussians along the first axis: the sample's statistic over N, less its bias (Theorem 6)."""
    N, u, generator = 400_000, 0.8, torch.Generator().manual_seed(0)
    two = torch.randn(N, generator=generator, dtype=torch.float64) * math.sqrt(0.2)
    two += torch.randn(N, generator=generator, dtype=torch.float64).sign()
    rest = theory_rate.REST * torch.randn(N, generator=generator, dtype=torch.float64)
    found = epps_pulley((u * two + math.sqrt(1 - u**2) * rest)[:, None]).item() / N
    # |ECF - CF| is 1/sqrt(N) at each point: the statistic moves by 2 sqrt(statistic * 2.5 / N) + 2.5 / N.
    expected = float(theory_rate.statistic("two Gaussians", np.array([u]))[0])
    assert abs(found - expected) < 3 * (2 * math.sqrt(expected * 2.5 / N) + 2.5 / N)

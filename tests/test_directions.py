"""Directions: unit, uniform, and a pure function of (seed, step)."""

import importlib.util
import math
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from sigreg import SIGReg, directions, random_numbers
from sigreg.directions import DIRECTIONS, Subspaces, by_name, orthogonal, sobol
from sigreg.multivariate import exact_sigreg
from sigreg.random_numbers import random_bits

every_kind = pytest.mark.parametrize("kind", DIRECTIONS.values(), ids=DIRECTIONS)
SIZES = [(1, 1), (1, 5), (2, 7), (5, 1), (7, 64), (64, 7), (16, 16), (33, 100)]


@every_kind
@pytest.mark.parametrize(("D", "K"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_are_unit_vectors(kind, D: int, K: int, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    A = kind(D, K, seed=1, step=2, dtype=dtype)
    assert (A.shape, A.dtype) == ((D, K), dtype)
    assert_close(A.norm(dim=0), torch.ones(K, dtype=dtype))


@every_kind
def test_directions_are_a_function_of_seed_and_step(kind) -> None:  # type: ignore[no-untyped-def]
    A = kind(8, 32, seed=5, step=7)
    assert_close(kind(8, 32, seed=5, step=torch.tensor(7)), A, rtol=0, atol=0)
    for seed, step in ((5, 8), (6, 7), (7, 5)):
        other = kind(8, 32, seed=seed, step=step)
        # not the same slices, and no slice in common
        assert float((other.T @ A).abs().max()) < 1 - 1e-6


@every_kind
def test_the_global_generator_is_left_alone(kind) -> None:  # type: ignore[no-untyped-def]
    before = torch.get_rng_state()
    kind(8, 32, seed=0, step=11)
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


@every_kind
@pytest.mark.parametrize("D", [2, 12])
def test_every_direction_is_uniform_on_the_sphere(kind, D: int) -> None:  # type: ignore[no-untyped-def]
    """The first and the last direction, over 500 steps: mean 0, covariance I/D, and the fourth
    moments of the sphere, each within 4.5 standard errors."""
    A = torch.stack([kind(D, 5, step=s)[:, [0, 4]] for s in range(500)]).double()  # (S, D, 2)
    error = 4.5 / math.sqrt(500)
    for a in A.unbind(-1):
        assert float(a.mean(0).abs().max()) < error / math.sqrt(D)
        second = a.T @ a / 500
        spread = math.sqrt(3 / (D * (D + 2)))
        assert float((second - torch.eye(D) / D).abs().max()) < error * spread
        fourth = a.pow(4).mean(0) - 3 / (D * (D + 2))
        assert float(fourth.abs().max()) < error * a.pow(4).std(0).max()


@every_kind
@pytest.mark.parametrize(("D", "K"), [(3, 16), (16, 40)])
def test_the_sliced_estimate_has_no_bias(kind, D: int, K: int) -> None:  # type: ignore[no-untyped-def]
    """The mean over 150 steps is exact_sigreg, within three standard errors."""
    z = torch.randn(20, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z *= torch.linspace(0.2, 1.8, D)
    sigreg = SIGReg(num_slices=K, directions=kind, t_max=6.0, num_points=25)
    values = torch.stack([sigreg(z) for _ in range(150)])
    assert abs(float(values.mean() - exact_sigreg(z))) < 3 * float(values.std()) / math.sqrt(150)


def test_orthogonal_blocks_are_orthonormal() -> None:
    A = orthogonal(6, 15, dtype=torch.float64)
    for block in (A[:, :6], A[:, 6:12], A[:, 12:]):
        assert_close(block.T @ block, torch.eye(block.shape[1], dtype=torch.float64))


def test_sobol_points_fall_evenly_along_every_coordinate() -> None:
    """2^k points, whatever the shift: every 1/2^k-th of an axis holds exactly one."""
    points = directions._sobol_points(5, 64, torch.device("cpu"))
    shift = random_bits(5, 3, 4) & (2**directions._SOBOL_BITS - 1)
    cells = (points ^ shift.unsqueeze(-1)) >> (directions._SOBOL_BITS - 6)
    assert_close(cells.sort(dim=1).values, torch.arange(64).expand(5, 64), rtol=0, atol=0)


def test_orthogonal_slices_lower_the_variance_of_the_estimate() -> None:
    """By about 2 at D = K = 64; 1.4 leaves room for the error of two variances of 80 values."""
    z = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))

    def variance(kind: str) -> float:
        sigreg = SIGReg(num_slices=64, directions=kind)
        return float(torch.stack([sigreg(z) for _ in range(80)]).var())

    assert variance("gaussian") > 1.4 * variance("orthogonal")


def test_sobol_in_one_dimension_has_two_directions() -> None:
    assert set(sobol(1, 8).flatten().tolist()) == {-1.0, 1.0}


def test_an_unknown_name_is_explained() -> None:
    with pytest.raises(ValueError, match=r"'halton'.*gaussian.*orthogonal.*sobol"):
        by_name("halton")
    assert by_name(sobol) is sobol


def test_a_draw_in_pieces_is_the_draw_at_once(monkeypatch):
    at_once = random_numbers.normal_numbers(1001, 3, 4, None)
    monkeypatch.setattr(random_numbers, "_CHUNK", 64)
    assert_close(random_numbers.normal_numbers(1001, 3, 4, None), at_once)


@pytest.mark.parametrize(("seed", "step"), [(1, 15151), (2, 5027)])
@pytest.mark.parametrize("D", [1, 2])
def test_no_direction_has_length_0(seed, step, D):
    """At these steps one hash has its 24 high bits set, which made log(1) = 0 the radius of a direction."""
    A = directions.gaussian(D, 1024, seed=seed, step=step)
    assert_close(A.norm(dim=0), torch.ones(1024))


@pytest.mark.parametrize("kind", DIRECTIONS)
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16, torch.float64])
def test_directions_do_not_depend_on_the_default_dtype(kind, default):
    expected = by_name(kind)(16, 64, seed=1, step=3)
    torch.set_default_dtype(default)
    try:
        found = by_name(kind)(16, 64, seed=1, step=3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_close(found, expected, rtol=0, atol=0)


def test_subspaces_have_unit_columns_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        A = Subspaces(4, 8)(32, 64)
    assert A.dtype == torch.float32
    assert_close(A.norm(dim=0), torch.ones(64))


def test_a_step_beyond_32_bits():
    steps = [2**31 + 7, 2**33, 2**63 + 1]
    drawn = [directions.gaussian(5, 3, step=step) for step in steps]
    for step, A in zip(steps[:2], drawn, strict=False):
        assert torch.equal(directions.gaussian(5, 3, step=torch.tensor(step)), A)
    assert len({A.sum().item() for A in drawn}) == 3


TRITON = """
import torch
from torch.testing import assert_close
from sigreg.directions import gaussian
from sigreg.kernels import triton_directions

cases = (64, 128, 0, 0), (7, 13, 3, 5), (1, 1, 0, 1), (100, 33, -5, 70000), (65, 16, 2**63, 2**31 + 7)
for D, K, seed, step in cases:
    expected = gaussian(D, K, seed=seed, step=step)
    narrow = torch.tensor(step, dtype=torch.int32) if step < 2**31 else torch.tensor(step)
    for given in (step, torch.tensor(step), narrow):
        out = triton_directions.gaussian(torch.empty(D, K), seed, given)
        assert_close(out, expected, rtol=0, atol=1e-6)  # numbers of size 1; logarithm, root and cosine round
"""


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
def test_triton_s_interpreter_draws_the_same():
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", TRITON]  # numpy warns of products that wrap
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr

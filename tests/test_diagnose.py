"""`diagnose`: formulas against SciPy, mpmath and simulation; planted defects by name; N(0, I) is healthy."""

import math

import mpmath
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.questions.inspect_power import PLANTED
from sigreg import SIGReg
from sigreg.diagnostics import (
    FINDINGS,
    collapsed_value,
    diagnose,
    expected_value,
    null,
    reachable_value,
)
from sigreg.diagnostics.rank import effective_rank, expected_effective_rank, rank_behind
from sigreg.diagnostics.reachable import _beta_mean
from sigreg.diagnostics.rows import separation
from sigreg.univariate import epps_pulley
from tests.samples import normal

# what can be reached


@pytest.mark.parametrize(
    ("c", "rank", "D"),
    [(3.0, 9, 192), (200.0, 9, 192), (50.0, 1.5, 2), (9.0, 64, 64), (36.0, 8, 16), (7e4, 1.5, 2048)],
)
def test_the_mean_over_slices_is_kummers_function(c: float, rank: float, D: int) -> None:
    with mpmath.workdps(40):
        expected = float(mpmath.hyp1f1(rank / 2, D / 2, -c, maxterms=10**6)) if rank < D else math.exp(-c)
    # a sum of positive terms whose exponents carry an error of eps times 5 c
    rtol = max(1e-11, 5 * c * torch.finfo(torch.float64).eps)
    value = float(_beta_mean(torch.tensor([c], dtype=torch.float64), rank, D))
    assert_close(value, expected, rtol=rtol, atol=0)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operator returned."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.numel = max(self.numel, *(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor)), 0)
        return out


def test_the_mean_over_slices_takes_200_terms_whatever_its_argument() -> None:
    c = torch.logspace(-3, 5.2, 1056, dtype=torch.float64)  # what a rank of 1 in 4,096 dimensions asks for
    with Largest() as largest:
        _beta_mean(c, 1.0, 4096)
    assert largest.numel <= 200 * len(c)  # log k! up to the largest c included


@pytest.mark.parametrize(("rank", "N", "D"), [(9, 128, 192), (4, 256, 16)])
def test_no_scale_of_a_gaussian_of_low_rank_does_better_than_the_value_said(
    rank: int, N: int, D: int
) -> None:
    means, errors = [], []
    for factor in (0.7, 0.85, 1.0, 1.2):
        basis = torch.linalg.qr(normal(D, rank))[0] * (factor * D / rank) ** 0.5
        values = torch.stack(
            [SIGReg(num_slices=512, seed=s)(normal(N, rank, seed=s) @ basis.T) for s in range(40)]
        )
        means.append(float(values.mean()))
        errors.append(float(values.std()) / 40**0.5)
    best = means.index(min(means))
    assert 0 < best < 3, "the best scale lies between those tried"
    reachable = reachable_value(rank, N, D)
    # five standard errors; the scales tried leave at most 4 % above the minimum
    assert reachable - 5 * errors[best] < means[best] < 1.04 * reachable + 5 * errors[best]


def test_reports_of_users_are_the_values_at_collapse() -> None:
    assert [round(collapsed_value(N), 4) for N in (16, 128)] == [6.4328, 51.4621]
    assert_close(float(epps_pulley(torch.zeros(16, 1, dtype=torch.float64))), collapsed_value(16))


@pytest.mark.parametrize("N", [1, 2, 3, 3.5, 4, 8])
def test_the_reachable_value_of_few_rows_is_the_minimum_over_all_scales(N: float) -> None:
    """At full rank every slice is N(0, s^2): N (psi - phi)^2 + 1 - psi^2, psi = exp(-s^2 t^2 / 2)."""
    t = torch.linspace(0, 3, 17, dtype=torch.float64)
    phi = (-t.square() / 2).exp()
    psi = (-torch.linspace(0, 1.2, 2401, dtype=torch.float64)[:, None].square() * t.square() / 2).exp()
    values = 2 * torch.trapezoid((N * (psi - phi).square() + 1 - psi.square()) * phi, t)
    assert reachable_value(64, N, 64) == pytest.approx(float(values.min()), rel=1e-4)


def test_what_can_be_reached_rises_with_n_and_falls_with_the_rank() -> None:
    assert [round(reachable_value(9, N, 192), 1) for N in (128, 256, 1024)] == [4.2, 7.5, 26.9]
    values = [reachable_value(r, 256, 64) for r in (1, 2, 8, 32, 63, 64)]
    assert values == sorted(values, reverse=True)
    assert 0.98 * expected_value() < values[-1] <= expected_value()
    with pytest.raises(ValueError, match=r"rank=65 must lie in 1\.\.\.D"):
        reachable_value(65, 10, 64)


@pytest.mark.parametrize(("N", "rank", "D"), [(128, 192, 192), (128, 9, 192), (512, 16, 64), (64, 2, 2)])
def test_the_rank_behind_a_sample_is_that_of_its_distribution(N: int, rank: int, D: int) -> None:
    effective = []
    for seed in range(10):
        x = normal(N, rank, seed=seed).double()
        effective.append(float(effective_rank(torch.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0))))))
    mean = sum(effective) / 10
    assert mean == pytest.approx(expected_effective_rank(N, rank), rel=0.03)
    assert rank_behind(expected_effective_rank(N, rank), N, D) == pytest.approx(rank, rel=1e-6)


# numbers of standard deviations

SCALED = ["value_z", "sd_z", "offset_z", "unevenness_z", "row_mean_z", "tails_z", "unit_tails_z"]
SCALED += ["persistence_z"]
ONES = ["sd", "spread", "norm_variation", "row_mean", "row_offset", "row_sd_variation"]


@pytest.mark.parametrize("N", [20, 100, 4096])
def test_skewness_and_kurtosis_are_scipys_tests(N: int) -> None:
    x = normal(N, 5, seed=1).double() ** 3
    skewness, kurtosis = (torch.from_numpy(f(x.numpy())) for f in (scipy.stats.skew, scipy.stats.kurtosis))
    expected = torch.from_numpy(scipy.stats.skewtest(x.numpy()).statistic)
    assert_close(null.skewness_z(skewness, N), expected, rtol=1e-9, atol=1e-9)
    expected = torch.from_numpy(scipy.stats.kurtosistest(x.numpy()).statistic)
    assert_close(null.kurtosis_z(kurtosis + 3, N), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("z", [-4.0, -2.0, 0.0, 2.0, 4.0])
def test_chi_square_and_f_become_normal(z: float) -> None:
    """Within a tenth of a standard deviation; F's lower tail, which no rule looks at, is less accurate."""
    p = scipy.stats.norm.cdf(z)
    for dof in (30, 1000):
        assert null.chi_square_z(scipy.stats.chi2.ppf(p, dof), dof) == pytest.approx(z, abs=0.1)
        if z >= -2:
            assert null.f_z(scipy.stats.f.ppf(p, 16, dof), 16, dof) == pytest.approx(z, abs=0.1)


@pytest.mark.parametrize("D", [1, 4, 32])
def test_the_spread_of_sigreg_under_a_gaussian_is_the_integral(D: int) -> None:
    values = torch.stack([SIGReg(num_slices=64, seed=s)(normal(256, D, seed=s)) for s in range(500)])
    # the sd of 500 values of a skewed distribution (kurtosis up to 12): 7 %
    assert float(values.std()) == pytest.approx(null.value_sd(64, D), rel=4 * 0.07)


def test_numbers_of_a_gaussian_are_those_of_n_0_i() -> None:
    """Over 200 draws a mean of standard normal numbers has the sd 0.07, and their sd the sd 0.05."""
    drawn = [diagnose(normal(64, 8, seed=s), num_slices=32).measured for s in range(200)]
    measured = {name: torch.tensor([float(getattr(m, name)) for m in drawn]) for name in SCALED + ONES}
    for name in SCALED:
        assert float(measured[name].mean()) == pytest.approx(0, abs=5 * 0.07), name
        assert float(measured[name].std()) == pytest.approx(1, abs=5 * 0.05), name
    for name in ONES:
        # the sds of lengths and of rows have a relative bias of order 1 / (4 D)
        error = 5 * float(measured[name].std()) / 200**0.5 + 1 / (4 * 8)
        assert float(measured[name].mean()) == pytest.approx(1, abs=error), name


def test_two_groups_are_as_far_apart_as_they_were_put() -> None:
    x = torch.cat([normal(5000) - 4, normal(5000, seed=1) + 4])[:, None].double()
    assert float(separation(x)) == pytest.approx(8, rel=0.03)
    assert float(separation(normal(20000)[:, None].double())) == pytest.approx(2.65, rel=0.03)
    assert float(separation(x.sign())) == pytest.approx(100)


# findings


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_named(defect: str) -> None:
    planted = PLANTED[defect]
    z = planted.plant(normal(512, 32), torch.Generator().manual_seed(1))
    found = diagnose(z).findings
    assert planted.finding in [finding.name for finding in found]
    assert found[0].name == planted.finding or defect in ("clusters", "rank")
    for finding in found:
        assert finding.name in FINDINGS
        assert any(character.isdigit() for character in finding.evidence), "no number behind it"
        assert str(finding) == f"{finding.name}: {finding.evidence}. {finding.advice}"
        assert math.isfinite(finding.value)


@pytest.mark.parametrize(("N", "D"), [(32, 2), (32, 64), (64, 512), (256, 8), (1024, 64)])
def test_a_gaussian_is_healthy(N: int, D: int) -> None:
    """About 1 in 3,000 draws is accused (benchmarks inspect_power): two of 12 would be 1 in 100,000."""
    assert sum(not diagnose(normal(N, D, seed=s)).healthy for s in range(12)) <= 1


def test_an_exact_collapse_is_named_with_its_value() -> None:
    found = diagnose(torch.zeros(128, 16))
    assert str(found).startswith(
        "collapsed: all rows are 0; SIGReg is 51.4621, its value at an exact collapse"
    )
    assert str(diagnose(torch.full((128, 16), 0.3))).startswith(
        "collapsed: all rows are equal, a vector of length 1.2"
    )
    assert "an exact collapse onto 0 has as well (0.40205 N = 51.4621)" in str(
        diagnose(1e-4 * normal(128, 16))
    )


def test_a_stuck_value_is_explained_by_the_rank() -> None:
    basis = torch.linalg.qr(normal(192, 9, seed=1))[0]
    found = diagnose(normal(256, 9) @ basis.T * (192 / 9) ** 0.5)
    assert [f.name for f in found.findings] == ["dimensionally collapsed"]
    assert found.measured.rank == pytest.approx(9, abs=0.3)
    assert found.measured.reachable == pytest.approx(reachable_value(9, 256, 192), rel=0.05)
    assert found.measured.value == pytest.approx(found.measured.reachable, rel=0.25)
    assert "in 9." in found.findings[0].evidence or "in 8." in found.findings[0].evidence


def test_heavy_tails_are_not_taken_for_a_lower_rank() -> None:
    chi = normal(128, 3, seed=5).square().sum(1, keepdim=True)
    found = diagnose(normal(128, 256) / chi.sqrt())
    assert "heavy-tailed" in [f.name for f in found.findings]
    assert "dimensionally collapsed" not in [f.name for f in found.findings]


def test_rows_of_a_file_sorted_by_class_are_no_time_steps() -> None:
    centres = normal(8, 32, seed=3).repeat_interleave(64, 0)
    found = diagnose(0.8 * centres + 0.6 * normal(512, 32))
    assert found.measured.persistence > 0.5
    assert "samples along the wrong axis" not in [f.name for f in found.findings]


@pytest.mark.parametrize("shape", [(2, 1), (2, 5), (3, 1), (19, 2), (8, 300)])
def test_small_shapes_and_extreme_scales_give_finite_numbers(shape: tuple[int, int]) -> None:
    for scale in (1e-30, 1.0, 1e15):
        m = diagnose(scale * normal(*shape)).measured
        for name, value in vars(m).items():
            assert not isinstance(value, float) or math.isfinite(value), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_is_welcome(dtype: torch.dtype) -> None:
    assert diagnose(normal(128, 8).to(dtype).requires_grad_()).healthy


def test_an_array_of_numpy_is_diagnosed_as_its_tensor_is() -> None:
    z = 0.5 * normal(128, 8)
    assert str(diagnose(z.numpy())) == str(diagnose(z))
    with pytest.raises(TypeError, match="floating-point"):
        diagnose(z.numpy().astype("int64"))


def test_the_repr_is_one_line_with_the_names() -> None:
    assert repr(diagnose(normal(128, 8))) == "Diagnosis(N=128, D=8: healthy)"
    z = 0.5 * normal(128, 8) + 1
    assert repr(diagnose(z)) == "Diagnosis(N=128, D=8: off scale, off centre)"


@pytest.mark.parametrize(
    ("N", "error", "says"),
    [
        (-1, ValueError, "N=-1 must be at least 1"),
        (0.5, ValueError, r"N=0\.5 must be at least 1"),
        (float("nan"), ValueError, "N=nan must be a number"),
        ("16", TypeError, "N='16' must be a number"),
    ],
)
def test_no_sample_has_such_a_value_at_collapse(N: float, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        collapsed_value(N)

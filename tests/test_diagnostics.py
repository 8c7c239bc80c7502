"""Is it Gaussian yet?  The report says no to what is not, and yes 19 times of 20 to what is."""

import math
import subprocess
import sys
from collections.abc import Callable

import pandas
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigreg.diagnostics import Gaussianity, diagnose, diagnose_batch, gaussianity, reachable_value, rows
from tests.samples import normal


def report(z: Tensor) -> Gaussianity:
    return gaussianity(z, num_slices=32, num_null=39)


def test_normal_samples_raise_no_alarm_19_times_of_20() -> None:
    """60 samples: 3 alarms expected; more than 9 would have probability 0.001."""
    alarms = sum(not report(normal(48, 6, seed=s)).gaussian for s in range(60))
    assert alarms <= 9


@pytest.mark.long
def test_alarm_rate_is_the_level() -> None:
    """2,000 samples against 399 null ones: 5 % within three standard errors of both counts."""
    alarms = sum(
        not gaussianity(normal(64, 6, seed=s), num_slices=48, num_null=399).gaussian for s in range(2000)
    )
    error = math.sqrt(0.05 * 0.95 * (1 / 2000 + 1 / 399))
    assert abs(alarms / 2000 - 0.05) < 3 * error


DEPARTURES = {
    "collapsed": (lambda z: 1e-3 * z, "vcreg"),
    "collapsed onto 0": (lambda z: 0 * z, "vcreg"),
    "shrunk": (lambda z: 0.8 * z, "vcreg"),
    "shifted": (lambda z: z + 0.4, "mean"),
    "anisotropic": (lambda z: z * torch.tensor([2.2, 0.2, 0.2, 0.2, 0.2, 0.2]), "rank deficit"),
    "heavy-tailed": (lambda z: z * (normal(200, 1, seed=9).abs() + 0.1), "jarque_bera"),
    "one binary unit": (lambda z: torch.cat([z[:, :5], z[:, 5:].sign()], 1), "worst slice"),
}


@pytest.mark.parametrize("name", DEPARTURES)
def test_departures_are_seen_by_the_measure_made_for_them(name: str) -> None:
    change, measure = DEPARTURES[name]
    found = report(change(normal(200, 6)))
    assert not found.gaussian
    assert found.p_value == pytest.approx(1 / 40)
    assert found.measures[measure].p_value == pytest.approx(1 / 40)
    assert found.measures[measure].z_score > 4


def test_worst_slice_points_at_the_broken_unit() -> None:
    z = normal(200, 6)
    z[:, 2] = z[:, 2].sign()
    assert_close(report(z).worst_slice, torch.eye(6)[2])


def test_effective_rank_counts_equal_directions() -> None:
    z = normal(600, 6) * torch.tensor([1.0, 1, 1, 0, 0, 0])
    found = report(z)
    assert found.effective_rank == pytest.approx(3, abs=0.06)
    assert found.null_effective_rank == pytest.approx(6, abs=0.06)


def test_report_is_deterministic_and_leaves_the_generator_alone() -> None:
    z = normal(64, 6, seed=3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = report(z)
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.manual_seed(2)
    assert repr(report(z)) == repr(first)


def test_report_reads_well() -> None:
    lines = repr(report(0.5 * normal(200, 6))).splitlines()
    assert lines[0] == "not Gaussian (p = 0.025; N = 200, D = 6)"
    assert lines[1].split() == ["value", "N(0,", "I)", "z", "p"]
    assert lines[2].startswith("epps_pulley ")
    assert lines[-2].startswith("effective rank 5.9")
    assert lines[-1] == "epps_pulley of a Gaussian of rank 6.0 is 1.065 at best at this N; of N(0, I) 1.052"
    assert "as far as this sample can tell" in repr(report(normal(200, 6)))


def test_null_is_computed_once_for_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["sigreg.diagnostics.gaussianity"]  # the name is the function in the package

    calls = []
    measure = module._measure
    monkeypatch.setattr(module, "_measure", lambda *a: calls.append(1) or measure(*a))
    for seed in range(3):
        gaussianity(normal(37, 3, seed=seed), num_slices=8, num_null=19)
    assert len(calls) == 19 + 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_and_a_gradient_are_welcome(dtype: torch.dtype) -> None:
    z = normal(64, 6, seed=3)
    found = report(z.to(dtype).requires_grad_())
    assert found.measures["epps_pulley"].value == pytest.approx(
        report(z).measures["epps_pulley"].value, rel=0.03
    )
    assert not found.worst_slice.requires_grad


def test_arrays_of_numpy_and_pandas_are_reported_as_tensors_are() -> None:
    z, mask = normal(64, 6, seed=3), torch.arange(64) < 50
    array = z.numpy().copy()
    array.flags.writeable = False
    assert repr(report(array)) == repr(report(pandas.DataFrame(array))) == repr(report(z))
    masked = gaussianity(array, weights=mask.numpy(), num_slices=32, num_null=39)
    assert repr(masked) == repr(report(z[:50]))
    with pytest.raises(TypeError, match="floating-point"):
        gaussianity(array.astype("int64"))


def test_arrays_are_recognised_without_importing_numpy() -> None:
    code = "import sys; sys.modules['numpy'] = None; import torch; from sigreg.diagnostics import diagnose\n"
    code += "print(diagnose(torch.randn(64, 4)))"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("measure", [diagnose, gaussianity])
def test_mistakes_are_explained(measure: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"\(8,\); N values in one dimension are z\[:, None\]"):
        measure(torch.zeros(8))
    with pytest.raises(ValueError, match="num_slices=0 must be at least 1"):
        measure(normal(8, 4), num_slices=0)
    with pytest.raises(TypeError, match=r"num_slices=8\.0 must be an int"):
        measure(normal(8, 4), num_slices=8.0)
    with pytest.raises(ValueError, match=r"\(N, D\) of one view.*\(2, 8, 4\)"):
        measure(torch.zeros(2, 8, 4))
    with pytest.raises(ValueError, match="inf or nan"):
        measure(normal(8, 4) / 0)
    with pytest.raises(ValueError, match="N >= 2"):
        measure(normal(1, 4))
    with pytest.raises(TypeError, match="floating-point"):
        measure([[0.0, 1.0]])
    with pytest.raises(TypeError, match="floating-point"):
        measure(torch.zeros(8, 4, dtype=torch.int64))


def test_a_null_of_too_few_samples_is_explained() -> None:
    with pytest.raises(ValueError, match="num_null=5"):
        gaussianity(normal(8, 4), num_null=5)


def test_squares_beyond_float32_are_an_error_with_a_reason() -> None:
    assert not report(1e18 * normal(48, 6)).gaussian
    with pytest.raises(ValueError, match=r"as large as .e\+30, whose squares leave float32"):
        gaussianity(1e30 * normal(48, 6))


@pytest.mark.parametrize("seed", [0.5, None, True])
def test_a_seed_that_is_no_int_is_named(seed: object) -> None:
    z = normal(8, 4)
    calls: list[Callable[..., object]] = [
        gaussianity,
        diagnose,
        lambda z, seed: diagnose_batch([(z, None)], seed=seed),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"seed={seed} must be an int"):
            call(z, seed=seed)


def test_numbers_whose_fourth_powers_leave_float64_are_named() -> None:
    with pytest.raises(ValueError, match=r"as large as .e\+80, whose fourth powers leave float64"):
        diagnose(1e80 * normal(20, 4).double())


def test_a_default_device_changes_nothing() -> None:
    """As torch.set_default_device("cuda") of a training script beside embeddings of the CPU."""
    z = normal(8, 3)
    with torch.device("meta"):
        found = (report(z), diagnose(z), diagnose_batch([(z, None)]).diagnosis, reachable_value(1.5, 8, 3))
    reachable_value.cache_clear()
    assert [f"{x!r}" for x in found] == [
        f"{x!r}"
        for x in (report(z), diagnose(z), diagnose_batch([(z, None)]).diagnosis, reachable_value(1.5, 8, 3))
    ]


def test_many_rows_are_projected_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    z = normal(200, 6)
    whole = diagnose(z, num_slices=64).measured
    monkeypatch.setattr(rows, "_AT_ONCE", 200 * 10)
    part = diagnose(z, num_slices=64).measured
    for name in ("value", "value_z", "tails", "tails_z", "unit_tails", "direction_z"):
        assert getattr(part, name) == pytest.approx(getattr(whole, name), rel=1e-12)
    assert [a.shape[1] for a in rows.parts(torch.ones(6, 64), 200)] == [10] * 6 + [4]

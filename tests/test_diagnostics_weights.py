"""Weights of a report on Gaussianity, and what its rank can reach."""

import pytest
import torch
from torch import Tensor

from sigreg.diagnostics import expected_value, gaussianity, reachable_value
from tests.samples import normal


def report(z: Tensor, weights: Tensor | None = None):
    return gaussianity(z, weights=weights, num_slices=32, num_null=19)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_mask_of_the_report_equals_removing_the_rows(dtype: torch.dtype, bad: float) -> None:
    """The rows are removed before anything is computed, so the reports are the same to the last digit."""
    z, mask = normal(60, 6).to(dtype), torch.arange(60) % 3 > 0
    masked = torch.where(mask[:, None], z, bad)
    assert repr(report(masked, mask)) == repr(report(z[mask]))
    assert report(masked, mask).measures == report(z[mask]).measures
    assert report(masked, 0.7 * mask.to(dtype)).measures == report(z[mask]).measures


def test_weights_of_the_report_are_repetitions_up_to_the_sample_size() -> None:
    z, w = normal(50, 4), torch.arange(1, 51) % 3 + 1
    ours, repeated = report(z, w.float()), report(z.repeat_interleave(w, 0))
    for name in ("mean", "covariance", "rank deficit"):
        # float32 sums of 100 rows
        assert ours.measures[name].value == pytest.approx(repeated.measures[name].value, rel=1e-4), name
    N = float(w.sum()) ** 2 / float(w.square().sum())
    assert ours.effective_N == pytest.approx(N)
    assert ours.N == 50
    for name in ("epps_pulley", "vcreg"):  # times N, which is the effective size here
        theirs = repeated.measures[name].value * N / float(w.sum())
        assert ours.measures[name].value == pytest.approx(theirs, rel=1e-4), name


def test_the_null_of_a_weighted_report_has_these_weights() -> None:
    w = torch.rand(200, generator=torch.Generator().manual_seed(0)) ** 8
    found = report(normal(200, 16), w)
    # a weighted mean of N(0, I) has the variance 1 / effective N in each coordinate; 19 null samples, sd 4 %
    assert found.measures["mean"].null_mean == pytest.approx((16 / found.effective_N) ** 0.5, rel=0.2)


def test_a_weighted_gaussian_raises_no_alarm_19_times_of_20() -> None:
    """40 samples with weights of effective size 32: 2 alarms expected; more than 7 have probability 0.001."""
    alarms = 0
    for seed in range(40):
        w = torch.rand(64, generator=torch.Generator().manual_seed(seed)).square()
        alarms += not gaussianity(normal(64, 4, seed=seed), weights=w, num_slices=16, num_null=19).gaussian
    assert alarms <= 7


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (torch.full((60,), -1.0), ValueError, "finite and not negative"),
        (torch.full((60,), float("nan")), ValueError, "finite and not negative"),
        (torch.ones(59), ValueError, "do not broadcast"),
        (torch.ones(60, dtype=torch.int64), TypeError, "bool or floating-point"),
        (torch.arange(60) == 3, ValueError, "N >= 2"),
        (torch.zeros(60), ValueError, "N >= 2"),
    ],
)
def test_bad_weights_are_the_errors_of_the_regularizer(weights: Tensor, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        report(normal(60, 6), weights)


def test_the_report_says_what_its_rank_can_reach() -> None:
    basis = torch.linalg.qr(normal(64, 8, seed=1))[0]
    found = report(normal(256, 8) @ basis.T * 8**0.5)
    assert found.rank == pytest.approx(8, abs=0.3)
    assert found.reachable == pytest.approx(reachable_value(8, 256, 64), rel=0.05)
    assert found.expected == expected_value()
    assert f"is {found.reachable:.4g} at best at this N; of N(0, I) 1.052" in repr(found)
    assert repr(report(torch.zeros(128, 8))).endswith(
        "epps_pulley 51.4621 is 0.40205 N, its value at an exact collapse onto 0"
    )

"""The report of a training batch, from sums: that of `sigreg inspect`, for views, weights and ranks."""

import dataclasses
import math

import pytest
import torch
import torch.distributed as dist

from sigreg.diagnostics import diagnose, diagnose_batch
from sigreg.diagnostics.batch import SEED
from sigreg.univariate import epps_pulley
from tests.monitored import VIEWS
from tests.pool import on_ranks
from tests.samples import normal

EPS = torch.finfo(torch.float64).eps


def numbers(found):
    """Every number of a report."""
    m = found.diagnosis.measured
    fields = {f.name: getattr(m, f.name) for f in dataclasses.fields(m)}
    scalars = [float(v) for v in fields.values() if isinstance(v, int | float)]
    rest = [found.spectrum, found.slice_histogram, found.norm_histogram, found.worst_slice]
    return torch.cat([torch.tensor([*scalars, found.covariance, found.worst_value]).double(), *rest])


DEFECTS = {
    "none": lambda z: z,
    "scale": lambda z: 0.3 * z,
    "mean": lambda z: z + 1,
    "uneven": lambda z: z * torch.linspace(0.1, 2, z.shape[1]),
    "rank": lambda z: z[:, :3] @ normal(3, z.shape[1], seed=1),
    "dead units": lambda z: z * (torch.arange(z.shape[1]) < 11),
    "one point": lambda z: 0 * z + 0.3,
    "origin": lambda z: 0 * z,
    "tails": lambda z: z / normal(len(z), 1, seed=2).abs().sqrt(),
    "unit norm": lambda z: torch.nn.functional.normalize(z),
    "LayerNorm": lambda z: torch.nn.functional.layer_norm(z, z.shape[1:]),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_one_view_is_diagnosed_in_the_words_and_numbers_of_inspect(defect):
    z = DEFECTS[defect](normal(256, 16))
    whole, sums = diagnose(z, seed=SEED), diagnose_batch([(z, None)]).diagnosis
    assert [f.name for f in sums.findings] == [f.name for f in whole.findings]
    assert (defect == "none") == sums.healthy
    rows_only = ("direction", "persistence", "smoothness", "constant_units", "expected_sds")
    # Sums of squares lose half of the digits of what nearly cancels: variations of constant lengths.
    small = 8 * math.sqrt(EPS)
    for field in dataclasses.fields(whole.measured):
        if not field.name.startswith(rows_only):
            one, other = (float(getattr(d.measured, field.name)) for d in (whole, sums))
            # float32 slices on both sides: N eps of it for the sums of the characteristic function
            assert one == pytest.approx(other, rel=256 * 1.2e-7, abs=max(small, 1e-6)), field.name


def test_views_are_tested_one_by_one_and_averaged_however_they_are_given():
    views = normal(3, 64, 8) * torch.tensor([1.0, 0.5, 2.0])[:, None, None] + 0.2
    stacked = diagnose_batch([(views, None)])
    calls = diagnose_batch([(views[:1], None), (views[1], None), (views[2], None)])
    torch.testing.assert_close(numbers(stacked), numbers(calls), rtol=64 * EPS, atol=64 * EPS)
    covariance = torch.stack([v.double().T.cov() for v in views]).mean(0)
    torch.testing.assert_close(
        stacked.spectrum, torch.linalg.eigvalsh(covariance).flip(0), rtol=1e4 * EPS, atol=0
    )
    A = torch.cat([stacked.worst_slice[:, None], torch.eye(8)], 1)
    value = epps_pulley(views @ A).mean(0)  # over views
    assert stacked.worst_value == pytest.approx(float(value[0]), rel=1e-5)
    assert stacked.worst_value >= float(value.max()) * (1 - 1e-5)


def test_rows_of_weight_zero_do_not_count_whatever_they_hold():
    z = normal(2, 64, 8)
    padded = torch.cat([z, torch.full((2, 9, 8), torch.nan)], dim=1)
    mask = torch.arange(73) < 64
    expected = numbers(diagnose_batch([(z, None)]))
    for weights in (mask, mask.double(), 0.5 * mask.float().expand(2, 73)):
        found = numbers(diagnose_batch([(padded, weights)]))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # float32 weights in the statistic


def test_a_view_without_rows_does_not_count():
    z, mask = normal(2, 64, 8), torch.tensor([[True], [False]]).expand(2, 64)
    found, expected = (numbers(diagnose_batch([call])) for call in ((z, mask), (z[:1], None)))
    torch.testing.assert_close(found, expected, rtol=64 * EPS, atol=64 * EPS)


def test_histograms_hold_every_row_once():
    found = diagnose_batch([(100 * normal(4, 50, 8), None)])
    for histogram in (found.slice_histogram, found.norm_histogram):
        assert float(histogram.sum()) == pytest.approx(1.0, abs=80 * EPS)
    assert float(found.norm_histogram[-1]) == 1.0  # the last bin is open


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        ([], "got no call"),
        ([(normal(8, 4), None), (normal(8, 5), None)], r"one width, got \[4, 5\]"),
        ([(normal(8, 4).log(), None)], "hold inf or nan"),
        ([(normal(8, 4), torch.zeros(8))], "no view has two rows"),
    ],
)
def test_what_cannot_be_diagnosed_is_named(calls, says):
    with pytest.raises(ValueError, match=says):
        diagnose_batch(calls)


@pytest.mark.parametrize(
    ("z", "weights", "error", "says"),
    [
        (normal(8), None, ValueError, r"expected \(..., N, D\), got shape \(8,\)"),
        (normal(8, 4).numpy(), None, TypeError, "got a ndarray; convert it with torch.as_tensor"),
        (normal(8, 4), torch.ones(3), ValueError, r"weights of shape \(3,\) do not broadcast to \(8,\)"),
        (normal(8, 4), [1.0] * 8, TypeError, "weights must be a bool or floating-point tensor, got a list"),
        (1e80 * normal(8, 4).double(), None, ValueError, "fourth powers leave float64"),
    ],
)
def test_embeddings_and_weights_that_do_not_fit_are_named(z, weights, error, says):
    with pytest.raises(error, match=says):
        diagnose_batch([(z, weights)])


@pytest.mark.parametrize("calls", [normal(8, 4), [normal(2, 8, 4)], [normal(8, 4), normal(8, 4)]])
def test_embeddings_that_are_not_in_pairs_are_named(calls):
    with pytest.raises(TypeError, match=r"a pair \(z, weights\) for each call; of one z: \[\(z, None\)\]"):
        diagnose_batch(calls)


def test_a_number_of_slices_below_one_is_named():
    with pytest.raises(ValueError, match="num_slices=0 must be at least 1"):
        diagnose_batch([(normal(8, 4), None)], num_slices=0)


SPLITS = ((40, 24), (64, 0), (1, 63))
WEIGHTS = torch.rand(2, 64, generator=torch.Generator().manual_seed(3)).round(decimals=1)


def report_of_rank(split, weighted):
    rank = dist.get_rank()
    z, w = (t.split(split, dim=1)[rank] for t in (VIEWS, WEIGHTS))
    return numbers(
        diagnose_batch([(z[:1], w[:1] if weighted else None), (z[1:], w[1:] if weighted else None)])
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("split", SPLITS)
def test_two_ranks_report_what_one_process_reports_of_the_concatenated_batch(split, weighted):
    expected = numbers(diagnose_batch([(VIEWS, WEIGHTS if weighted else None)]))
    for found in on_ranks(2, report_of_rank, split, weighted):
        # the statistic is float32: its sums over 64 rows are added in another order
        torch.testing.assert_close(found, expected, rtol=64 * 1.2e-7, atol=64 * 1.2e-7)


def only_one_rank_is_not_finite():
    z = normal(16, 4) if dist.get_rank() else normal(16, 4).log()
    try:
        diagnose_batch([(z, None)])
    except ValueError as error:
        return str(error)


def test_embeddings_that_are_not_finite_on_one_rank_are_an_error_on_all():
    first, second = on_ranks(2, only_one_rank_is_not_finite)
    assert first == second
    assert "hold inf or nan" in first

"""Sequences (B, T, D): which rows are a sample, temporal centring, padded steps, the wrong axis."""

import warnings

import pytest
import torch
from torch.testing import assert_close

from sigreg import SIGReg
from sigreg.directions import Subspaces, gaussian
from sigreg.regularizer import SampleAxisWarning
from sigreg.sequences import SequenceSIGReg
from tests.samples import normal

B, T, D = 12, 5, 4
LENGTHS = torch.tensor([5, 3, 4, 5, 2, 5, 5, 3, 5, 4, 5, 5])
MASK = torch.arange(T) < LENGTHS[:, None]


def by_loops(z, samples, window):
    """Only the valid steps, in Python loops, float64."""
    rows = [z[b, : LENGTHS[b]] for b in range(B)]
    if window is not None:
        h = window // 2
        rows = [
            torch.stack([r[t] - r[max(0, t - h) : t + h + 1].mean(0) for t in range(len(r))]) for r in rows
        ]
    sigreg = SIGReg(num_slices=8)
    steps = [sigreg(torch.stack([r[t] for r in rows if t < len(r)]), step=0) for t in range(T)]
    values = {"per_step": torch.stack(steps).mean(), "pooled": sigreg(torch.cat(rows), step=0)}
    return (values["per_step"] + values["pooled"]) / 2 if samples == "both" else values[samples]


@pytest.mark.parametrize("window", [None, 3, 2 * T - 1])
@pytest.mark.parametrize("samples", ["per_step", "pooled", "both"])
def test_padded_sequences_equal_loops_over_the_valid_steps(samples, window):
    z = normal(B, T, D).double()
    padded = torch.where(MASK[..., None], z, torch.nan).requires_grad_()
    leaf = z.clone().requires_grad_()
    criterion = SequenceSIGReg(SIGReg(num_slices=8), samples=samples, window=window)
    value, expected = criterion(padded, MASK), by_loops(leaf, samples, window)
    assert_close(value, expected, rtol=1e-12, atol=0)
    value.backward()
    expected.backward()
    assert_close(padded.grad, leaf.grad, rtol=1e-10, atol=1e-12)
    assert int(criterion.sigreg.step) == 1


@pytest.mark.filterwarnings("ignore::sigreg.regularizer.SampleAxisWarning")
@pytest.mark.parametrize(("rows", "sd"), [(1, 0.0), (2, 0.43), (4, 0.74), (8, 0.87), (32, 0.97)])
def test_few_rows_are_pulled_together_as_docs_sequences_says(rows, sd):
    """The mean value of Gaussian steps of so few rows is least at this standard deviation."""
    x, mask = normal(20_000, rows + 1, 1).double(), torch.arange(rows + 1) < rows

    def slope(scale, **settings):
        scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        SIGReg(num_slices=1, **settings)(scale * x, mask).backward()
        return float(scale.grad)

    assert slope(sd + 0.02) > 0
    assert sd == 0 or slope(sd - 0.02) < 0
    assert slope(sd, unbiased=True) < 0 if rows > 1 else slope(0.5, unbiased=True) == 0


@pytest.mark.parametrize("settings", [{"samples": "time"}, {"window": 4}, {"window": 1}, {"window": 3.0}])
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SequenceSIGReg(**settings)


@pytest.mark.parametrize("rows", [5, 10])  # time steps; views, of which LeJEPA has up to ten
def test_few_samples_beside_a_large_leading_axis_are_a_warning_once(rows):
    sigreg, z = SIGReg(num_slices=4), normal(64, rows, D)
    with pytest.warns(SampleAxisWarning, match="transpose"):
        sigreg(z)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SampleAxisWarning)
        sigreg(z)
        SIGReg(num_slices=4)(z.transpose(0, 1))
        SIGReg(num_slices=4)(normal(64, 16, D))
        SIGReg(num_slices=4, memory=32)(z)
        torch.compile(SIGReg(num_slices=4), fullgraph=True, backend="eager")(z)


def test_subspaces_equal_the_mean_over_subspaces():
    z = normal(40, 32).double()
    K, kind = 64, Subspaces(4, 8)
    P = kind.basis(32, seed=0, device=None, dtype=torch.float64)  # (D, number, size)
    assert_close(P.flatten(1).T @ P.flatten(1), torch.eye(32, dtype=torch.float64))
    A = gaussian(8, K, seed=0, step=0, dtype=torch.float64)
    own = [SIGReg(num_slices=16, directions=lambda D, K, i=i, **_: A[:, i::4]) for i in range(4)]
    expected = torch.stack([own[i](z @ P[:, i]) for i in range(4)]).mean()
    assert_close(SIGReg(num_slices=K, directions=kind)(z), expected)
    assert_close(SIGReg(num_slices=K, directions="subspaces")(z), expected)


def test_a_windowed_mean_on_the_meta_device():
    z = torch.empty(16, 10, 4, device="meta")
    assert SequenceSIGReg(SIGReg(num_slices=8), window=3).eval()(z).shape == ()


@pytest.mark.parametrize("window", [None, 3])
def test_integers_are_no_embeddings(window):
    with pytest.raises(TypeError, match=r"floating-point.* got a tensor of torch.int64"):
        SequenceSIGReg(SIGReg(num_slices=4), window=window)(torch.ones(8, 4, 6, dtype=torch.int64))

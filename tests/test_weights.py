"""Weights and masks: a mask equals removing the rows, for every statistic, kernel, shape and split."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from sigreg.directions import gaussian
from sigreg.functional import sigreg
from sigreg.multivariate import bhep, exact_sigreg, henze_zirkler
from sigreg.objective import NextEmbeddingLoss
from sigreg.sequences import SequenceSIGReg
from sigreg.univariate import STATISTICS, epps_pulley
from tests.contract import MANY, TABLE, over_two_ranks, promise
from tests.samples import mask_of
from tests.samples import normal64 as normal

WEIGHTED = [key for key in TABLE if key != "vasicek_entropy"]


def value_and_gradient(statistic, x: Tensor, **kwargs) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = statistic(x, **kwargs)
    (grad,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_a_sample_without_valid_rows_has_the_value_0(name: str, dtype: torch.dtype) -> None:
    if name == "vasicek_entropy" and dtype != torch.bool:
        pytest.skip("it takes masks only")
    value, grad = value_and_gradient(STATISTICS[name], normal(13, 4), weights=torch.zeros(13, dtype=dtype))
    assert not value.any()
    assert not grad.any()


@promise()
@pytest.mark.parametrize("bad", [0.0, 1e6, float("nan"), float("inf")])
def test_a_mask_equals_removing_the_rows(key: str, bad: float) -> None:
    x, mask = normal(13, 4), mask_of(13)
    value, grad = value_and_gradient(TABLE[key].statistic, x[mask])
    masked = torch.where(mask[:, None], x, bad)
    theirs, their_grad = value_and_gradient(TABLE[key].statistic, masked, weights=mask)
    assert_close(theirs, value, rtol=MANY, atol=MANY)
    assert_close(their_grad[mask], grad, rtol=MANY, atol=MANY)
    assert not their_grad[~mask].any()


@promise()
def test_each_leading_index_has_its_own_mask(key: str) -> None:
    x, mask = normal(2, 3, 11, 4), mask_of(2, 3, 11, seed=1)
    mask[..., :2] = True
    values, grads = value_and_gradient(TABLE[key].statistic, x, weights=mask)
    for i in range(2):
        for j in range(3):
            alone, grad = value_and_gradient(TABLE[key].statistic, x[i, j][mask[i, j]])
            assert_close(values[i, j], alone, rtol=MANY, atol=MANY)
            assert_close(grads[i, j][mask[i, j]], grad, rtol=MANY, atol=MANY)


@promise(rows=WEIGHTED)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_only_ratios_of_weights_matter(key: str, scale: float, seed: int) -> None:
    x = normal(12, 2, seed=seed)
    w = torch.rand(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = TABLE[key].statistic(x, weights=w)
    assert_close(TABLE[key].statistic(x, weights=scale * w), expected, rtol=1e-9, atol=1e-9)


@promise(rows=WEIGHTED)
def test_equal_weights_are_no_weights(key: str) -> None:
    x = normal(12, 2)
    weights = torch.full((12,), 0.3, dtype=torch.float64)
    assert_close(TABLE[key].statistic(x, weights=weights), TABLE[key].statistic(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("key", ["cramer_von_mises", "watson", "anderson_darling"])
def test_weighted_order_statistics_are_the_integrals_of_their_definition(key: str) -> None:
    """On a fine grid of v = F(x), for the weighted empirical distribution function."""
    x, w = normal(9, 1, seed=4), torch.rand(9, generator=torch.Generator().manual_seed(4)).double()
    p, N = w / w.sum(), w.sum() ** 2 / w.square().sum()
    v = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    F = torch.special.ndtr(x.flatten())
    order = F.argsort()
    steps = torch.cat([torch.zeros(1, dtype=torch.float64), p[order].cumsum(0)])
    difference = steps[torch.searchsorted(F[order], v)] - v
    integrand = {
        "cramer_von_mises": difference.square(),
        "watson": (difference - difference.mean()).square(),
        "anderson_darling": difference.square() / (v * (1 - v)),
    }[key]
    assert_close(TABLE[key].statistic(x, weights=w)[0], N * integrand.mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["uniform", "half zero", "heavy-tailed"])
def test_weights_leave_the_expected_value_under_a_gaussian(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(400, 200, 1, generator=generator).squeeze(-1)
    w = {"uniform": u, "half zero": (u > 0.5).float(), "heavy-tailed": (1 - u) ** -0.5}[kind]
    values = epps_pulley(torch.randn(400, 200, 16, generator=generator), weights=w).mean(-1)
    # 400 independent means of 16 slices; within four standard errors
    assert abs(float(values.mean()) - 1.0525) < 4 * float(values.std()) / 20
    unbiased = epps_pulley(torch.randn(400, 200, 16, generator=generator), weights=w, unbiased=True).mean(-1)
    assert abs(float(unbiased.mean())) < 4 * float(unbiased.std()) / 20


@pytest.mark.parametrize("unbiased", [False, True])
def test_weights_in_a_kernel_are_those_of_the_definition(backend, unbiased: bool) -> None:
    z, A = normal(3, 17, 5).requires_grad_(), gaussian(5, 70, dtype=torch.float64)
    w = torch.rand(3, 17, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [0.5]])  # totals differ by view
    t = torch.linspace(0, 3, 17, dtype=torch.float64)
    p = w / w.sum(-1, keepdim=True)
    N = 1 / p.square().sum(-1)[:, None, None]
    xt = (z @ A)[..., None] * t
    ecf = (p[..., None, None] * torch.polar(torch.ones_like(xt), xt)).sum(1)  # (V, K, points)
    phi = torch.exp(-(t**2) / 2)
    modulus = ecf.abs().square()
    if unbiased:
        modulus = (N * modulus - 1) / (N - 1)
    error = modulus - 2 * phi * ecf.real + phi**2
    expected = (N[..., 0] * 2 * torch.trapezoid(error * phi, t)).mean()
    value = backend(z, A, weights=w, unbiased=unbiased)
    assert_close(value, expected, rtol=1e-10, atol=1e-12)
    of_kernel, by_hand = (torch.autograd.grad(loss, z)[0] for loss in (value, expected))
    assert_close(of_kernel, by_hand, rtol=1e-10, atol=1e-12)


CLOSED = {
    "exact_sigreg": exact_sigreg,
    "exact_sigreg unbiased": lambda z, **kw: exact_sigreg(z, unbiased=True, **kw),
    "bhep": bhep,
    "henze_zirkler": henze_zirkler,
}


@pytest.mark.parametrize("form", CLOSED.values(), ids=CLOSED)
def test_a_closed_form_takes_a_mask_for_each_leading_index(form) -> None:
    z, mask = normal(2, 2, 13, 3), mask_of(2, 2, 13, seed=2)
    mask[1, 1] = False  # its value is 0
    padded = torch.where(mask[..., None], z, torch.inf)
    values, grad = value_and_gradient(form, padded, weights=mask)
    for i, j in ((0, 0), (0, 1), (1, 0)):
        alone, theirs = value_and_gradient(form, z[i, j][mask[i, j]])
        assert_close(values[i, j], alone, rtol=MANY, atol=MANY)
        assert_close(grad[i, j][mask[i, j]], theirs, rtol=MANY, atol=MANY)
    assert values[1, 1] == 0
    assert_close(grad[~mask], torch.zeros_like(grad[~mask]), rtol=0, atol=0)


TRACED = ("epps_pulley", "vcreg", "watson")  # tracing takes seconds; the others are behind `-m long`


@pytest.mark.parametrize(
    "statistic", [pytest.param(n, marks=() if n in TRACED else pytest.mark.long) for n in sorted(STATISTICS)]
)
def test_a_mask_equals_removing_the_rows_under_torch_compile(statistic: str) -> None:
    torch._dynamo.reset()
    z, mask = normal(2, 3, 11, 4), mask_of(11)
    criterion = SIGReg(statistic, num_slices=6).eval()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    value, grad = value_and_gradient(compiled, torch.where(mask[:, None], z, torch.nan), weights=mask)
    expected, theirs = value_and_gradient(criterion, z[:, :, mask])
    assert_close(value, expected, rtol=MANY, atol=MANY)
    assert_close(grad[:, :, mask], theirs, rtol=MANY, atol=MANY)
    assert not grad[:, :, ~mask].any()


@pytest.mark.parametrize("statistic", sorted(STATISTICS))
def test_views_without_a_valid_row_leave_the_mean(statistic: str) -> None:
    z, mask = normal(3, 12, 4), torch.ones(3, 12, dtype=torch.bool)
    mask[1] = False
    z[1] = torch.nan
    criterion = SIGReg(statistic, num_slices=8).eval()
    value, grad = value_and_gradient(criterion, z, weights=mask)
    expected, theirs = value_and_gradient(criterion, z[[0, 2]])
    assert_close(value, expected, rtol=MANY, atol=MANY)
    assert_close(grad[[0, 2]], theirs, rtol=MANY, atol=MANY)
    assert not grad[1].any()


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("statistic", sorted(STATISTICS))
def test_nothing_valid_is_a_value_of_0_with_no_gradient(statistic: str, unbiased: bool) -> None:
    if unbiased and statistic != "epps_pulley":
        pytest.skip("unbiased is a setting of Epps-Pulley")
    z = torch.full((2, 7, 4), torch.nan)
    value, grad = value_and_gradient(
        SIGReg(statistic, num_slices=8, unbiased=unbiased), z, weights=torch.zeros(7, dtype=torch.bool)
    )
    assert_close(value, torch.tensor(0.0), rtol=0, atol=0)
    assert_close(grad, torch.zeros_like(z), rtol=0, atol=0)


@promise()
@pytest.mark.parametrize("second", ["some rows", "no valid row"])
def test_ranks_with_other_valid_counts_equal_one_process(key: str, second: str) -> None:
    x, mask = (1 + 0.5 * normal(13, 3)).requires_grad_(), mask_of(13, seed=3)
    if second == "no valid row":
        mask[6:] = False
    values, _ = over_two_ranks(TABLE[key].statistic, [x[:6], x[6:]], [mask[:6], mask[6:]])
    whole = TABLE[key].statistic(x[mask])
    assert_close(values[0], whole, rtol=MANY, atol=MANY)
    assert_close(values[1], whole, rtol=MANY, atol=MANY)
    assert_close(
        torch.autograd.grad(values[0].sum(), x)[0],
        torch.autograd.grad(whole.sum(), x)[0],
        rtol=MANY,
        atol=MANY,
    )


def test_a_user_s_statistic_gets_the_weights_that_it_asks_for() -> None:
    def second_moment(x: Tensor, weights: Tensor | None = None) -> Tensor:
        w = torch.ones(x.shape[:-1]) if weights is None else weights.double()
        return (w[..., None] * x.square()).sum(-2)

    z, mask = normal(12, 4), mask_of(12)
    criterion = SIGReg(second_moment, num_slices=8).eval()
    assert_close(criterion(z, mask), criterion(z[mask]))
    with pytest.raises(
        TypeError, match="does not take weights, which a mask, weights= and memory= need; give it a keyword"
    ):
        SIGReg(lambda x: x.mean(-2), num_slices=8)(z, mask)


TAKERS = {
    "SIGReg": lambda z, w: SIGReg(num_slices=4)(z, w),
    "sigreg": lambda z, w: sigreg(z, gaussian(z.shape[-1], 4, dtype=z.dtype), weights=w),
    "LeJEPALoss": lambda z, w: LeJEPALoss(sigreg=SIGReg(num_slices=4))(z, weights=w),
    "NextEmbeddingLoss": lambda z, w: NextEmbeddingLoss(sigreg=SIGReg(num_slices=4))(z, torch.tanh, None, w),
    "SequenceSIGReg": lambda z, w: SequenceSIGReg(SIGReg(num_slices=4), window=3)(z, w),
    "memory": lambda z, w: SIGReg(num_slices=4, memory=6)(z, w),
    **{name: lambda z, w, form=form: form(z, weights=w).mean() for name, form in CLOSED.items()},
}
every_taker = pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)


@every_taker
def test_weights_are_constants(taker) -> None:
    w = torch.rand(4, 12, dtype=torch.float64, requires_grad=True)
    z = normal(4, 12, 3).requires_grad_()
    taker(z, w).backward()
    assert z.grad.any()
    assert w.grad is None


@pytest.mark.parametrize(
    ("weights", "error", "says"),
    [
        (torch.full((12,), -1.0), ValueError, "not negative.*-1.0"),
        (torch.full((12,), float("nan")), ValueError, "finite"),
        (torch.full((12,), float("inf")), ValueError, "finite"),
        (torch.ones(11), ValueError, r"\(11,\) do not broadcast to \(2, 12\)"),
        (torch.ones(12, 4), ValueError, r"\(12, 4\) do not broadcast"),
        (torch.ones(12, dtype=torch.int64), TypeError, r"int64.*\.bool\(\)"),
        ([1.0] * 12, TypeError, "list"),
    ],
)
@every_taker
def test_bad_weights_are_named(taker, weights, error, says) -> None:
    with pytest.raises(error, match=says):
        taker(torch.zeros(2, 12, 4), weights)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("statistic", ["epps_pulley", "watson", "vcreg"])
def test_weights_whose_squares_float32_cannot_hold_do_not_pass_for_nothing_valid(statistic, scale) -> None:
    value = SIGReg(statistic, num_slices=4)(torch.randn(12, 4), torch.full((12,), scale))
    assert not value.isfinite()


def test_vasicek_takes_a_mask_but_no_weights() -> None:
    with pytest.raises(ValueError, match=r"no weighted form.*bool mask"):
        STATISTICS["vasicek_entropy"](normal(12, 1), weights=torch.rand(12))


@pytest.mark.parametrize("statistic", ["anderson_darling", "cramer_von_mises", "watson", "shapiro_francia"])
def test_a_row_of_weight_0_at_the_end_of_the_sorted_sample_does_not_count(statistic):
    """W and the running sum of weights are rounded differently, so that W - below may fall below 0."""
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        x, w = -torch.rand(8, 1, generator=generator), torch.rand(8, generator=generator)
        x[-1], w[-1] = 1.0, 0.0
        found = STATISTICS[statistic](x, weights=w)
        assert_close(found, STATISTICS[statistic](x[:-1], weights=w[:-1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_no_rows_at_all_are_0(statistic):
    z = torch.empty(3, 0, 8)
    assert SIGReg(statistic, num_slices=4)(z, torch.empty(3, 0, dtype=torch.bool)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_whose_squares_lose_digits_give_no_finite_value(dtype):
    """A weight counts by its ratio to the others as long as its square is a normal number."""
    finfo, z, A = torch.finfo(dtype), normal(32, 6).to(dtype), gaussian(6, 8, dtype=dtype)
    expected = sigreg(z, A)
    least = (finfo.tiny / finfo.eps) ** 0.5
    for power in range(-20, 20):
        value = sigreg(z, A, weights=torch.full((32,), least * 2.0**power, dtype=dtype))
        if value.isfinite():  # sums of 32 terms are rounded in another order
            assert_close(value, expected, rtol=64 * finfo.eps, atol=0)
        assert bool(value.isfinite()) == (power > -3), power  # the sum of squares is 32 times as large

"""One table, statistics x promises.  A cell that is skipped says why."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from sigreg import SIGReg, univariate
from sigreg.directions import gaussian
from tests import strategies
from tests.contract import BY_SUMS, SHAPES, TABLE, bind, over_two_ranks, promise
from tests.samples import normal64 as normal
from tests.strategies import Case


def column(x: np.ndarray | list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.as_tensor(np.asarray(x), dtype=dtype).unsqueeze(-1)  # (N, 1)


def test_every_statistic_of_the_package_has_a_row() -> None:
    assert set(univariate.STATISTICS) <= set(TABLE)


@promise()
@given(case=strategies.cases())
def test_value_equals_the_float64_oracle(key: str, case: Case) -> None:
    row = TABLE[key]
    expected = torch.tensor([row.oracle(case.x)], dtype=torch.float64)
    atol = 1e-9 * max(1.0, float(np.abs(case.x).max()) ** 2 * len(case.x))
    assert_close(row.statistic(column(case.x)), expected, rtol=1e-8, atol=atol)


@pytest.mark.parametrize(
    "case",
    [
        strategies.constants,
        strategies.two_points,
        strategies.symmetric,
        strategies.quantiles,
        strategies.scores,
    ],
)
def test_value_equals_the_answer_computed_by_hand(case: Callable[[], st.SearchStrategy[Case]]) -> None:
    @given(case=case())
    def check(case: Case) -> None:
        for key, answer in case.answers.items():
            value = TABLE[key].statistic(column(case.x))
            assert_close(value, torch.tensor([answer], dtype=torch.float64), rtol=1e-8, atol=1e-8, msg=key)

    check()


@promise()
@given(x=strategies.samples(min_size=8, bound=12.0, unique=True))
def test_float32_stays_close_to_float64(key: str, x: np.ndarray) -> None:
    """Tails beyond |x| = 10 included; both see the same (float32) sample."""
    statistic = TABLE[key].statistic
    single = column(x, torch.float32)
    assert_close(statistic(single), statistic(single.double()).float(), rtol=2e-4, atol=2e-4)


@promise()
def test_hundred_thousand_samples_keep_three_digits_in_float32(key: str) -> None:
    x = normal(100_000, 1).float()
    statistic = TABLE[key].statistic
    expected = statistic(x.double()).float()
    assert_close(statistic(x), expected, rtol=1e-3, atol=1.0 if key == "vasicek_entropy" else 2e-3)


@promise("non-negative")
@given(case=strategies.cases())
def test_value_is_never_negative(key: str, case: Case) -> None:
    value = TABLE[key].statistic(column(case.x))
    assert float(value) >= -1e-12 * len(case.x)


@promise()
@given(x=strategies.samples(), seed=st.integers(0, 1000))
def test_order_of_the_sample_does_not_matter(key: str, x: np.ndarray, seed: int) -> None:
    statistic = TABLE[key].statistic
    shuffled = np.random.default_rng(seed).permutation(x)
    assert_close(statistic(column(shuffled)), statistic(column(x)), rtol=1e-9, atol=1e-7)


@promise()
def test_leading_dimensions_and_slices_are_tested_one_by_one(key: str) -> None:
    x = normal(2, 3, 11, 4)
    value = TABLE[key].statistic(x)
    one_by_one = [
        TABLE[key].statistic(x[v, w, :, k : k + 1]) for v in range(2) for w in range(3) for k in range(4)
    ]
    assert_close(value, torch.cat(one_by_one).reshape(2, 3, 4))


@promise()
@given(x=strategies.samples(min_size=4, max_size=9, bound=2.0, unique=True))
def test_gradient_is_that_of_finite_differences(key: str, x: np.ndarray) -> None:
    z = column(x).requires_grad_()
    assert torch.autograd.gradcheck(TABLE[key].statistic, z, atol=1e-4, rtol=1e-3)


@promise()
def test_second_derivative_is_that_of_finite_differences(key: str) -> None:
    """For the order statistics away from ties, where they are smooth."""
    z = normal(7, 2, seed=1).requires_grad_()
    assert torch.autograd.gradgradcheck(TABLE[key].statistic, z, atol=1e-4, rtol=1e-3)


HARD = {
    "constant at 0": torch.zeros(9, 1),
    "constant": torch.full((9, 1), -1.7),
    "a large constant": torch.full((9, 1), 1e4 / 3),
    "ties": torch.tensor([-1.0, -1.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 3.0]).unsqueeze(-1),
    "two equal samples": torch.ones(2, 1),
    "two samples": torch.tensor([[-1.0], [2.0]]),
    "spread of 1e-6": 1e-6 * normal(9, 1).float(),
    "spread of 1e-12": 1e-12 * normal(9, 1).float(),
    "1e4 wide": 1e4 * normal(64, 1).float(),
    "tails": torch.tensor([-40.0, -15.0, -11.0, 0.0, 11.0, 15.0, 40.0]).unsqueeze(-1),
}


@promise()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sample", HARD)
def test_gradient_is_finite_where_it_is_hard(key: str, sample: str, dtype: torch.dtype) -> None:
    if sample in TABLE[key].skips:
        pytest.skip(TABLE[key].skips[sample])
    x = HARD[sample].to(dtype).requires_grad_()
    value = TABLE[key].statistic(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all()
    if dtype == torch.float16:  # it ends at 65504; a steeper gradient cannot be handed back in it
        wide = x.detach().float().requires_grad_()
        (exact,) = torch.autograd.grad(TABLE[key].statistic(wide).sum(), wide)
        assert exact.isfinite().all()
        gradient = gradient[exact.abs() < 65504]
    assert gradient.isfinite().all()
    assert gradient.dtype == dtype
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@promise()
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_sample_gives_a_non_finite_value(key: str, bad: float) -> None:
    x = normal(9, 2)
    x[4, 1] = bad
    value = TABLE[key].statistic(x)
    assert value[0].isfinite()
    assert not value[1].isfinite()


@promise()
def test_mistakes_are_explained(key: str) -> None:
    statistic = TABLE[key].statistic
    with pytest.raises(TypeError, match=r"floating-point.*int64.*\.float\(\)"):
        statistic(torch.arange(6).reshape(3, 2))
    with pytest.raises(ValueError, match=r"\(\.\.\., N, D\).*\(5,\)"):
        statistic(torch.zeros(5))
    with pytest.raises(ValueError, match=r"N >= 2.*\(1, 3\)"):
        statistic(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("key", "alternative"),
    [
        pytest.param(key, a, marks=pytest.mark.skip(reason=row.skips[a]) if a in row.skips else ())
        for key, row in TABLE.items()
        for a in ("shifted", "scaled", *SHAPES)
    ],
)
def test_normal_samples_score_below_others(key: str, alternative: str) -> None:
    """Of 48 samples of 400 each: the share of pairs in the right order is three sd above chance."""
    others = torch.from_numpy(strategies.alternatives(400, 48, seed=1)[alternative])
    statistic = TABLE[key].statistic
    null, other = statistic(normal(400, 48, seed=2)), statistic(others)
    share = (other[:, None] > null).double().mean()
    assert float(share) > 0.5 + 3 * math.sqrt((48 + 48 + 1) / (12 * 48 * 48))


@promise()
def test_rotation_leaves_the_expected_sigreg_alone(key: str) -> None:
    """Over 4,000 slices, within three standard errors of their difference."""
    z = normal(24, 6, seed=3) * torch.linspace(0.2, 2, 6).double()
    rotation, _ = torch.linalg.qr(normal(6, 6, seed=4))
    a, b = (gaussian(6, 4000, seed=s, dtype=torch.float64) for s in (0, 1))
    one, other = TABLE[key].statistic(z @ a), TABLE[key].statistic(z @ rotation @ b)
    error = (one.var() / 4000 + other.var() / 4000).sqrt()
    assert abs(float(one.mean() - other.mean())) < 3 * float(error)


@promise(rows=BY_SUMS)
@pytest.mark.parametrize("first", [1, 5, 12])
def test_any_split_of_the_batch_gives_the_value_and_gradient_of_the_whole(key: str, first: int) -> None:
    statistic = TABLE[key].statistic
    x = (3 + 0.5 * normal(13, 4)).requires_grad_()
    values, _ = over_two_ranks(statistic, [x[:first], x[first:]])
    whole = statistic(x)
    assert_close(values[0], whole)
    assert_close(values[1], whole)
    upstream = torch.linspace(-1, 2, 4).double()
    assert_close(torch.autograd.grad(values[0], x, upstream), torch.autograd.grad(whole, x, upstream))


def test_a_mix_gathers_once_for_all_its_order_statistics() -> None:
    mix = bind({"epps_pulley": 1.0, "cramer_von_mises": 1.0, "watson": 1.0})
    x = normal(9, 2)
    values, ranks = over_two_ranks(mix, [x[:4], x[4:]])
    assert_close(values[0], mix(x))
    assert [r.gathers for r in ranks] == [1, 1]


def test_a_mix_of_sums_gathers_nothing() -> None:
    mix = bind({"epps_pulley": 1.0, "vcreg": 0.1})
    x = normal(9, 2)
    _, ranks = over_two_ranks(mix, [x[:4], x[4:]])
    assert [r.gathers for r in ranks] == [0, 0]


def test_a_setting_reaches_the_members_that_know_it() -> None:
    x = normal(20, 2)
    mix = bind({"epps_pulley": 1.0, "moments": 0.5, "vcreg": 0.1}, t_max=5.0, k_max=2)
    parts = univariate.epps_pulley(x, t_max=5.0) + 0.5 * univariate.moments(x, k_max=2)
    assert_close(mix(x), parts + 0.1 * univariate.vcreg(x))


def test_mistakes_in_a_choice_are_explained() -> None:
    with pytest.raises(ValueError, match=r"'epps'.*unknown.*epps_pulley"):
        bind("epps")
    with pytest.raises(ValueError, match="at least one statistic"):
        bind({})
    with pytest.raises(TypeError, match=r"vcreg does not take \['t_max'\]"):
        bind("vcreg", t_max=3.0)
    with pytest.raises(TypeError, match=r"vcreg and epps_pulley does not take \['k_max'\]"):
        bind({"vcreg": 1.0, "epps_pulley": 1.0}, k_max=3)
    with pytest.raises(ValueError, match=r"the mix names epps_pulley twice"):
        bind({"epps_pulley": 1.0, univariate.epps_pulley: 2.0})
    with pytest.raises(TypeError, match=r"a name, a callable.*got 3"):
        bind(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"k_max=0"):
        univariate.moments(normal(4, 1), k_max=0)
    with pytest.raises(ValueError, match=r"m=4 must lie in 1\.\.\.3"):
        univariate.vasicek_entropy(normal(4, 1), m=4)


def test_sigreg_takes_a_dict_of_weights() -> None:
    z = normal(32, 8)
    mixed = SIGReg({"epps_pulley": 1.0, "vcreg": 0.1}, num_slices=64)
    plain, vcreg = SIGReg(num_slices=64), SIGReg("vcreg", num_slices=64)
    assert_close(mixed(z), plain(z) + 0.1 * vcreg(z))
    assert "{epps_pulley: 1.0, vcreg: 0.1}" in repr(mixed)


def test_extended_jarque_bera_is_jarque_bera_plus_vcreg() -> None:
    x = 2 * normal(30, 3) + 1
    expected = univariate.jarque_bera(x) + univariate.vcreg(x)
    assert_close(univariate.extended_jarque_bera(x), expected)


def test_smaller_windows_of_vasicek_are_scipys_too() -> None:
    import scipy.stats

    x = normal(50, 1)
    H = scipy.stats.differential_entropy(x.numpy(), window_length=3, method="vasicek")
    expected = 50 * (0.5 * np.log(2 * np.pi) + 0.5 * x.square().mean(0) - torch.from_numpy(H))
    assert_close(univariate.vasicek_entropy(x, m=3), expected)

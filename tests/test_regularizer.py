"""SIGReg: its contract, whatever the statistic."""

import inspect
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from sigreg import LeJEPALoss, SIGReg, functional
from sigreg.directions import Subspaces, gaussian, orthogonal, sobol
from sigreg.multivariate import exact_sigreg
from sigreg.sequences import SequenceSIGReg
from sigreg.univariate import epps_pulley, moments, vcreg, watson
from tests.samples import normal


def test_a_gaussian_has_the_expected_value():
    value = SIGReg(num_slices=512)(normal(16, 256, 64))
    torch.testing.assert_close(value, torch.tensor(1.0525), rtol=0, atol=0.05)


def test_the_value_is_the_mean_of_the_statistic_over_slices():
    sigreg = SIGReg(num_slices=9).eval()
    z = normal(3, 20, 5)
    A = sigreg.directions(5, 9, seed=0, step=0, dtype=torch.float32)
    torch.testing.assert_close(sigreg(z), epps_pulley(z @ A).mean())


def test_new_slices_at_every_training_step_and_the_same_ones_in_eval():
    sigreg, z = SIGReg(num_slices=8), normal(32, 4)
    assert len({sigreg(z).item() for _ in range(4)}) == 4
    sigreg.eval()
    assert len({sigreg(z).item() for _ in range(4)}) == 1
    assert int(sigreg.step) == 4


def test_the_global_generator_is_not_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    SIGReg(num_slices=8)(normal(32, 4))
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_seeds_tell_modules_apart():
    z = normal(32, 4)
    values = {SIGReg(num_slices=8, seed=seed)(z).item() for seed in range(5)}
    assert len(values) == 5


def test_a_callable_is_a_statistic():
    sigreg = SIGReg(lambda x: x.mean(-2).square(), num_slices=8)
    torch.testing.assert_close(sigreg(torch.zeros(16, 4)), torch.tensor(0.0))


def test_a_callable_chooses_directions():
    def axes(D, K, *, seed, step, device, dtype):
        return torch.eye(D, K, device=device, dtype=dtype)

    z = normal(16, 4)
    torch.testing.assert_close(SIGReg(directions=axes, num_slices=4)(z), epps_pulley(z).mean())


@pytest.mark.parametrize(
    ("z", "error", "says"),
    [
        (torch.zeros(8), ValueError, r"\(8,\)"),
        (torch.zeros(1, 8), ValueError, "N >= 2.*drop_last"),
        (torch.zeros(0, 8), ValueError, r"\(0, 8\)"),
        (torch.zeros(0, 8, 4), ValueError, r"at least one view.*\(0, 8, 4\)"),
        (torch.zeros(8, 0), ValueError, r"one column.*\(8, 0\)"),
        (torch.zeros(8, 8, dtype=torch.int64), TypeError, "int64"),
        ([[0.0, 1.0]], TypeError, "list"),
    ],
)
def test_bad_embeddings_are_named(z, error, says):
    with pytest.raises(error, match=says):
        SIGReg(num_slices=4)(z)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"num_slices": 0}, ValueError, "num_slices=0"),
        ({"statistic": "epps"}, ValueError, "epps_pulley"),
        ({"directions": "random"}, ValueError, "gaussian"),
        ({"backend": "cuda"}, ValueError, "eager"),
        ({"group": "world"}, ValueError, "auto"),
        ({"t_max": -1.0}, ValueError, "t_max"),
        ({"num_points": 1}, ValueError, "num_points"),
        ({"grid": "fine"}, ValueError, "reference"),
        ({"knots": 17}, TypeError, "knots"),
        ({"seed": 1.5}, TypeError, "seed=1.5 must be an int"),
        ({"num_slices": 8.0}, TypeError, "num_slices=8.0 must be an int"),
        ({"num_points": 17.0}, TypeError, "num_points=17.0 must be an int"),
        ({"memory": 2.5}, TypeError, "memory=2.5 must be an int"),
        ({"memory": -1}, ValueError, "memory=-1"),
        ({"statistic": torch.var, "t_max": 3.0}, TypeError, "does not take"),
        ({"num_points": True}, TypeError, "num_points=True must be an int"),
        ({"t_max": "3"}, TypeError, "t_max='3' must be a number"),
        ({"unbiased": "no"}, TypeError, "unbiased='no' must be True or False"),
        ({"statistic": {"epps_pulley": 1.0, epps_pulley: 2.0}}, ValueError, "names epps_pulley twice"),
        (
            {"statistic": {"epps_pulley": 1.0, partial(epps_pulley, t_max=5.0): 2.0}, "t_max": 5.0},
            ValueError,
            r"names epps_pulley\(t_max=5.0\) twice",
        ),
        ({"statistic": {"vcreg": float("nan")}}, ValueError, "weight of vcreg is nan"),
        ({"statistic": partial(vcreg, weights=torch.ones(8))}, TypeError, r"does not take \['weights'\]"),
        ({"statistic": {partial(watson, group=None): 1.0}}, TypeError, r"does not take \['group'\]"),
        (
            {"statistic": partial(epps_pulley, weights=torch.ones(8))},
            TypeError,
            r"does not take \['weights'\]",
        ),
        ({"statistic": partial(moments, kmax=6)}, TypeError, r"does not take \['kmax'\], but k_max"),
        (
            {"statistic": partial(vcreg, x=torch.ones(8, 2))},
            TypeError,
            r"does not take \['x'\], but no setting",
        ),
        ({"statistic": {"vcreg": None}}, TypeError, "weight of vcreg is None"),
        ({"statistic": {"vcreg": "1"}}, TypeError, "weight of vcreg is '1'"),
        ({"directions": ["gaussian"]}, ValueError, r"directions=\['gaussian'\] is unknown"),
        ({"num_slices": True}, TypeError, "num_slices=True must be an int"),
        ({"seed": False}, TypeError, "seed=False must be an int"),
        ({"t_max": True}, TypeError, "t_max=True must be a number"),
        ({"t_max": float("nan")}, ValueError, "t_max=nan must be a number"),
        ({"statistic": "exact_sigreg"}, TypeError, r"sigreg.multivariate.exact_sigreg\(z\).mean\(\)"),
        ({"statistic": exact_sigreg}, TypeError, "takes whole embeddings"),
    ],
)
def test_bad_settings_are_named_at_construction(settings, error, says):
    with pytest.raises(error, match=says):
        SIGReg(**settings)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8])
def test_a_step_of_any_integer_dtype_names_the_same_directions(dtype):
    z, sigreg = normal(2, 16, 8), SIGReg(num_slices=8)
    values = [sigreg(z, step=step) for step in range(3)]
    assert len(set(values)) == 3
    assert [sigreg(z, step=torch.tensor(step, dtype=dtype)) for step in range(3)] == values


def test_integers_of_numpy_are_integers():
    z, eight = normal(2, 16, 8), np.int64(8)
    settings = {"num_slices": eight, "seed": np.int64(2**62), "memory": eight, "num_points": np.int32(9)}
    ours, plain = SIGReg(**settings), SIGReg(**{name: int(value) for name, value in settings.items()})
    for step in (np.int64(3), np.uint8(255), None):
        torch.testing.assert_close(ours(z, step=step), plain(z, step=step if step is None else int(step)))
    for draw in (gaussian, orthogonal, sobol, Subspaces(np.int64(2), np.int64(3))):
        drawn, expected = draw(8, 8, seed=np.int64(3), step=np.int64(2**40)), draw(8, 8, seed=3, step=2**40)
        torch.testing.assert_close(drawn, expected, rtol=0, atol=0)
    for name, setting in (("moments", "k_max"), ("vasicek_entropy", "m")):
        torch.testing.assert_close(SIGReg(name, **{setting: np.int64(3)})(z), SIGReg(name, **{setting: 3})(z))
    torch.testing.assert_close(LeJEPALoss()(z, num_global=np.int64(1)), LeJEPALoss()(z, num_global=1))
    SequenceSIGReg(window=np.int64(3))


def test_a_misspelt_setting_is_answered_with_all_that_there_are():
    with pytest.raises(TypeError, match=r"does not take \['slices'\], but grid, num_points, t_max, unb") as e:
        SIGReg(slices=256)
    own = [
        name for name in inspect.signature(SIGReg).parameters if name not in ("statistic", "statistic_kwargs")
    ]
    assert all(name in str(e.value) for name in own)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda z: SIGReg()(z, step=1.5), TypeError, "step=1.5 must be an int"),
        (lambda z: SIGReg()(z, step="1"), TypeError, "step='1' must be an int"),
        (
            lambda z: SIGReg()(z, step=torch.tensor(1.0)),
            TypeError,
            "must be an int or a tensor that holds one",
        ),
        (lambda z: SIGReg()(z, step=True), TypeError, "step=True must be an int"),
        (lambda z: SIGReg(memory=4)([z[0]]), TypeError, "got a list; views .* torch.stack"),
        (
            lambda z: SIGReg(lambda x: 3.0)(z),
            TypeError,
            r"must turn .* into \(..., K\) = \(2, 1024\), got 3.0",
        ),
        (lambda z: LeJEPALoss(lambda_param=None), TypeError, "lambda_param=None must be a number"),
        (lambda z: LeJEPALoss(lambda_param=float("nan")), ValueError, "lambda_param=nan must be a number"),
        (lambda z: LeJEPALoss()(z, num_global=True), TypeError, "num_global must be an int.* got True"),
        (lambda z: SIGReg("moments", k_max=True)(z), TypeError, "k_max=True must be an int"),
        (lambda z: SIGReg("vasicek_entropy", m=True)(z), TypeError, "m=True must be an int"),
        (lambda z: SIGReg(directions=Subspaces(True))(z), TypeError, "number=True must be an int"),
        (lambda z: SIGReg("moments", k_max=4.5)(z), TypeError, "k_max=4.5 must be an int"),
        (lambda z: SIGReg("vasicek_entropy", m=2.5)(z), TypeError, "m=2.5 must be an int"),
        (
            lambda z: SIGReg(torch.var)(z),
            ValueError,
            r"var must turn .* into \(..., K\) = \(2, 1024\), got \(\)",
        ),
        (lambda z: SIGReg(directions=lambda D, K, **_: torch.ones(3, 3))(z), ValueError, r"D = 8 .*\(3, 3\)"),
        (lambda z: SIGReg(directions=Subspaces(0))(z), ValueError, "number=0 must be at least 1"),
        (lambda z: SIGReg(directions=Subspaces(2.0))(z), TypeError, "number=2.0 must be an int"),
        (lambda z: functional.sigreg(z, None), ValueError, "got NoneType"),
        (
            lambda z: functional.sigreg(z, gaussian(8, 4), backend="eagr"),
            ValueError,
            "backend='eagr' is unknown",
        ),
        (
            lambda z: functional.sigreg(z, gaussian(8, 4), statistic="vcreg", backend="triton"),
            ValueError,
            "computes epps_pulley alone",
        ),
        (lambda z: LeJEPALoss()(z, num_global=1.0), TypeError, "num_global must be an int.* got 1.0"),
        (lambda z: LeJEPALoss()(z[0], z[1]), ValueError, r"two views are passed as \[z1, z2\]"),
        (lambda z: LeJEPALoss()(z, z), TypeError, "num_global .* got a tensor .*; views are one argument"),
        (lambda z: SIGReg()(list(z)), TypeError, "got a list; views .* torch.stack"),
        (lambda z: SIGReg()(z.numpy()), TypeError, "got a ndarray; convert it with torch.as_tensor"),
        (lambda z: SIGReg().set_extra_state(torch.zeros(3)), ValueError, r"\[seed, step\]"),
    ],
)
def test_bad_arguments_of_a_call_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call(normal(2, 16, 8))


class Unit(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale * x).square().mean(-2)


@pytest.mark.parametrize("choice", [Unit(), {"epps_pulley": 1.0, Unit(): 0.5}], ids=["alone", "in a mix"])
def test_parameters_of_a_statistic_are_those_of_sigreg(choice) -> None:
    assert len(list(SIGReg(choice).parameters())) == 1

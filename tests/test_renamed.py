"""SIGReg under the names of three hosts: no setting is dropped or given twice; checkpoints are complete."""

import pytest
import torch

import sigreg
from sigreg.univariate import epps_pulley
from sigreg_adapters.stable_pretraining import SlicedEppsPulley
from sigreg_adapters.stable_worldmodel import SIGReg as WorldModelSIGReg
from tests.samples import normal

try:
    from sigreg_adapters.lightly import SIGReg as LightlySIGReg
except ImportError:  # lightly is not installed
    LightlySIGReg = None

# The class, and its names for num_points and num_slices.
HOSTS = {
    "lightly": (LightlySIGReg, "knots", "num_vectors"),
    "stable_pretraining": (SlicedEppsPulley, "n_points", "num_slices"),
    "stable_worldmodel": (WorldModelSIGReg, "knots", "num_proj"),
}


@pytest.fixture(params=HOSTS)
def host(request):
    if HOSTS[request.param][0] is None:
        pytest.skip("lightly is not installed")
    return HOSTS[request.param]


def test_a_named_grid_is_honoured(host):
    cls, z = host[0], normal(24, 16)
    expected = sigreg.SIGReg(grid="accurate").eval()(z)
    torch.testing.assert_close(cls(grid="accurate").eval()(z), expected, rtol=0, atol=0)
    assert float(expected) != float(cls().eval()(z))


@pytest.mark.parametrize("statistic", [{"epps_pulley": 1.0}, epps_pulley], ids=["dict", "callable"])
def test_the_grid_of_the_host_reaches_any_form_of_epps_pulley(host, statistic):
    cls, points, _ = host
    z, grid = normal(24, 16), {points: 33, "t_max": 5.0}
    expected = sigreg.SIGReg(num_points=33, t_max=5.0).eval()(z)
    torch.testing.assert_close(cls(statistic=statistic, **grid).eval()(z), expected)
    torch.testing.assert_close(cls(num_points=33, t_max=5.0).eval()(z), expected, rtol=0, atol=0)
    assert float(expected) != float(cls(**{points: 33}).eval()(z))


def test_a_grid_is_refused_beside_another_statistic_also_where_it_is_the_default(host):
    cls, points, _ = host
    assert cls(statistic="watson")(normal(24, 16)).isfinite()
    with pytest.raises(TypeError, match="num_points"):
        cls(statistic="watson", **{points: 17})


def test_a_setting_under_both_names_is_refused(host):
    cls, points, slices = host
    with pytest.raises(ValueError, match=f"give {points}= or num_points=.* not both"):
        cls(**{points: 17, "num_points": 9})
    if slices != "num_slices":
        with pytest.raises(ValueError, match=f"give {slices}= or num_slices=.* not both"):
            cls(**{slices: 1024, "num_slices": 9})


def test_the_number_of_slices_is_taken_under_either_name(host):
    cls, _, slices = host
    assert getattr(cls(num_slices=8), slices) == cls(**{slices: 8}).num_slices == 8


def test_a_checkpoint_without_the_criterion_is_refused(host):
    with pytest.raises(RuntimeError, match=r"Missing key.*_extra_state"):
        host[0]().load_state_dict({})

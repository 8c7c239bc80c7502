"""The eb_jepa adapter beside a stand-in of its BCS; tests/hosts has the host, when a clone is named."""

import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from sigreg_adapters.eb_jepa import BCS
from tests.host_parity import (
    assert_ranks_equal_one,
    assert_same_value_and_gradient,
    embeddings,
    seeded_by_step,
)
from tests.pool import on_ranks


class StandIn(nn.Module):
    """What the host's class computes on one process: 10 points on [-3, 3], not times N, mse of the views."""

    def __init__(self, num_slices: int = 256, lmbd: float = 10.0) -> None:
        super().__init__()
        self.num_slices, self.lmbd, self.step = num_slices, lmbd, 0

    def forward(self, z1: Tensor, z2: Tensor) -> dict[str, Tensor]:
        A = seeded_by_step(
            z1.shape[1], self.num_slices, seed=0, step=self.step, device=z1.device, dtype=z1.dtype
        )
        self.step += 1
        t = torch.linspace(-3, 3, 10)
        phi = torch.exp(-t * t / 2)
        values = []
        for z in (z1, z2):
            ecf = torch.polar(torch.ones(()), (z @ A)[..., None] * t).mean(0)
            values.append(torch.trapezoid(phi * (ecf - phi).abs().square(), t, dim=-1).mean())
        bcs, mse = (values[0] + values[1]) / 2, (z1 - z2).square().mean()
        return {"loss": mse + self.lmbd * bcs, "bcs_loss": bcs, "invariance_loss": mse}


def build() -> BCS:
    return BCS(num_slices=16)


def loss(criterion: nn.Module, z: Tensor) -> Tensor:
    return criterion(z[0], z[1])["loss"]


@pytest.mark.parametrize("settings", [{}, {"num_slices": 67, "lmbd": 0.5}])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("part", ["loss", "bcs_loss", "invariance_loss"])
def test_every_value_and_gradient_is_the_hosts(settings, scale, part):
    ours = BCS(**settings, directions=seeded_by_step)
    theirs = StandIn(**settings)
    z = embeddings(2, 33, 16, scale=scale)
    assert_same_value_and_gradient(lambda z: ours(*z)[part], lambda z: theirs(*z)[part], z)


def test_the_second_call_takes_the_hosts_next_directions():
    ours, theirs, z = BCS(directions=seeded_by_step), StandIn(), embeddings(2, 33, 16)
    for step in range(3):
        assert ours.step == theirs.step == step
        assert_close(ours(*z)["loss"], theirs(*z)["loss"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("split", [(8, 8), (11, 5)])
def test_two_ranks_equal_one(split):
    assert_ranks_equal_one(build, loss, (2, 16), split, on_ranks)


def test_the_constructor_and_the_call_are_the_hosts():
    ours, theirs = (list(inspect.signature(c).parameters.values()) for c in (BCS, StandIn))
    assert [(p.name, p.default) for p in ours[:2]] == [(p.name, p.default) for p in theirs]
    assert list(inspect.signature(BCS.forward).parameters) == ["self", "z1", "z2"]


def test_lmbd_over_4_N_is_this_librarys_ratio():
    z, N = embeddings(2, 64, 8), 64
    host = BCS(lmbd=10.0, statistic="epps_pulley", directions=seeded_by_step)(*z)["loss"]
    ratio = 10.0 / (4 * N)
    lambda_param = ratio / (1 + ratio)
    criterion = LeJEPALoss(lambda_param, SIGReg(num_slices=256, directions=seeded_by_step))
    assert_close(criterion(list(z)) * 4 * (1 + ratio), host)


def test_views_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match="view 1 has"):
        BCS()(embeddings(8, 4), embeddings(9, 4))


def test_settings_reach_sigreg():
    criterion = BCS(statistic="epps_pulley", seed=3, group=None)
    assert (criterion.sigreg.seed, criterion.sigreg.group) == (3, None)
    z = torch.zeros(64, 16)
    assert_close(criterion(z, z)["bcs_loss"], torch.tensor(0.402048), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["t_max", "num_points", "grid"])
def test_the_hosts_grid_is_fixed_without_a_statistic(name):
    value = {"t_max": 5.0, "num_points": 33, "grid": "accurate"}[name]
    with pytest.raises(ValueError, match=rf'{name}=.* give statistic="epps_pulley"'):
        BCS(**{name: value})
    z = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    expected = SIGReg(num_slices=256, **{name: value})(z) / 64
    assert_close(BCS(statistic="epps_pulley", **{name: value})(*z)["bcs_loss"], expected)


def test_a_memory_is_refused():
    with pytest.raises(ValueError, match=r"memory=256 .* number of samples"):
        BCS(memory=256)


@pytest.mark.parametrize(
    ("lmbd", "error"), [(-1.0, ValueError), (float("nan"), ValueError), ("10", TypeError)]
)
def test_a_weight_that_is_none_is_refused(lmbd, error):
    with pytest.raises(error, match="lmbd="):
        BCS(lmbd=lmbd)

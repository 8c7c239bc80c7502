"""A last batch of one row: hosts go on, and so do the adapters that take the place of their losses."""

import pytest
import torch
from torch import nn

import sigreg
from sigreg_adapters.eb_jepa import BCS
from sigreg_adapters.stable_pretraining import SlicedEppsPulley, lejepa
from sigreg_adapters.stable_worldmodel import SIGReg as WorldModelSIGReg


def views(V: int = 2) -> torch.Tensor:
    return torch.randn(V, 1, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()


def expected(z: torch.Tensor) -> torch.Tensor:
    return sigreg.SIGReg(num_slices=64)(z, torch.ones(1, dtype=torch.bool))


@pytest.mark.parametrize("group", ["auto", None])
def test_a_regularizer_of_one_row(group):
    z = views()
    assert WorldModelSIGReg(num_proj=64, group=group)(z) == expected(z)
    assert SlicedEppsPulley(num_slices=64, group=group)(z[0]) == expected(z[0])


def test_an_objective_of_one_row():
    z = views()
    losses = BCS(num_slices=64)(*z)
    distance = (z[0] - z[1]).square().mean()
    torch.testing.assert_close(losses["invariance_loss"], distance)
    assert losses["loss"].isfinite()


def test_stable_pretrainings_forward_of_one_row():
    module, z = nn.Module(), views()
    module.backbone, module.projector = nn.Flatten(), nn.Identity()
    module.lejepa_loss, module.log_dict = sigreg.LeJEPALoss(), lambda values, **_: None
    out = lejepa(module, {"views": [{"image": view} for view in z]}, "fit")
    assert out["sigreg_loss"] == sigreg.SIGReg()(z, torch.ones(1, dtype=torch.bool))


def test_lightlys_components_of_one_row_are_those_of_its_loss():
    lightly = pytest.importorskip("sigreg_adapters.lightly")
    z, criterion = views(4), lightly.LeJEPALoss().eval()
    calls = ({"views": list(z), "num_global": 2}, {"global_proj": z[:2], "local_proj": z[2:]})
    for method in (criterion.components, criterion.forward_components):
        assert [method(**call).total for call in calls] == [criterion(**call) for call in calls]


def test_lightlys_loss_of_one_row_is_lightlys():
    lightly = pytest.importorskip("lightly.loss")
    if not hasattr(lightly, "LeJEPALoss"):
        pytest.skip("this lightly has no LeJEPALoss")
    from sigreg_adapters.lightly import LeJEPALoss

    z = views(4)
    theirs = lightly.LeJEPALoss(sigreg_num_vectors=4096)(local_proj=z[2:], global_proj=z[:2])
    for ours in (
        LeJEPALoss(sigreg_num_vectors=4096)(local_proj=z[2:], global_proj=z[:2]),
        LeJEPALoss(sigreg_num_vectors=4096)(list(z), num_global=2),
    ):
        # both estimate the mean over all directions, from 4,096 of them
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0)

"""The lightly adapter beside lightly 1.6.0's own classes, with the same directions."""

import lightly.loss
import pytest
import torch
from lightly.loss.lejepa_loss import lejepa_invariance_loss
from test_regularizer import embeddings
from torch import Tensor

from sigreg_adapters.lightly import LeJEPALoss, LeJEPATransform, SIGReg

SHAPES = [(2, 32, 16), (8, 41, 7), (1, 64, 33)]


def with_our_directions(theirs: lightly.loss.SIGReg, ours: SIGReg) -> None:
    def directions(device: torch.device, dtype: torch.dtype, num_features: int) -> Tensor:
        return ours.directions(
            num_features, ours.num_slices, seed=ours.seed, step=ours.step, device=device, dtype=dtype
        )

    theirs._generate_unit_vectors = directions


def assert_same_value_and_gradient(ours, theirs, z: Tensor) -> None:
    results = []
    for loss in (ours, theirs):
        leaf = z.clone().requires_grad_()
        value = loss(leaf)
        (3 * value).backward()
        results.append((value.detach(), leaf.grad))
    (value, grad), (expected, expected_grad) = results
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-5 * float(expected_grad.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid", [(17, 3.0), (9, 4.0), (33, 5.0)])
@pytest.mark.parametrize("scale", [0.05, 1.0, 4.0])
def test_sigreg_equals_lightlys(shape, grid, scale):
    knots, t_max = grid
    ours = SIGReg(knots=knots, t_max=t_max, num_vectors=67).eval()
    theirs = lightly.loss.SIGReg(knots=knots, t_max=t_max, num_vectors=67)
    with_our_directions(theirs, ours)
    assert_same_value_and_gradient(ours, theirs, embeddings(*shape) * scale)


def test_the_loss_equals_lightlys():
    ours, theirs = LeJEPALoss(0.1).eval(), lightly.loss.LeJEPALoss(0.1)
    with_our_directions(theirs.sigreg, ours.sigreg)
    assert_same_value_and_gradient(
        lambda z: ours(global_proj=z[:2], local_proj=z[2:]),
        lambda z: theirs(global_proj=z[:2], local_proj=z[2:]),
        embeddings(6, 24, 16),
    )


def test_the_prediction_equals_lightlys_invariance():
    z = embeddings(6, 24, 16)
    ours = LeJEPALoss().forward_components(global_proj=z[:2], local_proj=z[2:])
    torch.testing.assert_close(ours.prediction, lejepa_invariance_loss(all_proj=z, global_proj=z[:2]))


def test_what_lightly_refuses_works():
    z = embeddings(2, 24, 16)
    criterion = LeJEPALoss().eval()
    torch.testing.assert_close(criterion(list(z)), criterion(global_proj=z))
    torch.testing.assert_close(criterion(global_proj=z, local_proj=None), criterion(z, num_global=2))


def test_both_call_styles_at_once_or_none_is_an_error():
    z = embeddings(2, 24, 16)
    for arguments in ({"views": z, "global_proj": z}, {"views": z, "local_proj": z}, {"local_proj": z}, {}):
        with pytest.raises(ValueError, match="global_proj"):
            LeJEPALoss()(**arguments)


def test_a_checkpoint_of_lightlys_loss_loads():
    ours = LeJEPALoss()
    with pytest.warns(UserWarning, match="no sigreg"):
        ours.load_state_dict(lightly.loss.LeJEPALoss().state_dict())


def test_any_statistic_takes_the_place_of_epps_pulley():
    assert LeJEPALoss(statistic="cramer_von_mises")(embeddings(2, 24, 16)).isfinite()


def test_sigreg_is_one_line_beside_another_loss():
    z = embeddings(2, 24, 16).requires_grad_()
    loss = lightly.loss.NTXentLoss()(*z) + 0.05 * SIGReg(num_vectors=64)(z)
    loss.backward()
    assert z.grad.isfinite().all()


def test_the_transform_gives_globals_first():
    from PIL import Image

    views = LeJEPATransform(3, 2, global_crop_size=24, local_crop_size=12)(Image.new("RGB", (40, 40)))
    assert [view.shape[-1] for view in views] == [24, 24, 24, 12, 12]
    with pytest.raises(ValueError, match="global view"):
        LeJEPATransform(0, 2)

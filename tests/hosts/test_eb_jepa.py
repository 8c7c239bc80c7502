"""The adapter beside eb_jepa's own BCS: EB_JEPA_SOURCE names a clone, which is not on PyPI."""

import os
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from sigreg_adapters.eb_jepa import BCS
from tests.host_parity import assert_same_value_and_gradient, embeddings, on_this_rank, seeded_by_step
from tests.pool import on_ranks

SOURCE = os.environ.get("EB_JEPA_SOURCE")
pytestmark = pytest.mark.skipif(not SOURCE, reason="EB_JEPA_SOURCE names no clone of eb_jepa")
if SOURCE:
    sys.path.insert(0, SOURCE)
    import eb_jepa.losses as host


@pytest.mark.parametrize("settings", [{}, {"num_slices": 67, "lmbd": 0.5}])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("part", ["loss", "bcs_loss", "invariance_loss"])
def test_every_value_and_gradient_is_the_hosts(settings, scale, part):
    ours, theirs = BCS(**settings, directions=seeded_by_step), host.BCS(**settings)
    z = embeddings(2, 33, 16, scale=scale)
    assert_same_value_and_gradient(lambda z: ours(*z)[part], lambda z: theirs(*z)[part], z)


def build_ours() -> nn.Module:
    return BCS(num_slices=16, lmbd=1e3, directions=seeded_by_step)


def build_hosts() -> nn.Module:
    sys.path.insert(0, str(SOURCE))
    import eb_jepa.losses

    return eb_jepa.losses.BCS(num_slices=16, lmbd=1e3)


def call(criterion: nn.Module, z: Tensor) -> Tensor:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about a reduction without autograd
        return criterion(z[0].float(), z[1].float())["bcs_loss"].double()


def test_the_hosts_gradient_is_half_of_ours_on_two_ranks():
    """Why one would change the import: remove this test when the host reduces with autograd."""
    ours = on_ranks(2, on_this_rank, build_ours, call, (2, 16), (8, 8))
    theirs = on_ranks(2, on_this_rank_quietly, build_hosts, call, (2, 16), (8, 8))
    assert_close(theirs[0][0], ours[0][0], rtol=1e-5, atol=0)
    assert_close(2 * theirs[0][1], ours[0][1], rtol=0, atol=1e-5 * float(ours[0][1].abs().max()))


def on_this_rank_quietly(*args):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return on_this_rank(*args)


def test_the_hosts_loop_reads_it():
    """Its trainer adds "loss" to another one and logs every entry by `.item()`."""
    z = embeddings(2, 16, 8).requires_grad_()
    losses = BCS()(*z)
    (losses["loss"] + z.square().mean()).backward()
    assert {name: type(value.item()) for name, value in losses.items()} == dict.fromkeys(losses, float)
    assert torch.isfinite(z.grad).all()

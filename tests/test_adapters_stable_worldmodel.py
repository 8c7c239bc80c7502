"""The stable-worldmodel adapter beside a stand-in of the host's class; tests/hosts has the host itself."""

import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from sigreg_adapters.stable_worldmodel import SIGReg
from tests.host_parity import (
    assert_ranks_equal_one,
    assert_same_value_and_gradient,
    embeddings,
    from_the_global_generator,
)
from tests.pool import on_ranks


class StandIn(nn.Module):
    """What the host's class computes, from its contract: (T, B, D), times B, mean over T and slices."""

    def __init__(self, knots: int = 17, num_proj: int = 1024) -> None:
        super().__init__()
        self.num_proj = num_proj
        t = torch.linspace(0, 3, knots)
        step = torch.full((knots,), 6 / (knots - 1))
        step[0] = step[-1] = 3 / (knots - 1)
        self.register_buffer("t", t)
        self.register_buffer("phi", torch.exp(-t * t / 2))
        self.register_buffer("weights", step * self.phi)

    def forward(self, proj: Tensor) -> Tensor:
        A = from_the_global_generator(
            proj.shape[-1], self.num_proj, seed=0, step=0, device=proj.device, dtype=proj.dtype
        )
        ecf = torch.polar(torch.ones(()), (proj @ A)[..., None] * self.t).mean(1)  # (T, K, knots)
        return proj.shape[1] * ((ecf - self.phi).abs().square() * self.weights).sum(-1).mean()


def build() -> SIGReg:
    return SIGReg(num_proj=16)


def per_time_step(criterion: nn.Module, emb: Tensor) -> Tensor:
    return criterion(emb)


@pytest.mark.parametrize("settings", [{}, {"knots": 9, "num_proj": 67}])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_value_and_gradient_are_the_hosts(settings, scale):
    ours = SIGReg(**settings, directions=from_the_global_generator)
    assert_same_value_and_gradient(ours, StandIn(**settings), embeddings(4, 33, 16, scale=scale))


@pytest.mark.parametrize("split", [(8, 8), (11, 5)])
def test_two_ranks_equal_one(split):
    assert_ranks_equal_one(build, per_time_step, (3, 16), split, on_ranks)


def test_the_constructor_is_the_hosts():
    ours, theirs = (list(inspect.signature(c).parameters.values()) for c in (SIGReg, StandIn))
    assert [(p.name, p.default) for p in ours[:2]] == [(p.name, p.default) for p in theirs]
    assert list(inspect.signature(SIGReg.forward).parameters)[1] == "proj"


def test_a_checkpoint_of_the_hosts_class_loads():
    ours = nn.ModuleDict({"sigreg": SIGReg()})
    with pytest.warns(UserWarning, match=r"stable-worldmodel's class and has no sigreg\._extra_state"):
        ours.load_state_dict(nn.ModuleDict({"sigreg": StandIn()}).state_dict())


def test_a_checkpoint_of_ours_resumes_the_directions():
    first, z = SIGReg(num_proj=8), embeddings(2, 16, 5)
    first(z)
    second = SIGReg(num_proj=8)
    second.load_state_dict(first.state_dict())
    assert_close(second(z), first(z), rtol=0, atol=0)


def test_padded_steps_do_not_count():
    z, valid = embeddings(3, 20, 5), torch.rand(3, 20) > 0.3
    rows = torch.stack([SIGReg(num_proj=8)(z[t][valid[t]], step=0) for t in range(3)])
    assert_close(SIGReg(num_proj=8)(z, valid), rows.mean())


def test_a_last_batch_of_one_sequence_is_accepted_as_by_the_host():
    z = torch.randn(4, 1, 16)
    assert_close(SIGReg(num_proj=32, seed=1)(z), SIGReg(num_proj=32, seed=1)(z, torch.ones(4, 1)))

"""Second derivatives over ranks, and copies of a module that has a process group."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing import assert_close

from sigreg import SIGReg
from sigreg.directions import gaussian
from sigreg.functional import sigreg
from tests.pool import on_ranks

SPLIT = (4, 7)
STATISTICS = ("epps_pulley", "moments", "vcreg", "cramer_von_mises")


def batch(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, sum(SPLIT), 5, dtype=torch.float64, generator=generator)


def hessian_vector_product(z: Tensor, v: Tensor, statistic: str, group: str | None) -> Tensor:
    z = z.clone().requires_grad_()
    value = sigreg(z, gaussian(5, 6, dtype=torch.float64), statistic=statistic, group=group)
    (gradient,) = torch.autograd.grad(value, z, create_graph=True)
    return torch.autograd.grad((gradient * v).sum(), z)[0]


def product_of_a_rank(statistic: str) -> Tensor:
    z, v = (x.split(SPLIT, dim=1)[dist.get_rank()] for x in (batch(0), batch(1)))
    return hessian_vector_product(z, v, statistic, "auto") / len(SPLIT)  # DDP's mean over ranks


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_hessian_vector_product_is_that_of_one_process(statistic):
    expected = hessian_vector_product(batch(0), batch(1), statistic, None)
    assert_close(torch.cat(on_ranks(2, product_of_a_rank, statistic), dim=1), expected, rtol=1e-9, atol=1e-12)


def copied() -> list[bool]:
    ours = SIGReg(num_slices=8, group=dist.group.WORLD)
    model = torch.optim.swa_utils.AveragedModel(torch.nn.Sequential(torch.nn.Linear(4, 4), ours))
    theirs = copy.deepcopy(ours)
    z = batch(0).split(SPLIT, dim=1)[dist.get_rank()]
    same = [ours.group is c.group for c in (theirs, model.module[1])]
    return [*same, bool(ours(z) == theirs(z)), theirs.step is not ours.step, len(theirs.state_dict()) == 1]


def test_a_copy_shares_the_process_group_and_nothing_else():
    for facts in on_ranks(2, copied):
        assert facts == [True] * 5

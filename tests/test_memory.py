"""SIGReg's memory: rows of earlier batches beside the present one."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from sigreg import SIGReg
from tests.samples import normal64 as normal


def state(sigreg: SIGReg) -> list[int]:
    return sigreg.state_dict()["_extra_state"].tolist()


def test_the_memory_stands_beside_the_batch_without_gradient() -> None:
    ours, plain = SIGReg(num_slices=8, memory=20), SIGReg(num_slices=8)
    batches = [normal(2, 8, 4, seed=i) for i in range(5)]
    for step, batch in enumerate(batches):
        z = batch.clone().requires_grad_()
        value = ours(z)
        seen = torch.cat([torch.cat([normal(2, 0, 4), *batches[:step]], dim=1)[:, -20:], z], dim=1)
        expected = plain(seen)
        assert_close(value, expected)
        assert_close(torch.autograd.grad(value, z), torch.autograd.grad(expected, z))


@pytest.mark.parametrize("statistic", ["epps_pulley", "vcreg", "watson", "vasicek_entropy"])
def test_masked_rows_take_no_place_in_the_memory(statistic) -> None:
    ours, plain = (SIGReg(statistic, num_slices=8, memory=10) for _ in range(2))
    for step in range(4):
        z, mask = normal(8, 4, seed=step), torch.rand(8, generator=torch.Generator().manual_seed(step)) < 0.6
        masked = torch.where(mask[:, None], z, torch.nan)
        assert_close(ours(masked, mask), plain(z[mask], torch.ones(int(mask.sum()), dtype=torch.bool)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_leaves_none_of_its_bad_rows_in_the_memory(bad) -> None:
    """So that a GradScaler skips one step, rather than every step until the memory is full again."""
    ours, plain = SIGReg(num_slices=8, memory=10), SIGReg(num_slices=8)
    first, second = normal(4, 4), normal(4, 4, seed=1)
    broken = first.clone()
    broken[1, 2] = bad
    assert not ours(broken).isfinite()
    assert_close(ours(second), plain(torch.cat([first[[0, 2, 3]], second]), step=1))


def test_the_memory_is_in_the_state_dict_and_can_be_reset() -> None:
    ours, other = SIGReg(num_slices=8, memory=10), SIGReg(num_slices=8, memory=10, seed=9)
    assert not [key for key in ours.state_dict() if "memory" in key]  # empty at the start
    for step in range(3):
        ours(normal(4, 4, seed=step))
    other.load_state_dict(ours.state_dict())
    z = normal(4, 4, seed=9)
    assert_close(other(z), ours(z), rtol=0, atol=0)
    ours.reset_memory()
    assert_close(ours(z, step=0), SIGReg(num_slices=8)(z, step=0))
    other.load_state_dict(ours.state_dict())
    assert_close(other(z, step=0), ours(z, step=0))


def test_a_call_that_does_not_advance_leaves_the_memory_empty() -> None:
    ours, plain = SIGReg(num_slices=8, memory=10), SIGReg(num_slices=8)
    z, other = normal(8, 4), normal(2, 8, 4)
    calls = [
        lambda: ours.eval()(z),
        lambda: ours.train()(z, step=0),
        lambda: torch.func.grad(lambda z: ours(z, step=0))(z),
        lambda: torch.func.vmap(lambda z: ours(z, step=0))(other),
    ]
    for call in calls:
        call()
        assert [key for key in ours.state_dict() if "memory" in key] == []
    copy.deepcopy(ours)
    torch.save(ours.state_dict(), io.BytesIO())
    assert_close(ours(other), plain(other))  # other views than those of the calls before


def test_a_call_that_fails_leaves_step_and_memory_alone() -> None:
    def fails_on_demand(x: Tensor, weights: Tensor | None = None) -> Tensor:
        if x.shape[-2] == 13:
            raise MemoryError
        return x.square().mean(-2)

    ours, plain = (SIGReg(fails_on_demand, num_slices=8, memory=10) for _ in range(2))
    batches = [normal(2, 4, 4, seed=i) for i in range(2)]
    ours(batches[0])
    plain(batches[0])
    with pytest.raises(ValueError, match="reset_memory"):
        ours(normal(3, 4, 4))
    assert state(ours) == state(plain) == [0, 1]
    with pytest.raises(MemoryError):
        ours(normal(2, 3, 4))
    assert_close(ours(batches[1], step=1), plain(batches[1], step=1), rtol=0, atol=0)


def test_weights_that_a_memory_holds_are_handed_on_as_weights() -> None:
    given = []

    def statistic(x: Tensor, weights: Tensor) -> Tensor:
        given.append(weights)
        return x.square().mean(-2)

    ours, other = (SIGReg(statistic, num_slices=8, memory=4) for _ in range(2))
    ours(normal(4, 4))
    assert given[-1].dtype == torch.bool
    assert given[-1].tolist() == [True] * 4 + [False] * 4
    w = torch.tensor([0.5, 0.25, 1.0, 1.0])
    ours(normal(4, 4), w)
    other.load_state_dict(ours.state_dict())
    for module in (ours, other):
        module(normal(4, 4))
        assert_close(given[-1], torch.tensor([1.0] * 4 + w.tolist()).double(), rtol=0, atol=0)


def test_a_single_sample_is_enough_beside_a_memory() -> None:
    ours = SIGReg(num_slices=8, memory=10)
    for step in range(3):
        assert ours(normal(1, 4, seed=step)).isfinite()


def test_evaluation_reads_the_memory_and_stores_nothing() -> None:
    ours = SIGReg(num_slices=8, memory=10)
    ours(normal(4, 4))
    ours.eval()
    assert len({float(ours(normal(4, 4, seed=1))) for _ in range(3)}) == 1


def test_other_views_than_the_memory_s_are_refused() -> None:
    ours = SIGReg(num_slices=8, memory=10)
    ours(normal(2, 4, 4))
    with pytest.raises(ValueError, match=r"call reset_memory\(\) first"):
        ours(normal(3, 4, 4))


def test_a_compiled_module_with_a_memory_gives_the_values_of_a_plain_one() -> None:
    torch._dynamo.reset()
    ours, plain = (SIGReg(num_slices=8, memory=10) for _ in range(2))
    compiled = torch.compile(ours, backend="eager")
    for step in range(4):
        z = normal(2, 4, 4, seed=step)
        assert_close(compiled(z), plain(z))


def test_a_memory_that_was_filled_on_the_meta_device_starts_empty() -> None:
    with torch.device("meta"):
        ours = SIGReg(num_slices=8, memory=10)
    ours(torch.empty(4, 4, device="meta"))
    ours.to_empty(device="cpu")
    assert_close(ours(normal(8, 4), step=0), SIGReg(num_slices=8)(normal(8, 4), step=0))


def test_a_memory_follows_its_embeddings_in_precision() -> None:
    ours, plain = SIGReg(num_slices=8, memory=10), SIGReg(num_slices=8)
    first, second = normal(4, 4), normal(4, 4, seed=1)
    ours(first.float())
    assert_close(ours(second, step=0), plain(torch.cat([second, first.float().double()]), step=0))


def test_a_memory_that_has_moved_on_cannot_be_computed_again() -> None:
    ours = SIGReg(num_slices=8, memory=10)
    z = normal(8, 4).requires_grad_()
    value = checkpoint(ours, z, use_reentrant=False)
    with pytest.raises(RuntimeError, match="memory has moved on"):
        value.backward()

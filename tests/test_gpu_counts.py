"""What the default costs on a GPU, counted on tensors without data."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from sigreg import SIGReg
from tests.kernel_count import KernelCount, count

SHAPES = [(8, 256, 64), (10, 512, 512)]
K = 1024


def embeddings(shape: tuple[int, ...], device: str) -> torch.Tensor:
    return torch.empty(shape, device=device, requires_grad=True)


def mask_like(z: torch.Tensor) -> torch.Tensor:
    return torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient_take_at_most_128_launches(shape) -> None:
    z = embeddings(shape, "meta")  # takes the path of a GPU, and autograd accepts it
    assert count(SIGReg(num_slices=K).to("meta"), z).total <= 128


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_nothing_is_copied_from_the_host_or_read_by_it(shape, masked) -> None:
    with FakeTensorMode():
        z, sigreg = embeddings(shape, "cuda"), SIGReg(num_slices=K).cuda()
        counted = count(sigreg, z, *([mask_like(z)] if masked else []))
    assert counted.total > 50
    assert counted.transfers == []


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_mask_adds_at_most_25_launches(shape) -> None:
    z, sigreg = embeddings(shape, "meta"), SIGReg(num_slices=K).to("meta")
    assert count(sigreg, z).total < count(sigreg, z, mask_like(z)).total <= count(sigreg, z).total + 25


def test_the_count_sees_a_copy_from_the_host() -> None:
    with FakeTensorMode(), KernelCount() as counted:
        torch.tensor([1.0, 2.0]).to("cuda")
    assert len(counted.transfers) == 1


def test_what_a_kernel_repeats_is_read_once() -> None:
    row = torch.empty(1, 8)
    with KernelCount() as counted:
        row.expand(100, 8) + torch.empty(100, 1)  # reads 8 and 100 numbers, writes 800
    assert counted.bytes == 4 * (8 + 100 + 800)


def lightly(z: torch.Tensor) -> KernelCount:
    losses = pytest.importorskip("lightly.loss.lejepa_loss")
    return count(losses.SIGReg(num_vectors=K).to("meta"), z)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_half_of_lightly_s_bytes_and_a_third_of_its_memory(shape) -> None:
    z = embeddings(shape, "meta")
    ours, theirs = count(SIGReg(num_slices=K).to("meta"), z), lightly(z)
    assert ours.bytes <= theirs.bytes / 2
    assert ours.peak <= theirs.peak / 3

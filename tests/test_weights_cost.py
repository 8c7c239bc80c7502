"""What weights and masks cost: no wait of the host on a GPU, and at most a quarter more time."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from sigreg import LeJEPALoss, SIGReg
from sigreg.objective import NextEmbeddingLoss
from tests.kernel_count import count
from tests.samples import mask_of


@pytest.mark.parametrize("kind", ["mask", "floats"])
@pytest.mark.parametrize("which", ["SIGReg", "LeJEPALoss", "NextEmbeddingLoss", "memory"])
def test_weights_on_a_gpu_make_the_host_wait_for_nothing(which: str, kind: str) -> None:
    """On tensors without data, where boolean indexing and reads by the host are errors."""
    with FakeTensorMode():
        z = torch.empty(8, 16, 6, device="cuda", requires_grad=True)
        w = torch.empty(8, 16, device="cuda", dtype=torch.bool if kind == "mask" else torch.float32)
        inner = SIGReg(num_slices=8, memory=16 if which == "memory" else 0)
        module, arguments = {
            "LeJEPALoss": (LeJEPALoss(sigreg=inner), (None, w)),
            "NextEmbeddingLoss": (NextEmbeddingLoss(sigreg=inner), (torch.tanh, None, w)),
        }.get(which, (inner, (w,)))
        counted = count(module.cuda(), z, *arguments)
        assert counted.transfers == []
        assert counted.total > 50


def seconds_of(criterion: SIGReg, z: Tensor, *weights: Tensor) -> float:
    start = time.perf_counter()
    criterion(z, *weights).backward()
    return time.perf_counter() - start


@pytest.mark.long
@pytest.mark.parametrize("backend_name", ["eager", "inductor"])
def test_a_mask_takes_at_most_a_quarter_more_time(backend_name: str) -> None:
    criterion = SIGReg(num_slices=512, backend=backend_name)
    z, mask = torch.randn(4, 256, 64, requires_grad=True), mask_of(4, 256)
    rounds = [(seconds_of(criterion, z), seconds_of(criterion, z, mask)) for _ in range(22)][2:]
    plain, masked = (min(times) for times in zip(*rounds, strict=True))
    print(f"{backend_name}: {1e3 * plain:.1f} ms, with a mask {1e3 * masked:.1f} ms: {masked / plain:.2f}")
    assert masked < 1.25 * plain

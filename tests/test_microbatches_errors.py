"""What `backward` refuses, and what it cannot find by itself: modules, random states, lazy layers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from sigreg import SIGReg, replay
from sigreg.microbatches import backward
from tests.distributed_problem import WIDTH, error_of, gradients
from tests.microbatch_problem import EXACT, batch, network


def restless() -> Any:
    generator = torch.Generator().manual_seed(0)
    return lambda part: part * torch.randn(part.shape, generator=generator, dtype=part.dtype)


def growing() -> Any:
    calls = []
    return lambda part: (calls.append(0), part[:, : 1 + len(calls)])[1]


@pytest.mark.parametrize(
    ("criterion", "encode", "split", "message"),
    [
        (SIGReg(), network(), None, r"TypeError: parts is one tensor .*parts.split\(32\)"),
        (SIGReg(), network(), [], "ValueError: there are no parts"),
        (SIGReg(), growing(), [4], r"RuntimeError: .*\(2, 2, 5\).* and \[\(2, 3, 5\)\] in the second pass"),
        (SIGReg(), restless(), [4, 4], "RuntimeError: embeddings moved by .*global generators"),
        (SIGReg(), lambda part: network()(part).detach(), [4], "RuntimeError: .*part 0 requires no gradient"),
        (SIGReg(), lambda part: part[0].detach(), [4], "RuntimeError: .*part 0 requires no gradient"),
        (SIGReg(), lambda part: "z", [4], "TypeError: encode returned str"),
        (SIGReg(), lambda part: part.mean(), [4], r"TypeError: encode returned \(\) of torch.float64"),
        (SIGReg(), lambda part: [], [4], "TypeError: encode returned an empty list"),
        (SIGReg(), lambda part: part[: part.shape[1]], [1, 4], r"ValueError: .*only n may differ"),
        (lambda z: z, network(), [4, 4], r"ValueError: .*loss has the shape \(2, 8, 4\)"),
        (lambda z: 3.0, network(), [4, 4], "TypeError: the criterion returned float"),
        (lambda z: {"total": z.sum()}, network(), [4], 'TypeError: the criterion returned dict.*"loss"'),
        (lambda z: z.detach().sum(), network(), [4], "RuntimeError: .*requires no gradient"),
        (lambda z: LEAF.sum(), network(), [4], "RuntimeError: .*does not depend on the embeddings"),
    ],
)
def test_bad_input_is_an_error_that_says_what_came(criterion, encode, split, message):
    x = batch(2, 12).requires_grad_()
    parts = x if split is None else x[:, : sum(split)].split(split, dim=1) if split else []
    assert re.match(message, error_of(backward, criterion, encode, parts))


LEAF = torch.ones(2, requires_grad=True)


def test_modules_inside_of_a_compiled_function_must_be_named():
    whole, parted, x = network(nn.BatchNorm1d), network(nn.BatchNorm1d), batch(1, 12)[0]
    encode = torch.compile(lambda part: parted(part), backend="eager")
    parts = x.split(6)
    error = error_of(backward, SIGReg(num_slices=8), encode, parts)
    assert "name the modules, as in modules=" in error
    parted.load_state_dict(whole.state_dict())
    parted.zero_grad()
    backward(SIGReg(num_slices=8), encode, parts, modules=[parted])
    SIGReg(num_slices=8)(torch.cat([whole(part) for part in parts])).backward()
    assert_close(gradients(parted), gradients(whole), **EXACT)
    assert_close(parted.state_dict(), whole.state_dict())


def test_a_parameter_of_no_module_is_allowed_where_it_is_said():
    W, x = nn.Parameter(torch.randn(WIDTH, 4).double()), batch(1, 12)[0]
    backward(SIGReg(num_slices=8), lambda part: part @ W, x.split(5), modules=[])
    gradient = W.grad.clone()
    W.grad = None
    SIGReg(num_slices=8)(x @ W).backward()
    assert_close(gradient, W.grad, **EXACT)


def test_a_batchnorm_that_is_no_child_of_the_encoder_moves_once():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.others = nn.Linear(4, 8), [nn.BatchNorm1d(8, affine=False)]

        def forward(self, x: Tensor) -> Tensor:
            return self.others[0](self.layer(x))

    encoder = Encoder()
    backward(SIGReg(num_slices=8), encoder, [torch.randn(8, 4) for _ in range(4)])
    assert int(encoder.others[0].num_batches_tracked) == 4


def test_a_lazy_module_is_told_to_run_once_before():
    net = nn.Sequential(nn.Linear(4, 8), nn.LazyBatchNorm1d())
    with pytest.raises(ValueError, match="LazyBatchNorm1d has no shape yet; run the encoder once before"):
        backward(SIGReg(num_slices=8), net, [torch.randn(8, 4) for _ in range(2)])


def test_the_random_state_of_every_kind_of_gpu_is_replayed(monkeypatch):
    """No GPU is here: only what would be asked of torch is checked."""
    asked = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "mps")
    monkeypatch.setattr(torch.mps, "set_rng_state", asked.append)
    for kind in (torch.cuda, torch.xpu):
        monkeypatch.setattr(kind, "is_initialized", lambda: True)
        monkeypatch.setattr(kind, "get_rng_state_all", lambda kind=kind: kind.__name__)
        monkeypatch.setattr(kind, "set_rng_state_all", asked.append)
    replay.set_random_state(replay.random_state())
    assert asked == ["torch.cuda", "torch.xpu", "mps"]

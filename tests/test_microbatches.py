"""A batch in parts is one batch: `microbatches.backward` leaves what the step on the whole batch leaves."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, UserDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from sigreg.microbatches import backward
from sigreg.multivariate import exact_sigreg
from tests.distributed_problem import WIDTH, gradients
from tests.microbatch_problem import EXACT, batch, network


def views(model: nn.Module, x: Tensor) -> list[Tensor]:
    return [model(view) for view in x]


def joined(model: nn.Module, parts: Any) -> list[Tensor]:
    """The views of all parts with their graphs: what the memory of one part does not hold."""
    return [torch.cat(of_view) for of_view in zip(*(views(model, part) for part in parts), strict=True)]


def two_terms(z: list[Tensor]) -> dict[str, Tensor]:
    """A host's loss with SIGReg beside it."""
    pairs = torch.nn.functional.cross_entropy(z[0] @ z[-1].T, torch.arange(len(z[0])))
    sigreg = SIGReg("moments", num_slices=8)(torch.stack(z))
    return {"sigreg": sigreg, "loss": pairs + 0.1 * sigreg}


CRITERIA = {
    "lejepa": LeJEPALoss(0.3, SIGReg(num_slices=8)).eval(),
    "order": LeJEPALoss(0.3, SIGReg("watson", num_slices=8)).eval(),
    "exact": lambda z: exact_sigreg(torch.stack(z)).mean(),
    "two terms": two_terms,
}
splits = st.lists(st.integers(1, 6), min_size=1, max_size=5).filter(lambda split: sum(split) > 1)


def loss_of(result: Any) -> Tensor:
    return result["loss"] if isinstance(result, dict) else result


@settings(max_examples=40)
@given(split=splits, V=st.integers(1, 3), name=st.sampled_from(sorted(CRITERIA)), seed=st.integers(0, 999))
def test_gradients_of_any_split_are_those_of_the_unsplit_batch(split, V, name, seed):
    x, criterion = batch(V, sum(split), seed), CRITERIA[name]
    whole, parted = network(), network()
    expected = loss_of(criterion(views(whole, x)))
    expected.backward()
    result = backward(criterion, functools.partial(views, parted), x.split(split, dim=1))
    assert_close(loss_of(result), expected.detach(), **EXACT)
    assert not loss_of(result).requires_grad
    assert_close(gradients(parted), gradients(whole), **EXACT)


@given(split=splits, seed=st.integers(0, 999))
def test_with_batchnorm_and_dropout_it_is_the_batch_whose_parts_were_encoded_one_by_one(split, seed):
    split = [n + 1 for n in split]  # BatchNorm takes no sample of one
    parts = batch(2, sum(split), seed).split(split, dim=1)
    results = []
    for ours in (False, True):
        model, criterion = network(nn.BatchNorm1d, dropout=0.4), LeJEPALoss(0.3, SIGReg(num_slices=8))
        torch.manual_seed(seed)
        if ours:
            backward(criterion, lambda part: views(model, part), parts)  # noqa: B023
        else:
            criterion(joined(model, parts)).backward()
        state = {**model.state_dict(), **criterion.state_dict()}
        results.append((gradients(model), state, torch.rand(3)))
    assert_close(results[1], results[0], **EXACT)


def test_the_mean_of_microbatches_is_another_objective():
    """One draw of docs/accumulation.md: z = 0.8 N(0, I), N = 256, D = 64; there the mean ratio is 4.2."""
    z = 0.8 * torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    sigreg = SIGReg().eval()
    whole, mean = sigreg(z), torch.stack([sigreg(part) for part in z.split(32)]).mean()
    assert whole > 3 * mean
    assert_close(backward(sigreg, nn.Identity(), [p.requires_grad_() for p in z.split(32)]), whole)


def test_gradients_add_to_those_that_are_there_and_clipping_comes_after():
    model, x = network(), batch(2, 12)
    criterion = LeJEPALoss(sigreg=SIGReg(num_slices=8)).eval()
    backward(criterion, model, x.split(4, dim=1))
    once = gradients(model)
    backward(criterion, model, x.split(5, dim=1))
    assert_close(gradients(model), 2 * once, **EXACT)
    assert_close(nn.utils.clip_grad_norm_(model.parameters(), 0.1), 2 * once.norm())


def test_the_components_of_the_loss_come_back_for_logging():
    model, x = network(), batch(2, 12)
    loss = LeJEPALoss(sigreg=SIGReg(num_slices=8)).eval()
    result = backward(loss.components, model, x.split(4, dim=1))
    assert type(result) is type(loss.components(x))
    assert_close(result, type(result)(*(part.detach() for part in loss.components(model(x)))), **EXACT)
    assert result.total.grad_fn is None


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict, type("Output", (dict,), {})])
def test_a_result_of_any_kind_of_dict_comes_back_without_its_graph(kind):
    result = backward(lambda z: kind(loss=z.square().mean(), parts=[z.mean()]), network(), [batch(1, 8)[0]])
    assert type(result) is kind
    assert not result["loss"].requires_grad
    assert not result["parts"][0].requires_grad


def test_crops_of_several_sizes_are_views_like_any_other():
    torch.manual_seed(0)
    crops = [torch.randn(12, 1, size, size).double() for size in (8, 8, 4)]
    results = []
    for ours in (False, True):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(1, 5, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
        criterion = functools.partial(LeJEPALoss(sigreg=SIGReg(num_slices=8)), num_global=2)
        if ours:
            parts = [[crop[rows] for crop in crops] for rows in (slice(0, 5), slice(5, 12))]
            backward(criterion, lambda part: [net(crop) for crop in part], parts)  # noqa: B023
        else:
            criterion([net(crop) for crop in crops]).backward()
        results.append(gradients(net))
    assert_close(results[1], results[0], **EXACT)


def test_the_criterion_may_take_weights_that_the_parts_carry():
    x, mask = batch(2, 12), torch.arange(12) % 3 > 0
    loss = LeJEPALoss(sigreg=SIGReg(num_slices=8)).eval()
    whole, parted = network(), network()
    loss(whole(x), weights=mask).backward()
    parts = list(zip(x.split(5, dim=1), mask.split(5), strict=True))
    weights = torch.cat([w for _, w in parts])
    backward(lambda z: loss(z, weights=weights), lambda part: parted(part[0]), parts)
    assert_close(gradients(parted), gradients(whole), **EXACT)


def test_the_memory_and_the_step_of_sigreg_move_once():
    sigreg = SIGReg(num_slices=8, memory=6)
    backward(sigreg, network(), batch(1, 12).split(3, dim=1))
    assert int(sigreg.step) == 1
    assert sigreg.memory.rows.shape[-2] == 6


class Counting(nn.Module):
    """An encoder with a buffer that is None at first and one that its forward pass replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 4).double()
        self.register_buffer("seen", None)
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach().sum() + (0.0 if self.seen is None else self.seen)
        self.total = self.total + 1
        return self.layer(x)


def test_buffers_move_once_also_those_that_are_replaced():
    model, x = Counting(), batch(1, 12)
    backward(SIGReg(num_slices=8), lambda part: model(part), x.split(3, dim=1))
    assert_close(model.seen, x.sum())
    assert float(model.total) == 4


class Cached(nn.Module):
    """It counts its calls, keeps a cache by length, as rotary embeddings do, and has an expanded buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 4).double()
        self.register_buffer("mask", torch.ones(1).double().expand(4))
        self.calls, self.length = 0, 2
        self.register_buffer("scale", torch.ones(2).double())

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if x.shape[-2] > self.length:
            self.length = x.shape[-2]
            self.scale = 1 / torch.arange(1, self.length + 1, dtype=torch.float64)
            self.known = True
        return self.layer(x) * self.mask * self.scale[: x.shape[-2], None] * self.calls


def test_attributes_of_the_modules_go_back_with_their_buffers():
    x, models, criterion = batch(1, 12), (Cached(), Cached()), SIGReg(num_slices=8).eval()
    models[1].layer.load_state_dict(models[0].layer.state_dict())
    criterion(torch.cat([models[0](part) for part in x.split(3, dim=1)], dim=1)).backward()
    backward(criterion, models[1], x.split(3, dim=1))
    assert_close(gradients(models[1]), gradients(models[0]), **EXACT)
    assert (models[1].calls, models[1].length, models[1].known) == (4, 3, True)
    assert_close(models[1].scale, models[0].scale)


def test_a_graph_that_was_built_before_is_still_valid():
    model, x = network(nn.BatchNorm1d).eval(), batch(1, 12)
    earlier = model(x[0]).square().mean()
    backward(SIGReg(num_slices=8), lambda part: model(part[0]), x.split(3, dim=1))
    earlier.backward()


def test_a_view_of_a_frozen_network_takes_no_gradient():
    online, target, x = network(), network(nn.BatchNorm1d), batch(1, 12)[0]
    before = copy.deepcopy(target.state_dict())
    target.eval()

    def encode(part: Tensor) -> list[Tensor]:
        with torch.no_grad():
            frozen = target(part)
        return [online(part), frozen]

    backward(lambda z: (z[0] - z[1]).square().mean(), encode, x.split(5))
    whole = network()
    (whole(x) - target(x)).square().mean().backward(inputs=list(whole.parameters()))
    assert_close(gradients(online), gradients(whole), **EXACT)
    assert_close(target.state_dict(), before)


# Half precision


def test_under_autocast_it_is_the_step_under_autocast():
    x = batch(2, 24).float()
    results = []
    for ours in (False, True):
        model, criterion = network().float(), LeJEPALoss(sigreg=SIGReg(num_slices=8))
        parts = x.split(10, dim=1)
        with torch.autocast("cpu", torch.bfloat16):
            if ours:
                backward(criterion, model, parts)
            else:
                loss = criterion(torch.cat([model(part) for part in parts], dim=-2))
        if not ours:
            loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        results.append(gradients(model))
    # Parts are added in another order, each rounded to bfloat16 (eps 2^-8) as it leaves its matrix product.
    scale = float(results[0].abs().max())
    assert_close(results[1], results[0], rtol=0, atol=2**-8 * scale)


def test_a_grad_scaler_scales_the_gradients_but_not_the_loss():
    model, x = network().float(), batch(2, 12).float()
    criterion = LeJEPALoss(sigreg=SIGReg(num_slices=8)).eval()
    plain = backward(criterion, model, x.split(5, dim=1))
    expected = gradients(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert_close(backward(criterion, model, x.split(5, dim=1), scaler=scaler), plain)
    assert_close(gradients(model), 1024 * expected)
    scaler.unscale_(optimizer)
    assert_close(gradients(model), expected)
    scaler.update()
    weights = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    backward(criterion, model, [x[:, :5], x[:, 5:] * torch.inf], scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert_close([p.detach() for p in model.parameters()], weights)  # the step was skipped
    assert scaler.get_scale() == 512

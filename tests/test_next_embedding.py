"""NextEmbeddingLoss: LeWM's objective against plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from sigreg import SIGReg
from sigreg.objective import NextEmbeddingLoss
from tests.pool import on_ranks

B, T, D = 12, 5, 6


def sequences(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(B, T, D, generator=generator, dtype=torch.float64)
    return z, torch.randn(B, T, 2, generator=generator, dtype=torch.float64)


class Predictor(nn.Module):
    """z_t + W a_t, and a term of the mean of all embeddings so far, so that the context matters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.of_action, self.of_past = nn.Linear(2, D).double(), nn.Linear(D, D).double()

    def forward(self, z, a):
        steps = torch.arange(1, z.shape[1] + 1, dtype=z.dtype).unsqueeze(-1)
        return z + self.of_action(a) + self.of_past(z.cumsum(1) / steps)


def criterion(**settings) -> NextEmbeddingLoss:
    return NextEmbeddingLoss(
        sigreg=SIGReg(num_slices=16, group=settings.pop("group", None)), **settings
    ).eval()


def test_one_step_is_lewm_s_loss():
    (z, a), predictor, loss = sequences(), Predictor(), criterion()
    predicted = predictor(z[:, :-1], a[:, :-1])
    by_hand = (predicted - z[:, 1:]).pow(2).mean() + 0.09 * loss.sigreg(z.transpose(0, 1))
    assert_close(loss(z, predictor, a), by_hand)
    assert_close(loss(z, predictor, a[:, :-1]), by_hand)


def test_a_roll_out_predicts_from_predictions():
    (z, a), predictor = sequences(), Predictor()
    one = predictor(z[:, :-1], a[:, :-1])
    two = predictor(one[:, :-1], a[:, 1:-1])
    by_hand = ((one - z[:, 1:]).square().mean() + (two - z[:, 2:]).square().mean()) / 2
    assert_close(criterion(rollout=2).components(z, predictor, a).prediction, by_hand)


def test_the_gradient_reaches_context_target_and_predictor():
    (z, a), predictor = sequences(), Predictor()
    z.requires_grad_()
    NextEmbeddingLoss(0.0, SIGReg(num_slices=4))(z, predictor, a).backward()
    assert z.grad[:, 0].any()  # context only
    assert z.grad[:, -1].any()  # target only
    assert all(p.grad.any() for p in predictor.parameters())


@pytest.mark.parametrize("rollout", [1, 2, 3])
def test_padded_steps_do_not_count_and_get_no_gradient(rollout):
    (z, a), predictor, loss = sequences(), Predictor(), criterion(rollout=rollout)
    lengths = torch.tensor([T] * 6 + [4] * 6)
    mask = torch.arange(T) < lengths.unsqueeze(-1)
    padded = torch.where(mask.unsqueeze(-1), z, torch.nan).requires_grad_()
    predicted = loss.components(padded, predictor, a, mask)

    distances, counts = [0.0] * rollout, [0] * rollout
    for i, length in enumerate(lengths.tolist()):  # each sequence alone, at its own length
        context = z[i : i + 1, :length]
        for h in range(1, rollout + 1):
            if length > h:
                context = predictor(context[:, :-1], a[i : i + 1, h - 1 : length - 1])
                distances[h - 1] += (context - z[i : i + 1, h:length]).square().mean(-1).sum()
                counts[h - 1] += length - h
    by_hand = sum(d / c for d, c in zip(distances, counts, strict=True)) / rollout
    assert_close(predicted.prediction, by_hand)
    predicted.total.backward()
    assert (padded.grad[~mask] == 0).all()
    assert padded.grad[mask].isfinite().all()


@pytest.mark.parametrize("fill", [7.0, float("nan"), float("inf")])
@pytest.mark.parametrize("rollout", [1, 2])
def test_actions_from_and_to_padded_steps_change_nothing(rollout, fill):
    (z, a), mask = sequences(), torch.arange(T) < torch.tensor([3] * 4 + [T] * 8).unsqueeze(-1)
    mask[-1, 1] = False  # a gap within a sequence
    padded = ~(mask & mask.roll(-1, 1))

    def results(fill):
        predictor, x = Predictor(), z.clone().requires_grad_()
        actions = a.masked_fill(padded.unsqueeze(-1), fill)
        loss = criterion(rollout=rollout)(x, predictor, actions, mask)
        loss.backward()
        return loss, x.grad, *(p.grad for p in predictor.parameters())

    for result, expected in zip(results(fill), results(0.0), strict=True):
        assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool])
def test_actions_may_be_of_any_dtype(kind):
    (z, a), mask = sequences(), torch.arange(T).expand(B, T) < 3

    def predictor(context, given):
        assert given.dtype == kind
        return context + given.unsqueeze(-1)

    assert criterion()(z, predictor, (a[..., 0] > 0).to(kind), mask).isfinite()


def test_a_prediction_at_a_padded_step_may_be_nan():
    (z, _), mask = sequences(), torch.arange(T).expand(B, T) < 3
    layer, steps = nn.Linear(D, D).double(), torch.arange(T - 1).unsqueeze(-1)
    criterion()(
        z, lambda context: layer(context) + torch.where(steps < 3, 0.0, torch.nan), weights=mask
    ).backward()
    assert layer.weight.grad.isfinite().all()


def test_equal_weights_are_no_weights_and_none_at_all_is_zero():
    (z, a), predictor, loss = sequences(), Predictor(), criterion()
    assert_close(loss(z, predictor, a, torch.full((B, T), 0.25, dtype=z.dtype)), loss(z, predictor, a))
    assert loss(z, predictor, a, torch.zeros(B, T, dtype=torch.bool)) == 0


def test_without_actions_the_predictor_takes_embeddings_only():
    z, _ = sequences()
    assert_close(criterion().components(z, lambda x: x).prediction, z.diff(dim=1).square().mean())


def shard(split: tuple[int, ...], rank_count: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch.distributed as dist

    rank = dist.get_rank()
    (z, a), first = sequences(), sum(split[:rank])
    z = z[first : first + split[rank]].clone().requires_grad_()
    loss = criterion(group="auto")(z, Predictor(), a[first : first + split[rank]])
    loss.backward()
    return loss.detach(), z.grad / rank_count  # DDP's mean over ranks


def test_two_uneven_ranks_are_one_process():
    (z, a), split = sequences(), (8, 4)
    z.requires_grad_()
    whole = criterion()(z, Predictor(), a)
    whole.backward()
    results = on_ranks(2, shard, split, 2)
    for value, _ in results:
        assert_close(value, whole.detach())
    assert_close(torch.cat([gradient for _, gradient in results]), z.grad)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: NextEmbeddingLoss(-1.0), "at least 0"),
        (lambda: NextEmbeddingLoss(rollout=0), "rollout=0"),
        (lambda: criterion()(torch.zeros(4, 3), nn.Identity()), r"\(B, T, D\)"),
        (lambda: criterion(rollout=3)(torch.zeros(4, 3, 2), nn.Identity()), "T > rollout=3"),
        (lambda: criterion()(torch.zeros(4, 3, 2), lambda z: z[:, :1]), "one embedding for each position"),
        (
            lambda: criterion()(torch.zeros(4, 3, 2), lambda z, a: z, torch.zeros(4, 5, 1)),
            r"actions \(4, 5, 1\) do not fit .* \(4, 3, ...\) or \(4, 2, ...\)",
        ),
    ],
)
def test_bad_input_is_an_error_that_says_what_came(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: NextEmbeddingLoss("0.1"), "lambda_param='0.1' must be a number"),
        (lambda: NextEmbeddingLoss(rollout=2.0), "rollout=2.0 must be an int"),
        (lambda: criterion()(torch.zeros(4, 3, 2), nn.GRU(2, 2, batch_first=True)), r"a tuple .* out\[0\]"),
        (
            lambda: criterion()(torch.zeros(4, 3, 2), lambda z, a: z, [1.0]),
            "actions must be a tensor .* a list",
        ),
    ],
)
def test_a_wrong_type_is_an_error_that_says_what_came(call, says):
    with pytest.raises(TypeError, match=says):
        call()

"""Weights in the losses: the prediction of LeJEPALoss and of NextEmbeddingLoss is a weighted mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from sigreg.objective import NextEmbeddingLoss
from tests.contract import MANY
from tests.pool import on_ranks
from tests.samples import mask_of
from tests.samples import normal64 as normal


@pytest.mark.parametrize("share", [None, 0.5])
def test_lejepa_s_prediction_ignores_what_does_not_count(share: float | None) -> None:
    views, mask = normal(4, 20, 6), mask_of(20)
    criterion = LeJEPALoss(sigreg=SIGReg(num_slices=16)).eval()
    expected = criterion.components(views[:, mask], num_global=2)
    padded = torch.where(mask[:, None], views, torch.nan)
    weights = mask if share is None else mask * share
    for ours, theirs in zip(criterion.components(padded, 2, weights), expected, strict=True):
        assert_close(ours, theirs, rtol=MANY, atol=MANY)


def test_lejepa_s_prediction_is_a_weighted_mean() -> None:
    views, generator = normal(3, 7, 4), torch.Generator().manual_seed(3)
    w = torch.rand(3, 7, generator=generator, dtype=torch.float64)
    ours = LeJEPALoss(sigreg=SIGReg(num_slices=4)).components(views, 2, w).prediction
    total = 0.0
    for n in range(7):
        center = (w[0, n] * views[0, n] + w[1, n] * views[1, n]) / (w[0, n] + w[1, n])
        total += sum(w[v, n] * (views[v, n] - center).square().mean() for v in range(3))
    assert_close(ours, total / w.sum(), rtol=MANY, atol=MANY)


def test_a_prediction_of_the_next_embedding_weighs_as_much_as_the_least_of_its_steps() -> None:
    (z, w), T = (normal(6, 5, 3), torch.rand(6, 5, dtype=torch.float64)), 5
    ours = NextEmbeddingLoss(sigreg=SIGReg(num_slices=4), rollout=2).components(z, torch.tanh, weights=w)
    terms = []
    for h in (1, 2):
        paths = [(n, t) for n in range(6) for t in range(T - h)]
        weights = [min(w[n, t : t + h + 1]) for n, t in paths]
        predicted = [torch.tanh(z[n, t]) if h == 1 else torch.tanh(torch.tanh(z[n, t])) for n, t in paths]
        errors = [(p - z[n, t + h]).square().mean() for p, (n, t) in zip(predicted, paths, strict=True)]
        terms.append(sum(a * e for a, e in zip(weights, errors, strict=True)) / sum(weights))
    assert_close(ours.prediction, sum(terms) / 2, rtol=MANY, atol=MANY)


def next_embeddings(first: int, last: int, group: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient of some of nine sequences, of which the last four have no valid step."""
    z, mask = normal(9, 5, 3), mask_of(9, 5)
    mask[5:] = False
    z = torch.where(mask[..., None], z, torch.nan)[first:last].requires_grad_()
    criterion = NextEmbeddingLoss(sigreg=SIGReg(num_slices=4, group=group))
    loss = criterion(z, torch.tanh, weights=mask[first:last])
    (grad,) = torch.autograd.grad(loss, z)
    return loss.detach(), grad


def next_embeddings_on_rank() -> tuple[Tensor, Tensor]:
    rank = torch.distributed.get_rank()
    loss, grad = next_embeddings(*((0, 5) if rank == 0 else (5, 9)), "auto")
    return loss, grad / 2  # DDP's mean


def test_masked_sequences_over_ranks_are_one_batch_also_where_a_rank_has_no_valid_step() -> None:
    loss, grad = next_embeddings(0, 9, None)
    results = on_ranks(2, next_embeddings_on_rank)
    for value, _ in results:
        assert_close(value, loss, rtol=MANY, atol=MANY)
    assert_close(torch.cat([g for _, g in results]), grad, rtol=MANY, atol=MANY)
    assert not grad[5:].any()


def test_a_sample_without_a_valid_global_view_has_no_prediction() -> None:
    views, weights = normal(3, 6, 4), torch.ones(3, 6, dtype=torch.bool)
    weights[:2, 5] = False  # both global views of the last sample
    criterion = LeJEPALoss(lambda_param=0.0, sigreg=SIGReg(num_slices=4)).eval()
    assert_close(criterion(views, 2, weights), criterion(views[:, :5], 2), rtol=MANY, atol=MANY)

"""LeJEPALoss: prediction, regularizer and their sum."""

import warnings

import pytest
import torch

from sigreg import LeJEPALoss, SIGReg
from sigreg.objective import NextEmbeddingLoss
from sigreg.regularizer import SampleAxisWarning
from sigreg.sequences import SequenceSIGReg
from tests.samples import normal


def loss(lambda_param: float = 0.05) -> LeJEPALoss:
    return LeJEPALoss(lambda_param, SIGReg(num_slices=16)).eval()


def test_the_prediction_is_the_distance_to_the_mean_of_the_global_views():
    views = normal(5, 16, 8)
    by_hand = sum((view - (views[0] + views[1]) / 2).square().mean() for view in views) / 5
    torch.testing.assert_close(loss().components(views, num_global=2).prediction, by_hand)


def test_the_gradient_flows_through_the_mean():
    views = normal(2, 16, 8).requires_grad_()
    loss(0.0)(views, num_global=1).backward()
    assert views.grad[0].any()
    torch.testing.assert_close(views.grad[0], -views.grad[1])


def test_the_total_is_the_weighted_sum_of_its_parts():
    total, prediction, sigreg = loss(0.2).components(normal(3, 16, 8))
    torch.testing.assert_close(total, 0.8 * prediction + 0.2 * sigreg)


def test_a_list_and_a_stack_are_the_same():
    views = normal(3, 16, 8)
    torch.testing.assert_close(loss()(views), loss()(list(views)), rtol=0, atol=0)


def test_two_views_and_one_view_work():
    assert loss()(normal(2, 16, 8)).isfinite()
    assert loss().components(normal(1, 16, 8)).prediction == 0


def test_a_step_decides_the_directions():
    views, criterion = normal(3, 16, 8), LeJEPALoss(sigreg=SIGReg(num_slices=16))
    first = criterion(views)
    assert criterion(views) != first
    assert criterion(views, step=0) == first == criterion.components(views, step=0).total
    assert int(criterion.sigreg.step) == 2


@pytest.mark.parametrize("objective", [LeJEPALoss, NextEmbeddingLoss, SequenceSIGReg])
def test_what_is_no_sigreg_is_refused_at_construction(objective):
    for value in (256, "watson", SIGReg, SequenceSIGReg()):
        with pytest.raises(TypeError, match="sigreg must be a SIGReg"):
            objective(sigreg=value)


def test_more_views_than_samples_in_one_tensor_are_a_warning_once():
    views, criterion = normal(16, 4, 8), loss()
    with pytest.warns(SampleAxisWarning, match=r"16 views of 4 samples; if the tensor is \(N, V, D\)"):
        criterion(views)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        criterion(views)
        loss()(list(views))  # a list says which dimension the views are


def test_half_precision_views_give_a_float32_loss():
    total, prediction, sigreg = loss().components(normal(2, 16, 8).bfloat16())
    assert total.dtype == prediction.dtype == sigreg.dtype == torch.float32


@pytest.mark.parametrize(
    ("views", "num_global", "error", "says"),
    [
        ([], None, ValueError, "at least one view"),
        ([torch.zeros(4, 8), torch.zeros(5, 8)], None, ValueError, "view 1 has"),
        ([torch.zeros(4, 8), torch.zeros(4, 7)], None, ValueError, "view 1 has"),
        ([torch.zeros(4)], None, ValueError, "view 0 has"),
        ([1.0], None, TypeError, "view 0 is a float"),
        ((z for z in torch.zeros(2, 4, 8)), None, TypeError, "a list of views .* got a generator"),
        (torch.zeros(4, 8), None, ValueError, r"\(V, N, D\)"),
        (torch.zeros(2, 4, 8), 0, ValueError, r"1\.\.\.2"),
        (torch.zeros(2, 4, 8), 3, ValueError, r"1\.\.\.2"),
        (torch.zeros(2, 1, 8), None, ValueError, "N >= 2"),
        (torch.zeros(2, 0, 8), None, ValueError, "N >= 2"),
        (torch.zeros(2, 4, 8, dtype=torch.int32), None, TypeError, "int32"),
    ],
)
def test_bad_views_are_named(views, num_global, error, says):
    with pytest.raises(error, match=says):
        loss()(views, num_global)


@pytest.mark.parametrize("lambda_param", [-0.1, 1.1, float("nan")])
def test_lambda_lies_in_the_unit_interval(lambda_param):
    with pytest.raises(ValueError, match="lambda_param"):
        LeJEPALoss(lambda_param)

"""Lambdas of other implementations: each loss at the converted lambda weighs its two terms as ours does.

lightly is called itself; tests/hosts/test_host_conventions.py calls stable-pretraining, stable-worldmodel
and, from a clone, eb_jepa.  For what no package index has, `convention_losses` holds stand-ins.
"""

import fractions

import lightly
import lightly.loss
import numpy
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigreg import SIGReg
from sigreg.conventions import CONVENTIONS, convert_lambda
from sigreg.objective import NextEmbeddingLoss
from tests.convention_losses import (
    LAMBDA,
    SLICES,
    STAND_INS,
    assert_same_up_to_a_factor,
    converted,
    ours,
    views,
)
from tests.host_parity import embeddings, from_the_global_generator

INSTALLED = ("lightly", "le-wm")  # the latter's loss is in lightly, too
IN_TESTS_HOSTS = ("stable-pretraining", "stable-worldmodel", "le-wm", "eb_jepa")
needs_lightly_1_6 = pytest.mark.skipif(
    int(lightly.__version__.split(".")[1]) < 6,
    reason=f"lightly {lightly.__version__} has no LeJEPALoss that looks at the global views, and no LeWMLoss",
)


def test_every_convention_is_held_to_a_host_or_to_a_stand_in():
    assert {"sigreg", *INSTALLED, *IN_TESTS_HOSTS, *STAND_INS} == set(CONVENTIONS)


def lightlys(lambda_param: float, z: Tensor) -> Tensor:
    criterion = lightly.loss.LeJEPALoss(lambda_param, sigreg_num_vectors=SLICES)
    return criterion(global_proj=z[:2], local_proj=z[2:])


@needs_lightly_1_6
def test_lightlys_loss_at_the_converted_lambda_is_ours():
    z = views(6)
    lambda_param = converted("lightly", z)
    factor = assert_same_up_to_a_factor(lambda z: lightlys(lambda_param, z), ours(num_global=2), z)
    assert_close(factor, 1.0, rtol=1e-5, atol=0)


@needs_lightly_1_6
def test_lightlys_lewm_loss_at_the_converted_lambda_is_ours():
    """Values only: its target is detached, which LeWM's own is not.  Batches of any mix of both terms."""
    predictor = torch.nn.Identity()
    loss = NextEmbeddingLoss(sigreg=SIGReg(num_slices=SLICES, directions=from_the_global_generator)).eval()
    factors = []
    for scale in (0.3, 1.0, 3.0):
        z = embeddings(64, 5, 16, scale=scale)  # (B, T, D)
        criterion = lightly.loss.LeWMLoss(converted("le-wm", z), sigreg_num_vectors=SLICES)
        torch.manual_seed(3)
        theirs = criterion(predicted=predictor(z[:, :-1]), target=z[:, 1:], embeddings=z)
        torch.manual_seed(3)
        _, prediction, sigreg = loss.components(z, predictor)
        factors.append(theirs / ((1 - LAMBDA) * prediction + LAMBDA * sigreg))
    assert_close(factors, [factors[0]] * 3, rtol=1e-5, atol=0)


@needs_lightly_1_6
def test_lightlys_regularizer_is_ours():
    z = views(6)
    criterion = SIGReg(num_slices=SLICES, directions=from_the_global_generator)
    factor = assert_same_up_to_a_factor(lightly.loss.SIGReg(num_vectors=SLICES), criterion, z)
    assert_close(factor, 1.0, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", STAND_INS)
def test_a_stand_ins_loss_at_the_converted_lambda_is_ours(name):
    stand_in, V, grid = STAND_INS[name]
    z = views(V)
    lambda_param = converted(name, z)
    assert_same_up_to_a_factor(lambda z: stand_in(lambda_param, z), ours(**grid), z)


@pytest.mark.parametrize("name", STAND_INS)
def test_a_lambda_that_is_one_percent_off_is_noticed(name):
    stand_in, V, grid = STAND_INS[name]
    z = views(V)
    lambda_param = 1.01 * converted(name, z)
    with pytest.raises(AssertionError):
        assert_same_up_to_a_factor(lambda z: stand_in(lambda_param, z), ours(**grid), z)


@pytest.mark.parametrize("source", CONVENTIONS)
@pytest.mark.parametrize("target", CONVENTIONS)
def test_there_and_back_is_the_identity(source, target):
    sizes = {"N": 128, "D": 32, "V": 4}
    there = convert_lambda(0.02, source, target, **sizes)
    assert convert_lambda(there, target, source, **sizes) == pytest.approx(0.02, rel=1e-12)


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("stable_pretraining", "stable-pretraining"), ("EB-JEPA", "eb_jepa"), ("le_WM", "le-wm")],
)
def test_capitals_and_underscores_of_a_name_do_not_matter(spelled, name):
    sizes = {"N": 128, "D": 32, "V": 4}
    assert convert_lambda(0.05, spelled, "Paper", **sizes) == convert_lambda(0.05, name, "paper", **sizes)
    assert convert_lambda(0.05, "Paper", spelled, **sizes) == convert_lambda(0.05, "paper", name, **sizes)


@pytest.mark.parametrize(
    ("value", "sizes", "error", "says"),
    [
        (1.0, {"N": -4}, ValueError, "N=-4 must be at least 1"),
        (1.0, {"N": 0}, ValueError, "N=0 must be at least 1"),
        (1.0, {"N": 64, "D": 0}, ValueError, "D=0 must be at least 1"),
        (1.0, {"N": 64.0}, TypeError, r"N=64\.0 must be an int"),
        (1.0, {"N": "64"}, TypeError, "N='64' must be an int"),
        ("1.0", {"N": 64}, TypeError, "value='1.0' must be a number"),
    ],
)
def test_sizes_and_lambdas_that_are_none_are_named(value, sizes, error, says):
    with pytest.raises(error, match=says):
        convert_lambda(value, "eb_jepa", "sigreg", **sizes)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0.1, "sigreg", "dino"), "dino"),
        ((1.0, "sigreg", "lightly"), "lambda=1.0"),
        ((-0.1, "eb_jepa", "sigreg"), "N="),
        ((0.1, "paper", "sigreg"), "D="),
        ((0.1, "sigreg", "stable-pretraining"), "V="),
    ],
)
def test_bad_conversions_are_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        convert_lambda(*arguments)


@pytest.mark.parametrize("kind", [numpy.float32, numpy.float64, fractions.Fraction])
def test_the_result_is_a_float_whatever_kind_of_number_came(kind):
    found = convert_lambda(kind(0.25), "sigreg", "paper", D=3)
    assert type(found) is float
    assert found == convert_lambda(0.25, "sigreg", "paper", D=3)

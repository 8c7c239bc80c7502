"""`convert_lambda` beside the hosts' own losses; EB_JEPA_SOURCE and STABLE_WORLDMODEL_SOURCE name clones."""

import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest
import stable_worldmodel.wm.loss as worldmodel
import torch
from stable_pretraining.methods import lejepa as pretraining
from torch import Tensor
from torch.testing import assert_close

from sigreg import SIGReg
from sigreg.conventions import convert_lambda
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
from tests.host_parity import embeddings, from_the_global_generator, seeded_by_step

SOURCES = {name: os.environ.get(f"{name}_SOURCE") for name in ("EB_JEPA", "STABLE_WORLDMODEL")}


def test_stable_pretrainings_lejepa_at_the_converted_lambda_is_ours():
    z = views(6)
    lambda_param = converted("stable-pretraining", z)

    def theirs(z: Tensor) -> Tensor:
        criterion = pretraining.SlicedEppsPulley(num_slices=SLICES)
        return pretraining.LeJEPA._compute_loss(z, 2, criterion, lambda_param)[0]

    assert_same_up_to_a_factor(theirs, ours(seeded_by_step, num_global=2), z)


def test_stable_worldmodels_regularizer_has_our_scale():
    """With P + l S, as its training script adds them, this is the convention; the script is called below."""
    z = embeddings(4, 64, 16)  # (T, B, D)
    criterion = SIGReg(num_slices=SLICES, directions=from_the_global_generator)
    factor = assert_same_up_to_a_factor(worldmodel.SIGReg(num_proj=SLICES), criterion, z)
    assert_close(factor, 1.0, rtol=1e-5, atol=0)


@pytest.mark.skipif(not SOURCES["STABLE_WORLDMODEL"], reason="STABLE_WORLDMODEL_SOURCE names no clone")
@pytest.mark.parametrize("name", ["stable-worldmodel", "le-wm"])
def test_the_loss_of_stable_worldmodels_script_at_the_converted_lambda_is_ours(name):
    """Its forward function of LeWM, on given embeddings and with the identity as predictor."""
    file = Path(str(SOURCES["STABLE_WORLDMODEL"]), "scripts", "train", "lewm.py")
    spec = importlib.util.spec_from_file_location("lewm_script", file)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    z = embeddings(64, 4, 16, scale=0.5)  # (B, T, D)
    weight = types.SimpleNamespace(weight=convert_lambda(LAMBDA, "sigreg", name))
    cfg = types.SimpleNamespace(
        wm=types.SimpleNamespace(history_size=3, num_preds=1), loss=types.SimpleNamespace(sigreg=weight)
    )
    predictor = torch.nn.Identity()

    def theirs(z: Tensor) -> Tensor:
        model = types.SimpleNamespace(
            encode=lambda batch: {"emb": z, "act_emb": batch["action"]},
            predict=lambda emb, act: predictor(emb),
        )
        module = types.SimpleNamespace(
            model=model, sigreg=worldmodel.SIGReg(num_proj=SLICES), log_dict=lambda *args, **kwargs: None
        )
        return script.lejepa_forward(module, {"action": torch.zeros(64, 4, 2)}, "fit", cfg)["loss"]

    def ours(z: Tensor) -> Tensor:
        criterion = NextEmbeddingLoss(sigreg=SIGReg(num_slices=SLICES, directions=from_the_global_generator))
        _, prediction, sigreg = criterion.components(z, predictor)
        return (1 - LAMBDA) * prediction + LAMBDA * sigreg

    assert_same_up_to_a_factor(theirs, ours, z)


@pytest.mark.skipif(not SOURCES["EB_JEPA"], reason="EB_JEPA_SOURCE names no clone of eb_jepa")
def test_eb_jepas_loss_at_the_converted_lambda_is_ours():
    sys.path.insert(0, str(SOURCES["EB_JEPA"]))
    from eb_jepa.losses import BCS

    _, V, grid = STAND_INS["eb_jepa"]
    z = views(V)
    lambda_param = converted("eb_jepa", z)
    assert_same_up_to_a_factor(
        lambda z: BCS(num_slices=SLICES, lmbd=lambda_param)(*z)["loss"], ours(seeded_by_step, **grid), z
    )

"""The adapter beside stable-worldmodel's own class, in its LeWM and, from a clone, in its training script."""

import importlib.util
import os
import types
from pathlib import Path

import pytest
import stable_worldmodel.wm.loss as host
import torch
from stable_worldmodel.wm.lewm import LeWM
from torch import Tensor, nn

from sigreg_adapters.stable_worldmodel import SIGReg
from tests.host_parity import (
    assert_same_value_and_gradient,
    embeddings,
    from_the_global_generator,
    on_this_rank,
)
from tests.pool import on_ranks


@pytest.mark.parametrize("settings", [{}, {"knots": 9, "num_proj": 67}])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_value_and_gradient_are_the_hosts(settings, scale):
    ours = SIGReg(**settings, directions=from_the_global_generator)
    assert_same_value_and_gradient(ours, host.SIGReg(**settings), embeddings(4, 33, 16, scale=scale))


def call_hosts(criterion: nn.Module, emb: Tensor) -> Tensor:
    return criterion(emb.float()).double()


def test_the_hosts_ranks_see_their_own_half_only():
    """Why one would change the import: remove this test when the host reduces."""
    values = [
        float(loss) for loss, _ in on_ranks(2, on_this_rank, build_hosts_float, call_hosts, (3, 16), (8, 8))
    ]
    assert abs(values[0] / values[1] - 1) > 1e-3


def build_hosts_float() -> nn.Module:
    return host.SIGReg(num_proj=16)


def test_a_checkpoint_of_the_hosts_class_loads():
    ours = nn.ModuleDict({"sigreg": SIGReg()})
    with pytest.warns(UserWarning, match=r"stable-worldmodel's class and has no sigreg\._extra_state"):
        ours.load_state_dict(nn.ModuleDict({"sigreg": host.SIGReg()}).state_dict())


class Encoder(nn.Module):
    """Frames (N, 3, 8, 8) -> tokens (N, 1, 24), as LeWM wants them from a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 48), nn.GELU(), nn.Linear(48, 24))

    def forward(self, pixels: Tensor, interpolate_pos_encoding: bool) -> types.SimpleNamespace:
        return types.SimpleNamespace(last_hidden_state=self.net(pixels)[:, None])


class Predictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(24 + 4, 48), nn.GELU(), nn.Linear(48, 24))

    def forward(self, emb: Tensor, act_emb: Tensor) -> Tensor:
        return self.net(torch.cat([emb, act_emb], dim=-1))


def world_model() -> LeWM:
    torch.manual_seed(0)
    return LeWM(Encoder(), Predictor(), nn.Linear(2, 4))


def episodes(B: int = 64, T: int = 4) -> dict[str, Tensor]:
    """A bright square that the action moves."""
    generator = torch.Generator().manual_seed(0)
    action = torch.randint(-1, 2, (B, T, 2), generator=generator)
    position = (torch.randint(0, 8, (B, 1, 2), generator=generator) + action.cumsum(1)).remainder(8)
    pixels = torch.zeros(B, T, 3, 8, 8)
    pixels[torch.arange(B)[:, None], torch.arange(T), :, position[..., 0], position[..., 1]] = 1
    return {"pixels": pixels, "action": action.float()}


@pytest.mark.parametrize("weight", [0.0, 0.09])
def test_lewm_trains_with_it_and_does_not_collapse(weight):
    model, criterion, info = world_model(), SIGReg(num_proj=128), episodes()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    values = []
    for _ in range(60):
        out = model.encode(dict(info))
        emb, act_emb = out["emb"], out["act_emb"]
        regularizer = criterion(emb.transpose(0, 1))
        loss = (
            model.predict(emb[:, :-1], act_emb[:, :-1]) - emb[:, 1:]
        ).square().mean() + weight * regularizer
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(regularizer.detach()))
    spread = float(emb.detach().flatten(0, 1).std(0).mean())
    if weight:
        assert values[-1] < values[0] / 3
        assert spread > 0.5
    else:
        assert spread < 0.2  # collapsed: what the term is for


SOURCE = os.environ.get("STABLE_WORLDMODEL_SOURCE")


@pytest.mark.skipif(not SOURCE, reason="STABLE_WORLDMODEL_SOURCE names no clone of stable-worldmodel")
def test_the_hosts_own_forward_trains_with_it(tmp_path, monkeypatch):
    """scripts/train/lewm.py, unchanged: its forward function in the host's Module."""
    import lightning as pl
    import stable_pretraining as spt
    from omegaconf import OmegaConf

    file = Path(str(SOURCE), "scripts", "train", "lewm.py")
    spec = importlib.util.spec_from_file_location("lewm_script", file)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    cfg = OmegaConf.create({"wm": {"history_size": 3, "num_preds": 1}, "loss": {"sigreg": {"weight": 0.09}}})
    monkeypatch.chdir(tmp_path)
    rows = episodes()
    data = [{key: value[n] for key, value in rows.items()} for n in range(len(rows["pixels"]))]
    criterion = SIGReg(num_proj=64)
    module = spt.Module(
        model=world_model(),
        sigreg=criterion,
        forward=lambda self, batch, stage: script.lejepa_forward(self, batch, stage, cfg),
        optim={"optimizer": {"type": "AdamW", "lr": 3e-3}, "scheduler": "ConstantLR", "interval": "epoch"},
    )
    before = [p.detach().clone() for p in module.model.parameters()]
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=16))
    assert int(criterion.step) == 8
    assert trainer.callback_metrics["fit/sigreg_loss"].isfinite()
    assert any(not torch.equal(a, b) for a, b in zip(before, module.model.parameters(), strict=True))

"""The adapter beside stable-pretraining's own class, in its LeJEPA and in its Module and Manager."""

import inspect
import warnings

import pytest
import stable_pretraining as spt
import torch
from stable_pretraining.forward import simclr
from stable_pretraining.methods import lejepa as host
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

import sigreg
from sigreg_adapters.stable_pretraining import SlicedEppsPulley, lejepa
from tests.host_parity import (
    assert_same_value_and_gradient,
    embeddings,
    on_this_rank,
    seeded_by_step,
)
from tests.pool import on_ranks


@pytest.mark.parametrize("settings", [{}, {"num_slices": 67, "t_max": 5.0, "n_points": 21}])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_value_and_gradient_are_the_hosts(settings, scale):
    ours = SlicedEppsPulley(**settings, directions=seeded_by_step)
    assert_same_value_and_gradient(ours, host.SlicedEppsPulley(**settings), embeddings(66, 16, scale=scale))


def test_the_hosts_objective_with_it_is_the_hosts():
    z = embeddings(6, 16, 8)
    pairs = [(SlicedEppsPulley(directions=seeded_by_step), "ours"), (host.SlicedEppsPulley(), "theirs")]
    losses = [lambda z, s=s: host.LeJEPA._compute_loss(z, 2, s, 0.02)[0] for s, _ in pairs]
    assert_same_value_and_gradient(*losses, z)


def build_hosts() -> nn.Module:
    return host.SlicedEppsPulley(num_slices=16)


def call(criterion: nn.Module, z: Tensor) -> Tensor:
    return criterion(z)


def call_hosts(criterion: nn.Module, z: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its all_reduce is deprecated
        return criterion(z.float()).double()


def test_the_hosts_ranks_have_twice_the_value_of_their_half():
    """Why one would change the import: remove this test when the host uses what it reduces."""
    with_world_size = [
        float(loss) for loss, _ in on_ranks(2, on_this_rank, build_hosts, call_hosts, (16,), (8, 8))
    ]
    halves = [float(loss) for loss, _ in on_ranks(2, on_this_rank, build_alone, call, (16,), (8, 8))]
    assert_close(with_world_size, [2 * half for half in halves], rtol=1e-5, atol=0)


def build_alone() -> SlicedEppsPulley:
    return SlicedEppsPulley(num_slices=16, group=None, directions=seeded_by_step)


def test_a_checkpoint_of_the_hosts_class_goes_on_at_its_step():
    theirs = nn.ModuleDict({"sigreg": host.SlicedEppsPulley(num_slices=8)})
    for _ in range(3):
        theirs["sigreg"](embeddings(9, 4))
    ours = nn.ModuleDict({"sigreg": SlicedEppsPulley(num_slices=8)})
    ours.load_state_dict(theirs.state_dict())
    assert int(ours["sigreg"].global_step) == 3


class Data(torch.utils.data.Dataset):
    """Squares in one of two corners under noise, four named views a sample."""

    names = ("global_1", "global_2", "local_1", "local_2")

    def __len__(self) -> int:
        return 64

    def __getitem__(self, n: int) -> dict[str, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(n)
        image = torch.zeros(3, 8, 8)
        image[:, :4, :4] = n % 2
        views = {name: image + 0.3 * torch.randn(3, 8, 8, generator=generator) for name in self.names}
        return {name: {"image": view, "label": torch.tensor(n % 2)} for name, view in views.items()}


def run(tmp_path, monkeypatch, module: nn.Module, **trainer) -> spt.Manager:
    import lightning as pl

    monkeypatch.chdir(tmp_path)
    settings = {
        "max_epochs": 4,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
    }
    data = spt.data.DataModule(train=DataLoader(Data(), batch_size=16, shuffle=True, drop_last=True))
    manager = spt.Manager(
        trainer=pl.Trainer(**settings | trainer, default_root_dir=str(tmp_path)),
        module=module,
        data=data,
        seed=0,
    )
    manager()
    return manager


def test_the_hosts_manager_trains_with_the_forward_function(tmp_path, monkeypatch):
    torch.manual_seed(0)
    criterion = sigreg.LeJEPALoss(0.05, sigreg.SIGReg(num_slices=64))
    module = spt.Module(
        forward=lejepa,
        backbone=nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU()),
        projector=nn.Linear(32, 8),
        lejepa_loss=criterion,
        optim={"optimizer": {"type": "AdamW", "lr": 3e-3}, "scheduler": "ConstantLR", "interval": "epoch"},
    )
    z = module.projector(module.backbone(torch.stack([Data()[n]["global_1"]["image"] for n in range(64)])))
    before = float(criterion.sigreg(z.detach(), step=99))
    manager = run(tmp_path, monkeypatch, module)
    assert int(criterion.sigreg.step) == 16
    metrics = manager._trainer.callback_metrics
    assert {"fit/loss_epoch", "fit/prediction_loss_epoch", "fit/sigreg_loss_epoch"} <= set(metrics)
    assert float(metrics["fit/sigreg_loss_epoch"]) < before / 2


def test_the_hosts_lejepa_trains_with_it(tmp_path, monkeypatch):
    """Its own method, whose regularizer is replaced as its user would."""
    torch.manual_seed(0)
    model = host.LeJEPA("test_vit.r160_in1k", projector=nn.Linear(64, 8), drop_path_rate=0.0)
    model.sigreg = SlicedEppsPulley(num_slices=64)
    views = [torch.randn(6, 3, 160, 160) for _ in range(3)]
    out = model(global_views=views[:2], local_views=views[2:])
    out.loss.backward()
    assert out.sigreg_loss.isfinite()
    assert model.projector.weight.grad.abs().sum() > 0
    assert int(model.sigreg.global_step) == 1


def test_the_forward_function_has_the_signature_of_the_hosts():
    ours, theirs = (list(inspect.signature(f).parameters) for f in (lejepa, simclr))
    assert ours == theirs

"""The Lightning callback and the timm encoder, in real training steps."""

import importlib
import re

import pytest
import torch

from sigreg import LeJEPALoss, SIGReg
from sigreg.diagnostics import uncalibrated
from sigreg_adapters.lightning import GaussianityMonitor
from sigreg_adapters.timm import Encoder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*workers.*"),
]


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def pl(request):
    return importlib.import_module(request.param)


def fit(pl, monitor, scale: float):
    class Method(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(8, 8, bias=False)
            torch.nn.init.eye_(self.head.weight)

        def training_step(self, batch, _):
            return SIGReg(num_slices=8)(self.head(batch * torch.tensor([1.0] + [scale] * 7)))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-4)

    z = torch.randn(128, 8, generator=torch.Generator().manual_seed(0))
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Method(), torch.utils.data.DataLoader(z, batch_size=64))
    return trainer.callback_metrics


def test_a_gaussian_embedding_is_reported_as_one(pl):
    monitor = GaussianityMonitor("head", every_n_steps=1, num_slices=16)
    metrics = fit(pl, monitor, scale=1.0)
    second_batch = torch.randn(128, 8, generator=torch.Generator().manual_seed(0))[64:]
    expected = uncalibrated(second_batch, num_slices=16)["epps_pulley"]
    torch.testing.assert_close(  # one small step of training lies between the two
        float(metrics["gaussianity/epps_pulley"]), expected, rtol=0.01, atol=0
    )
    assert set(metrics) >= {"gaussianity/effective_rank", "gaussianity/covariance"}
    assert monitor.last["gaussianity/effective_rank"] > 6


class Trainer:
    global_step = 0


class Module(torch.nn.Module):
    """Two views, one forward pass each, through an encoder that returns (embedding, projection)."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder("test_resnet", projection_dim=8, hidden_dim=32)
        self.logged = {}

    def log_dict(self, values, batch_size):
        self.logged, self.batch_size = values, batch_size


def test_a_monitor_sees_every_forward_pass_of_a_step_and_the_projection_of_a_tuple():
    module, monitor = Module(), GaussianityMonitor("encoder", every_n_steps=1, num_slices=16)
    monitor.on_train_start(Trainer, module)
    views = [torch.randn(6, 3, 64, 64) for _ in range(2)]
    projections = torch.cat([module.encoder(view)[1] for view in views]).detach()
    monitor.on_train_batch_end(Trainer, module)
    assert module.batch_size == 12
    expected = uncalibrated(projections, num_slices=16)["epps_pulley"]
    assert module.logged["gaussianity/epps_pulley"] == expected
    monitor.on_exception(Trainer, module, RuntimeError())
    module.encoder(views[0])
    module.logged = {}
    monitor.on_train_batch_end(Trainer, module)
    assert module.logged == {}


def test_a_collapse_raises_the_alarm(pl):
    with pytest.warns(UserWarning, match=re.escape("head collapses: effective rank 1.0")):
        fit(pl, GaussianityMonitor("head", every_n_steps=1, collapse=0.2, num_slices=16), scale=1e-3)


def test_an_unknown_submodule_is_named(pl):
    with pytest.raises(ValueError, match="no submodule 'neck'; it has head"):
        fit(pl, GaussianityMonitor("neck"), scale=1.0)


def test_an_encoder_of_any_timm_model_trains_under_lejepa():
    encoder = Encoder("test_vit", projection_dim=8, hidden_dim=32, dynamic_img_size=True)
    crops = [torch.randn(4, 3, size, size) for size in (160, 160, 96)]
    LeJEPALoss(sigreg=SIGReg(num_slices=16))([encoder(x)[1] for x in crops], num_global=2).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_an_unknown_backbone_is_named_with_close_ones():
    with pytest.raises(ValueError, match="resnet"):
        Encoder("resnet_of_nobody")

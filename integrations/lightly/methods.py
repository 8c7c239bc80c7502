"""Four methods on one backbone.  Read LeJEPA first, then what the other three need beside it.

BYOL, DINO and SimSiam are lightly's documented recipes: heads, momentum schedule and optimizer.
"""

from __future__ import annotations

import copy
from typing import Any

import pytorch_lightning as pl
import torch
from lightly.loss import DINOLoss, NegativeCosineSimilarity
from lightly.models import modules as heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import CosineWarmupScheduler, cosine_schedule
from torch import Tensor, nn

from sigreg_adapters.lightly import LeJEPALoss, LeJEPAProjectionHead

Batch = tuple[list[Tensor], Tensor, list[str]]


class LeJEPA(pl.LightningModule):
    """One encoder, one projector, one loss with one hyperparameter."""

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        num_global: int,
        lambda_param: float = 0.05,
        projection_dim: int = 64,
        lr: float | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = LeJEPAProjectionHead(dim, hidden_dim=512, output_dim=projection_dim)
        self.criterion = LeJEPALoss(lambda_param, gather_distributed=True)
        self.num_global, self.lr = num_global, 2e-3 if lr is None else lr

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        views = batch[0]
        z = self.projection_head(self.backbone(torch.cat(views)).flatten(1)).chunk(len(views))
        loss = self.criterion.components(z, num_global=self.num_global)
        self.log_dict(
            {"loss": loss.total, "prediction": loss.prediction, "sigreg": loss.sigreg},
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            batch_size=len(views[0]),
        )
        return loss.total

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=5e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = CosineWarmupScheduler(optimizer, steps // (self.trainer.max_epochs or 1), steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class BYOL(pl.LightningModule):
    """A predictor of the projections of a momentum copy of the encoder and its head."""

    def __init__(self, backbone: nn.Module, dim: int, lr: float | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = heads.BYOLProjectionHead(dim, 1024, 256)
        self.prediction_head = heads.BYOLPredictionHead(256, 1024, 256)
        self.backbone_momentum = copy.deepcopy(backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NegativeCosineSimilarity()
        self.lr = 0.06 if lr is None else lr

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        momentum = cosine_schedule(self.current_epoch, self.trainer.max_epochs or 1, 0.996, 1)
        update_momentum(self.backbone, self.backbone_momentum, m=momentum)
        update_momentum(self.projection_head, self.projection_head_momentum, m=momentum)
        x0, x1 = batch[0][:2]
        p0, p1 = (self.prediction_head(self.projection_head(self.backbone(x).flatten(1))) for x in (x0, x1))
        with torch.no_grad():
            z0, z1 = (self.projection_head_momentum(self.backbone_momentum(x).flatten(1)) for x in (x0, x1))
        loss: Tensor = 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch[1]))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class DINO(pl.LightningModule):
    """A student matches the sharpened, centred prototypes of a momentum teacher."""

    def __init__(self, backbone: nn.Module, dim: int, lr: float | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.student_head = heads.DINOProjectionHead(dim, 512, 64, 2048, freeze_last_layer=1)
        self.teacher_backbone = copy.deepcopy(backbone)
        self.teacher_head = heads.DINOProjectionHead(dim, 512, 64, 2048)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=2048, warmup_teacher_temp_epochs=5)
        self.lr = 1e-3 if lr is None else lr

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        momentum = cosine_schedule(self.current_epoch, self.trainer.max_epochs or 1, 0.996, 1)
        update_momentum(self.backbone, self.teacher_backbone, m=momentum)
        update_momentum(self.student_head, self.teacher_head, m=momentum)
        views = batch[0]
        with torch.no_grad():
            teacher = [self.teacher_head(self.teacher_backbone(x).flatten(1)) for x in views[:2]]
        student = [self.student_head(self.backbone(x).flatten(1)) for x in views]
        loss: Tensor = self.criterion(teacher, student, epoch=self.current_epoch)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch[1]))
        return loss

    def on_after_backward(self) -> None:
        self.student_head.cancel_last_layer_gradients(current_epoch=self.current_epoch)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class SimSiam(pl.LightningModule):
    """A predictor and a stop-gradient between two views."""

    def __init__(self, backbone: nn.Module, dim: int, lr: float | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = heads.SimSiamProjectionHead(dim, 512, 128)
        self.prediction_head = heads.SimSiamPredictionHead(128, 64, 128)
        self.criterion = NegativeCosineSimilarity()
        self.lr = 0.06 if lr is None else lr

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        z0, z1 = (self.projection_head(self.backbone(x).flatten(1)) for x in batch[0][:2])
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        loss: Tensor = 0.5 * (self.criterion(p0, z1.detach()) + self.criterion(p1, z0.detach()))
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch[1]))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

"""LeJEPA and what it replaces, on one backbone: lightly's losses, heads and CIFAR-10 recipes.

Read `LeJEPA` first, then what the others need beside it.  The recipes are those of lightly's published
CIFAR-10 benchmark: SGD with momentum 0.9 and weight decay 5e-4, 0.06 at batch 128, cosine decay, momentum
0.99 for the teachers.  Decay here goes by step, since runs are short.
"""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import lightly.loss
import lightning as L
import torch
from lightly.models import ResNetGenerator
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks import augment
from sigreg_adapters.lightly import LeJEPALoss, LeJEPAProjectionHead


class Method(L.LightningModule):
    """What all methods share: backbone, augmentation, schedule.  `loss` is the method."""

    views = 2
    warmup = 0.0  # of the steps

    def __init__(self, cfg: DictConfig, channels: int, steps: int) -> None:
        super().__init__()
        self.cfg, self.steps, self.lr_times = cfg, steps, float(cfg.lr_times)
        net = ResNetGenerator(cfg.backbone, width=cfg.width)
        net.conv1 = nn.Conv2d(channels, net.conv1.out_channels, 3, cfg.stem_stride, 1, bias=False)
        self.dim = net.linear.in_features
        layers = list(net.children())[:-1]
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.build()

    def build(self) -> None:
        """Heads and criterion, for a backbone of `self.dim` features."""
        raise NotImplementedError

    def loss(self, views: list[Tensor]) -> Tensor:
        """The scalar to minimise, of `self.views` views (N, C, H, W)."""
        raise NotImplementedError

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        x = batch.float().div(255)
        scale = tuple(self.cfg.crop_scale)
        return self.loss(list(augment.views(x, self.views, scale, flip=self.cfg.flip, noise=0.0)))

    def optimizer(self) -> torch.optim.Optimizer:
        lr = 0.06 * self.cfg.batch_size / 128 * self.lr_times
        return torch.optim.SGD(self.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)

    def configure_optimizers(self) -> Any:
        optimizer, warmup = self.optimizer(), max(1, round(self.warmup * self.steps))

        def rate(step: int) -> float:
            return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * min(step / self.steps, 1)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class LeJEPA(Method):
    """One encoder, one projector, one loss with one hyperparameter."""

    warmup = 0.1

    def build(self) -> None:
        self.head = LeJEPAProjectionHead(self.dim, hidden_dim=512)
        self.criterion = LeJEPALoss()

    def loss(self, views: list[Tensor]) -> Tensor:
        z = self.head(self.backbone(torch.cat(views)))
        return self.criterion(z.chunk(len(views)))

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3 * self.lr_times, weight_decay=5e-4)


class LeJEPAFourViews(LeJEPA):
    """The same with two global and two further views."""

    views = 4

    def loss(self, views: list[Tensor]) -> Tensor:
        z = self.head(self.backbone(torch.cat(views)))
        return self.criterion(z.chunk(len(views)), num_global=2)


class LightlyLeJEPA(LeJEPA):
    """lightly's own LeJEPALoss, which needs a view beside the two global ones."""

    views = 4

    def build(self) -> None:
        self.head = LeJEPAProjectionHead(self.dim, hidden_dim=512)
        self.criterion = lightly.loss.LeJEPALoss()

    def loss(self, views: list[Tensor]) -> Tensor:
        z = self.head(self.backbone(torch.cat(views))).unflatten(0, (len(views), -1))
        return self.criterion(global_proj=z[:2], local_proj=z[2:])


class BYOL(Method):
    """A predictor chases a momentum copy of the encoder and its head."""

    def build(self) -> None:
        self.head = heads.BYOLProjectionHead(self.dim, 1024, 256)
        self.prediction_head = heads.BYOLPredictionHead(256, 1024, 256)
        self.teacher_backbone = copy.deepcopy(self.backbone)
        self.teacher_head = copy.deepcopy(self.head)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = lightly.loss.NegativeCosineSimilarity()

    def loss(self, views: list[Tensor]) -> Tensor:
        update_momentum(self.backbone, self.teacher_backbone, m=0.99)
        update_momentum(self.head, self.teacher_head, m=0.99)
        p0, p1 = (self.prediction_head(self.head(self.backbone(x))) for x in views)
        with torch.no_grad():
            z0, z1 = (self.teacher_head(self.teacher_backbone(x)) for x in views)
        return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))


class DINO(Method):
    """A student matches the sharpened, centred prototypes of a momentum teacher."""

    def build(self) -> None:
        self.head, self.teacher_head = self.prototypes(), self.prototypes()
        self.teacher_backbone = copy.deepcopy(self.backbone)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = lightly.loss.DINOLoss(output_dim=2048)

    def prototypes(self) -> nn.Module:
        head = heads.DINOProjectionHead(self.dim, 2048, 256, 2048, batch_norm=True)
        blocks = [(self.dim, 2048, nn.BatchNorm1d(2048), nn.GELU()), (2048, 256, None, None)]
        head.layers = heads.ProjectionHead(blocks).layers  # two layers, as the recipe has them
        return head

    def loss(self, views: list[Tensor]) -> Tensor:
        update_momentum(self.backbone, self.teacher_backbone, m=0.99)
        update_momentum(self.head, self.teacher_head, m=0.99)
        with torch.no_grad():
            teacher = [self.teacher_head(self.teacher_backbone(x)) for x in views]
        student = [self.head(self.backbone(x)) for x in views]
        return self.criterion(teacher, student, epoch=self.current_epoch)


class SimSiam(Method):
    """A predictor and a stop-gradient between two views."""

    def build(self) -> None:
        relu, norm = nn.ReLU, nn.BatchNorm1d
        blocks = [(self.dim, 2048, norm(2048), relu()), (2048, 2048, norm(2048), None)]
        self.head = heads.ProjectionHead(blocks)
        self.prediction_head = heads.SimSiamPredictionHead(2048, 512, 2048)
        self.criterion = lightly.loss.NegativeCosineSimilarity()

    def loss(self, views: list[Tensor]) -> Tensor:
        z0, z1 = (self.head(self.backbone(x)) for x in views)
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        return 0.5 * (self.criterion(p0, z1.detach()) + self.criterion(p1, z0.detach()))

    def optimizer(self) -> torch.optim.Optimizer:  # the recipe does not scale it with the batch
        lr = 0.06 * self.lr_times
        return torch.optim.SGD(self.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


class SimCLR(Method):
    """Every other image in the batch is a negative."""

    def build(self) -> None:
        self.head = heads.SimCLRProjectionHead(self.dim, self.dim, 128)
        self.criterion = lightly.loss.NTXentLoss()

    def loss(self, views: list[Tensor]) -> Tensor:
        z0, z1 = (self.head(self.backbone(x)) for x in views)
        return self.criterion(z0, z1)


METHODS: dict[str, type[Method]] = {
    "lejepa": LeJEPA,
    "lejepa-4": LeJEPAFourViews,
    "lightly-lejepa": LightlyLeJEPA,
    "byol": BYOL,
    "dino": DINO,
    "simsiam": SimSiam,
    "simclr": SimCLR,
}


def lines(name: str) -> int:
    """Lines of code between `build` and the loss, inherited ones included: what a user writes."""
    total = 0
    for function in ("build", "prototypes", "loss"):
        found = getattr(METHODS[name], function, None)
        if found is not None:
            source = inspect.getsource(found).splitlines()
            total += sum(1 for line in source if line.strip() and not line.strip().startswith("#"))
    return total

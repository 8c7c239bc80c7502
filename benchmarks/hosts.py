"""LeJEPA and what it replaces, on one backbone: lightly's losses and heads, the same two recipes for all.

Read `LeJEPA` first, then what the others need beside it.  Every method encodes its views one after another,
and can be trained by either of two recipes, at its learning rate times `lr_times`:
`sgd`, that of lightly's published CIFAR-10 benchmark (momentum 0.9, weight decay 5e-4, 0.06 at batch 128);
`adamw`, 2e-3 with a warm-up over a tenth of the steps and weight decay 5e-4.
Both decay by a cosine to zero at the last step.  Momentum is 0.99 for the teachers, as in that benchmark.
"""

from __future__ import annotations

import copy
import inspect
import math

import lightly.loss
import torch
from lightly.models import ResNetGenerator
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from benchmarks import augment
from sigreg_adapters.lightly import LeJEPALoss, LeJEPAProjectionHead

OPTIMIZERS = ("sgd", "adamw")


class Method(nn.Module):
    """What all methods share: backbone, augmentation, optimizers.  `loss` is the method."""

    views = 2
    own = "sgd"  # the optimizer of its documented recipe
    scaled = True  # whether its learning rate for SGD grows with the batch

    def __init__(self, cfg: DictConfig, channels: int, steps: int) -> None:
        super().__init__()
        self.cfg, self.steps, self.epoch = cfg, steps, 0
        net = ResNetGenerator(cfg.backbone, width=cfg.width)
        net.conv1 = nn.Conv2d(channels, net.conv1.out_channels, 3, cfg.stem_stride, 1, bias=False)
        self.dim = net.linear.in_features
        layers = list(net.children())[:-1]
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.backbone.to(memory_format=torch.channels_last)  # a fifth faster on a CPU without AVX-512
        self.build()

    def build(self) -> None:
        """Heads and criterion, for a backbone of `self.dim` features."""
        raise NotImplementedError

    def loss(self, views: list[Tensor]) -> Tensor:
        """The scalar to minimise, of `self.views` views (N, C, H, W)."""
        raise NotImplementedError

    def forward(self, batch: Tensor) -> Tensor:
        """The loss of a batch of uint8 images (N, C, H, W)."""
        x, scale = batch.float().div(255), tuple(self.cfg.crop_scale)
        return self.loss(list(augment.views(x, self.views, scale, flip=self.cfg.flip, noise=0.0)))

    def optimizer(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """The optimizer that the configuration names, or the method's own, with its schedule by steps."""
        times, on_gpu = float(self.cfg.lr_times), next(self.parameters()).is_cuda
        if (self.cfg.get("optimizer") or self.own) == "adamw":
            optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3 * times, weight_decay=5e-4, fused=on_gpu)
            warmup = max(1, self.steps // 10)
        else:
            lr = 0.06 * times * (self.cfg.batch_size / 128 if self.scaled else 1)
            optimizer = torch.optim.SGD(
                self.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, fused=on_gpu
            )
            warmup = 1

        def rate(step: int) -> float:
            return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * min(step / self.steps, 1)))

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


class LeJEPA(Method):
    """One encoder, one projector, one loss with one hyperparameter.

    The projector is narrower than its default, which `LeJEPADefaultHead` has.
    """

    own = "adamw"

    def build(self) -> None:
        self.head = LeJEPAProjectionHead(self.dim, hidden_dim=512)
        self.criterion = LeJEPALoss()

    def loss(self, views: list[Tensor]) -> Tensor:
        return self.criterion([self.head(self.backbone(x)) for x in views])


class LeJEPADefaultHead(LeJEPA):
    """The same with the projector's default hidden width, 2048."""

    def build(self) -> None:
        self.head = LeJEPAProjectionHead(self.dim)
        self.criterion = LeJEPALoss()


class LeJEPAFourViews(LeJEPA):
    """The same with two global and two further views."""

    views = 4

    def loss(self, views: list[Tensor]) -> Tensor:
        return self.criterion([self.head(self.backbone(x)) for x in views], num_global=2)


class LightlyLeJEPA(LeJEPA):
    """lightly's own LeJEPALoss, which needs a view beside the two global ones."""

    views = 4

    def build(self) -> None:
        self.head = LeJEPAProjectionHead(self.dim, hidden_dim=512)
        self.criterion = lightly.loss.LeJEPALoss()

    def loss(self, views: list[Tensor]) -> Tensor:
        z = torch.stack([self.head(self.backbone(x)) for x in views])
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
        return self.criterion(teacher, student, epoch=self.epoch)


class SimSiam(Method):
    """A predictor and a stop-gradient between two views."""

    scaled = False

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


class SimCLR(Method):
    """Every other image in the batch is a negative."""

    def build(self) -> None:
        self.head = heads.SimCLRProjectionHead(self.dim, self.dim, 128)
        self.criterion = lightly.loss.NTXentLoss()

    def loss(self, views: list[Tensor]) -> Tensor:
        z0, z1 = (self.head(self.backbone(x)) for x in views)
        return nt_xent(z0, z1) if z0.is_cuda else self.criterion(z0, z1)


def nt_xent(z0: Tensor, z1: Tensor, temperature: float = 0.5) -> Tensor:
    """lightly's NTXentLoss without its boolean index, for which the host must wait (no CUDA graph can)."""
    z = normalize(torch.cat([z0, z1]), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    other_view = torch.arange(len(z), device=z.device).roll(len(z0))
    return cross_entropy(similarity, other_view)


METHODS: dict[str, type[Method]] = {
    "lejepa": LeJEPA,
    "lejepa-2048": LeJEPADefaultHead,
    "lejepa-4": LeJEPAFourViews,
    "lightly-lejepa": LightlyLeJEPA,
    "byol": BYOL,
    "dino": DINO,
    "simsiam": SimSiam,
    "simclr": SimCLR,
}


def untrained(name: str, cfg: DictConfig, images: Tensor) -> nn.Module:
    """What an accuracy is compared with: `pixels`, or the backbone of all methods with random weights.

    Pixels are standardised within each image, which removes its brightness and contrast.
    """
    if name == "pixels":
        size = images[0].numel()
        return nn.Sequential(nn.Flatten(), nn.LayerNorm(size, elementwise_affine=False))
    return LeJEPA(cfg, images.shape[1], 1).backbone


BASELINES = ("pixels", "untrained")


def lines(name: str) -> int:
    """Lines of code between `build` and the loss, inherited ones included: what a user writes."""
    total = 0
    for function in ("build", "prototypes", "loss"):
        found = getattr(METHODS[name], function, None)
        if found is not None:
            source = inspect.getsource(found).splitlines()
            total += sum(1 for line in source if line.strip() and not line.strip().startswith("#"))
    return total

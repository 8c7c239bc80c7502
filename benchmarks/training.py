"""One LeJEPA run: a backbone trained under Lightning, then frozen and probed."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any, NamedTuple, TypeAlias

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import augment, data, probes
from sigreg import LeJEPALoss, SIGReg

# What they say at every start; errors still come through.  Under both names, which share one logger.
for noisy in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
    logging.getLogger(noisy).setLevel(logging.ERROR)


Features: TypeAlias = NDArray[np.float32]


class Held(NamedTuple):
    """The selection split: images `(n, C, H, W)` in uint8 and their labels."""

    images: Tensor
    labels: Tensor


OWN = ("small", "narrow-resnet-9")  # backbones that timm does not have


class SmallNet(nn.Sequential):
    """Three convolutions and a global average: 128 features, for images of a few pixels."""

    num_features = 128

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for width, stride in ((16, 1), (64, 2), (self.num_features, 2)):
            layers += [
                nn.Conv2d(channels, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(True),
            ]
            channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def backbone(name: str, channels: int, size: int, small_stem: bool = False) -> tuple[nn.Module, int]:
    """The network of a name, and how many features it gives.

    `small_stem` lets a ResNet begin with a 3 x 3 convolution at full resolution, as is usual on 32 pixels.
    """
    if name == "small":
        return SmallNet(channels), SmallNet.num_features
    if name == "narrow-resnet-9":
        return _narrow_resnet(channels)
    import timm

    kwargs = {"img_size": size, "dynamic_img_size": True} if "vit" in name else {}
    net = timm.create_model(name, num_classes=0, in_chans=channels, **kwargs)
    if small_stem:
        net.conv1 = nn.Conv2d(channels, net.conv1.out_channels, 3, 1, 1, bias=False)
        net.maxpool = nn.Identity()
    return net, int(net.num_features)


def _narrow_resnet(channels: int) -> tuple[nn.Module, int]:
    """lightly's ResNet-9 at a quarter of its width with a stride-2 stem, the backbone of `hosts`."""
    from lightly.models import ResNetGenerator

    net = ResNetGenerator("resnet-9", width=0.25)
    net.conv1 = nn.Conv2d(channels, net.conv1.out_channels, 3, 2, 1, bias=False)
    layers = list(net.children())[:-1]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), int(net.linear.in_features)


def projector(features: int, width: int | None, hidden: int) -> nn.Module:
    """An MLP with BatchNorm to `width` numbers; none for None."""
    if width is None:
        return nn.Identity()
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(True)]
        features = hidden
    return nn.Sequential(*layers, nn.Linear(features, width))


class ExactSIGReg(nn.Module):
    """Infinitely many slices in closed form, in the place of a `SIGReg`."""

    group = None

    def forward(self, z: Tensor, weights: Tensor | None = None, *, step: int | None = None) -> Tensor:
        from sigreg.multivariate import exact_sigreg

        return torch.stack([exact_sigreg(view) for view in z]).mean()


class NoSIGReg(nn.Module):
    """Nothing in the place of a `SIGReg`: what happens without."""

    group = None

    def forward(self, z: Tensor, weights: Tensor | None = None, *, step: int | None = None) -> Tensor:
        return z.new_zeros(())


def objective(cfg: DictConfig) -> LeJEPALoss:
    """The loss that a configuration describes."""
    if cfg.statistic == "none":
        return LeJEPALoss(cfg.lambda_param, NoSIGReg())  # type: ignore[arg-type]
    if cfg.statistic == "exact_sigreg":
        return LeJEPALoss(cfg.lambda_param, ExactSIGReg())  # type: ignore[arg-type]
    grid = {key: cfg[key] for key in ("t_max", "num_points") if cfg[key] is not None}
    sigreg = SIGReg(
        cfg.statistic, num_slices=cfg.num_slices, directions=cfg.directions, seed=cfg.seed, **grid
    )
    return LeJEPALoss(cfg.lambda_param, sigreg)


class Pretraining(L.LightningModule):
    """Views, embeddings, loss: a LeJEPA step has nothing else."""

    def __init__(self, cfg: DictConfig, images: Tensor, steps: int) -> None:
        super().__init__()
        self.cfg, self.steps = cfg, steps
        size = cfg.size or images.shape[-1]
        self.backbone, features = backbone(cfg.backbone, images.shape[1], size, cfg.small_stem)
        self.backbone.to(memory_format=torch.channels_last)  # on a CPU almost twice as fast
        self.projector = projector(features, cfg.projector_width, cfg.projector_hidden)
        self.criterion = objective(cfg)
        if not cfg.resample:
            self.criterion.sigreg.eval()  # in eval mode the slices stay
        pixels = images.float().div(255)
        self.register_buffer("mean", pixels.mean((0, 2, 3), keepdim=True))
        self.register_buffer("std", pixels.std((0, 2, 3), keepdim=True))

    def features(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to features `(n, F)`."""
        x = (x - self.mean) / self.std
        out: Tensor = self.backbone(x.contiguous(memory_format=torch.channels_last))
        return out

    def views(self, x: Tensor) -> list[Tensor]:
        """Global crops, then local ones, each `(V, N, C, h, w)`."""
        c = self.cfg
        look = {"flip": c.flip, "rotate": c.rotate, "jitter": c.jitter, "noise": c.noise}
        parts = [augment.views(x, c.global_views, tuple(c.global_scale), size=c.size, **look)]
        if c.local_views:
            size = c.local_size or c.size
            parts.append(augment.views(x, c.local_views, tuple(c.local_scale), size=size, **look))
        return [torch.cat(parts)] if len({part.shape[-1] for part in parts}) == 1 else parts

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        x = batch.float().div(255)
        z = [
            self.projector(self.features(part.flatten(0, 1))).unflatten(0, part.shape[:2])
            for part in self.views(x)
        ]
        parts = self.criterion.components(torch.cat(z), num_global=self.cfg.global_views)
        names = ("loss", "prediction", "sigreg")
        self.log_dict(dict(zip(names, parts, strict=True)), on_step=False, on_epoch=True)
        return parts.total

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.cfg.lr, weight_decay=self.cfg.weight_decay)
        warmup = max(1, self.steps // 10)

        def rate(step: int) -> float:
            return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * min(step / self.steps, 1)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Batches(Dataset[Tensor]):
    """Images by whole batches: one indexing instead of one per image."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]

    def __getitems__(self, i: list[int]) -> Tensor:
        return self.images[torch.tensor(i)]


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what would fail in training or in the probes."""
    if cfg.backbone not in OWN:
        import timm

        if not timm.is_model(cfg.backbone):
            raise ValueError(
                f"backbone={cfg.backbone!r} is unknown to timm; use {' or '.join(OWN)}, or a name timm lists"
            )
    if cfg.small_stem and "resnet" not in cfg.backbone:
        raise ValueError(f"small_stem=true is for ResNets, not for backbone={cfg.backbone!r}")
    if cfg.global_views < 1 or cfg.global_views + cfg.local_views < 2:
        raise ValueError("a LeJEPA run needs at least one global view and two views in all")
    if cfg.max_steps is not None and cfg.max_images is not None:
        raise ValueError("max_steps and max_images both end a run; give one of them")
    try:
        objective(cfg)
    except TypeError as error:
        raise ValueError(str(error)) from None
    data.check(cfg.data, cfg.data_root)
    images, _ = splits(cfg)
    probes.check(cfg.labels, images.train_labels.numpy(), cfg.probes)
    if len(images.train) < cfg.batch_size * cfg.devices:
        raise ValueError(
            f"batch_size={cfg.batch_size} on each of {cfg.devices} devices is more than the "
            f"{len(images.train)} training images"
        )


def splits(cfg: DictConfig) -> tuple[data.Images, Held | None]:
    """Training and test images, and the selection split.

    Every `select_every`-th training image is held out, from training and from the probes' labels: what is
    called best is chosen on those images and reported on the test images.  Null: no such split.
    """
    images = data.load(cfg.data, cfg.data_root, cfg.size, cfg.images)
    if cfg.select_every is None:
        return images, None
    held = torch.arange(len(images.train)) % cfg.select_every == cfg.select_every - 1
    selection = Held(images.train[held], images.train_labels[held])
    kept = images._replace(train=images.train[~held], train_labels=images.train_labels[~held])
    return kept, selection


def planned_steps(cfg: DictConfig, train_images: int) -> tuple[bool, int]:
    """Whether steps or images limit a run instead of epochs, and its number of steps.

    `drop_last` makes an epoch of a large batch shorter, so equal epochs are not equal images.
    """
    batch = cfg.batch_size * cfg.devices
    if cfg.max_steps is not None or cfg.max_images is not None:
        return True, cfg.max_steps or cfg.max_images // batch
    return False, cfg.epochs * (train_images // batch)


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Train, freeze, probe: losses of the last epoch, accuracies, effective rank."""
    images, selection = splits(cfg)
    loader = DataLoader(Batches(images.train), cfg.batch_size, shuffle=True, drop_last=True, collate_fn=_same)
    capped, steps = planned_steps(cfg, len(images.train))
    model = Pretraining(cfg, images.train, steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and logging intervals
        trainer = L.Trainer(
            max_epochs=-1 if capped else cfg.epochs,
            max_steps=steps if capped else -1,
            accelerator=cfg.accelerator,
            devices=cfg.devices,
            strategy="auto" if cfg.devices == 1 else "ddp_spawn",
            precision=cfg.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, loader)
    losses = {key: float(trainer.callback_metrics[key]) for key in ("loss", "prediction", "sigreg")}
    train, test, *held = embedded(
        model, [images.train, images.test, *([selection.images] if selection else [])], cfg
    )
    return {
        "method": "lejepa",
        "steps": steps,
        "images_seen": steps * cfg.batch_size * cfg.devices,
        **losses,
        **probed(train, test, images, cfg, held[0] if held else None, selection),
    }


def _same(batch: Tensor) -> Tensor:
    return batch


@torch.no_grad()
def embedded(model: Pretraining, parts: list[Tensor], cfg: DictConfig) -> list[Features]:
    """Frozen features `(n, F)` of each stack of images."""
    model.eval()
    if torch.cuda.is_available() and cfg.accelerator != "cpu":
        model.cuda()

    def embed(x: Tensor) -> Features:
        parts = (model.features(part.to(model.device).float().div(255)) for part in x.split(512))
        return torch.cat([part.float().cpu() for part in parts]).numpy()

    return [embed(part) for part in parts]


def probed(
    train: Features,
    test: Features,
    images: data.Images,
    cfg: DictConfig,
    held: Features | None = None,
    selection: Held | None = None,
) -> dict[str, Any]:
    """Accuracies of all probes; `accuracy` is the linear one with the most labels on the test images.

    `selection` is the same on the selection split: every choice between settings is made by it.
    """
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        return {"diverged": True, "accuracy": None, "selection": None, "effective_rank": None}
    scored = {"": probes.Split(test, images.test_labels.numpy())}
    if held is not None and selection is not None:
        scored["selection_"] = probes.Split(held, selection.labels.numpy())
    row = probes.accuracies(
        probes.Split(train, images.train_labels.numpy()),
        scored,
        labels=list(cfg.labels),
        draws=cfg.draws,
        probes=list(cfg.probes),
    )
    most = list(cfg.labels)[-1]
    return {
        "diverged": False,
        "accuracy": row[f"linear_{most}"],
        "selection": row.get(f"selection_linear_{most}"),
        **row,
        "effective_rank": round(probes.effective_rank(test), 3),
    }

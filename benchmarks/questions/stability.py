"""Is training stable at any learning rate, depth, width and normalisation, and what does each heuristic do?

LeJEPA, and lightly's BYOL, SimSiam and DINO as in `benchmarks.hosts`, whole and with one part removed at a
time (`without`), on digits with small convolutional encoders.  A run counts as collapsed by its embeddings,
which the loss sees, and not by its features.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks import data, hosts, probes, stability_figure
from benchmarks.hosts import Method
from benchmarks.stability_figure import REMOVABLE, table

__all__ = ["check", "figure", "measure", "measured_code", "table"]

measured_code = ("benchmarks/hosts.py", "benchmarks/augment.py", "benchmarks/probes.py", "sigreg")
NORMS = ("none", "batch", "layer")
SPREAD = 0.1  # of normalised embeddings, 1 when their directions are even: below this they are one point
RANK = 1.5  # effective rank of the embeddings: below this they are a line
WINDOW = 10  # steps over which a loss is averaged before its roughness is taken


def check(cfg: DictConfig) -> None:
    """Raises ValueError for an unknown method, norm or part."""
    if cfg.method not in REMOVABLE:
        raise ValueError(f"method={cfg.method!r} is unknown; use one of {', '.join(REMOVABLE)}")
    if cfg.without not in (None, *REMOVABLE[cfg.method]):
        raise ValueError(
            f"without={cfg.without!r}: {cfg.method} has {', '.join(REMOVABLE[cfg.method])} to remove, or null"
        )
    if cfg.norm not in NORMS:
        raise ValueError(f"norm={cfg.norm!r} is unknown; use one of {', '.join(NORMS)}")
    data.check(cfg.data, cfg.data_root)


def encoder(channels: int, depth: int, width: int, norm: str) -> nn.Sequential:
    """`depth` convolutions of `width` channels, a global average: `width` features."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Conv2d(channels, width, 3, 2 if i in (1, 3) else 1, 1, bias=norm == "none"))
        if norm != "none":  # LayerNorm over channels and places: GroupNorm with one group
            layers.append(nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(1, width))
        layers.append(nn.ReLU(True))
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def method_of(cfg: DictConfig, channels: int, steps: int) -> Method:
    """The method with this encoder in the place of its ResNet, less what is removed."""
    whole = hosts.METHODS[cfg.method]
    loss = LOSSES.get((cfg.method, cfg.without))

    class Small(whole):  # type: ignore[misc,valid-type]
        own = "adamw"  # one optimizer for all: lr_times then means the same

        def build(self) -> None:
            self.backbone = encoder(channels, cfg.depth, cfg.width, cfg.norm)
            self.dim = cfg.width
            super().build()
            if cfg.without == "predictor":
                self.prediction_head = nn.Identity()
            if cfg.without == "centring":
                self.criterion.center_momentum = 1.0  # the centre stays at zero

        def loss(self, views: list[Tensor]) -> Tensor:
            return super().loss(views) if loss is None else loss(self, views)

    # The ResNet that `Method` makes first is thrown away, so it is as small as it gets.
    given = {"backbone": "resnet-9", "width": 0.0625, "stem_stride": 2, "lr_times": cfg.lr / 2e-3}
    keys = ("batch_size", "crop_scale", "flip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # weight_norm in lightly's DINO head
        return Small(OmegaConf.create(given | {key: cfg[key] for key in keys}), channels, steps)


def _prediction_only(m: Any, views: list[Tensor]) -> Tensor:
    """LeJEPA without SIGReg: the distance of the views from their mean."""
    z = torch.stack([m.head(m.backbone(x)) for x in views])
    return (z - z.mean(0)).square().mean()


def _byol_without_teacher(m: Any, views: list[Tensor]) -> Tensor:
    """The student's own embeddings as targets, without gradient."""
    return _siamese(m, views, detach=True)


def _both_sides(m: Any, views: list[Tensor]) -> Tensor:
    """No stop-gradient; a teacher that is an average has no gradient to let through, so the student is its
    own target."""
    return _siamese(m, views, detach=False)


def _siamese(m: Any, views: list[Tensor], detach: bool) -> Tensor:
    z0, z1 = (m.head(m.backbone(x)) for x in views)
    p0, p1 = m.prediction_head(z0), m.prediction_head(z1)
    t0, t1 = (z0.detach(), z1.detach()) if detach else (z0, z1)
    loss: Tensor = 0.5 * (m.criterion(p0, t1) + m.criterion(p1, t0))
    return loss


def _dino_without_teacher(m: Any, views: list[Tensor]) -> Tensor:
    """The student's own prototypes as targets, without gradient."""
    student = [m.head(m.backbone(x)) for x in views]
    loss: Tensor = m.criterion([out.detach() for out in student], student, epoch=m.epoch)
    return loss


LOSSES = {
    ("lejepa", "sigreg"): _prediction_only,
    ("byol", "teacher"): _byol_without_teacher,
    ("byol", "stop_gradient"): _both_sides,
    ("simsiam", "stop_gradient"): _both_sides,
    ("dino", "teacher"): _dino_without_teacher,
}


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Train; losses and effective ranks on the way, accuracies at the end."""
    images = data.load(cfg.data, cfg.data_root)
    method = method_of(cfg, images.train.shape[1], cfg.max_steps)
    optimizer, schedule = method.optimizer()
    curve: dict[str, list[float]] = {"step": [], "rank": [], "spread": []}
    losses: list[float] = []
    diverged, batches = False, len(images.train) // cfg.batch_size
    torch.manual_seed(cfg.seed)  # the same order for every method and encoder
    for step in range(cfg.max_steps):
        if step % batches == 0:
            order = torch.randperm(len(images.train))
            method.epoch = step // batches
        if step % cfg.every == 0:
            _watch(method, images.test, step, curve)
        method.train()
        chosen = order[step % batches * cfg.batch_size :][: cfg.batch_size]
        loss = method(images.train[chosen])
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            diverged = True
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    features, embeddings = _embedded(method, images.test)
    diverged = diverged or not bool(features.isfinite().all() and embeddings.isfinite().all())
    row = {"steps": len(losses), "diverged": diverged, "roughness": roughness(losses)}
    row["loss"] = None if diverged else round(float(np.mean(losses[-WINDOW:])), 5)
    if not diverged:
        _watch(method, images.test, cfg.max_steps, curve)
        rank, spread = curve["rank"][-1], curve["spread"][-1]
        row |= {"embedding_rank": rank, "spread": spread, "collapsed": spread < SPREAD or rank < RANK}
        row["effective_rank"] = round(probes.effective_rank(features.numpy()), 3)
        row |= _scores(_embedded(method, images.train)[0], features, images, cfg)
    thin = max(1, len(losses) // 60)
    row |= {f"curve_{name}": values for name, values in curve.items()}
    return row | {"curve_loss": [round(value, 4) for value in losses[::thin]]}


def _scores(train: Tensor, test: Tensor, images: data.Images, cfg: DictConfig) -> dict[str, float]:
    found = probes.accuracies(
        probes.Split(train.numpy(), images.train_labels.numpy()),
        {"": probes.Split(test.numpy(), images.test_labels.numpy())},
        labels=[cfg.labels],
        draws=cfg.draws,
        probes=["knn", "linear"],
    )
    return {key.rpartition("_")[0]: value for key, value in found.items()}


@torch.no_grad()
def _embedded(method: Method, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and what the head makes of them."""
    method.eval()
    features = method.backbone(images.float().div(255))
    return features, method.head(features)


def _watch(method: Method, images: Tensor, step: int, curve: dict[str, list[float]]) -> None:
    """Effective rank of the embeddings, and their spread over directions (1: even, 0: one point)."""
    z = _embedded(method, images)[1]
    spread = normalize(z, dim=1).var(0, correction=0).sum().sqrt()
    found = (step, probes.effective_rank(z.numpy()), float(spread))
    for name, value in zip(("step", "rank", "spread"), found, strict=True):
        curve[name].append(round(value, 4))


def roughness(losses: list[float]) -> float | None:
    """How far a loss travels up and down, over its range: 1 if it falls all the way.

    Of means over `WINDOW` steps, so that the noise of a batch does not count; None where it is not finite or
    too short.
    """
    whole = np.array(losses[: len(losses) // WINDOW * WINDOW]).reshape(-1, WINDOW).mean(1)
    if len(whole) < 3 or not np.isfinite(whole).all() or np.ptp(whole) < 1e-9:
        return None
    return round(float(np.abs(np.diff(whole)).sum() / np.ptp(whole)), 3)


def figure(frame: pd.DataFrame) -> Figure:
    """Whole methods and those without a part: which fail, accuracy, rank over steps."""
    return stability_figure.draw(frame, rank=RANK, spread=SPREAD)

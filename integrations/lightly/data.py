"""Images for the lightly recipes: digits (embedded in scikit-learn), CIFAR-10 or a folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.transforms.utils import IMAGENET_NORMALIZE
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from sigreg_adapters.lightly import LeJEPATransform


@dataclass(frozen=True)
class Images:
    """A data set in two splits, and what its augmentations should look like."""

    train: Dataset[Any]
    test: Dataset[Any]
    size: int
    view: dict[str, Any]  # settings of lightly's DINOViewTransform, the same for every method
    global_scale: tuple[float, float] = (0.3, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.3)

    def transform(self, num_global: int, num_local: int) -> LeJEPATransform:
        return LeJEPATransform(
            num_global,
            num_local,
            global_crop_size=self.size,
            global_crop_scale=self.global_scale,
            local_crop_size=self.size,  # small images: local views differ in scale alone
            local_crop_scale=self.local_scale,
            **self.view,
        )

    def plain(self) -> Callable[[Image.Image], Tensor]:
        """One view without augmentation, for evaluation."""
        return T.Compose(
            [
                T.Resize(self.size, T.InterpolationMode.BICUBIC),
                T.CenterCrop(self.size),
                T.ToTensor(),
                T.Normalize(**self.view["normalize"]),
            ]
        )


class _Digits(Dataset[Any]):
    """Digits as a torchvision data set: images with an optional `transform`."""

    transform: Callable[[Image.Image], Any] | None = None

    def __init__(self, indices: np.ndarray, pixels: np.ndarray, labels: np.ndarray) -> None:
        grey = (pixels[indices] * (255 / 16)).astype(np.uint8)
        self.images = [Image.fromarray(image).convert("RGB") for image in grey]
        self.labels = labels[indices]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image = self.images[i]
        return image if self.transform is None else self.transform(image), int(self.labels[i])


def digits() -> Images:
    """1,797 handwritten digits of 8 x 8 pixels; three quarters to train on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train, test = train_test_split(
        np.arange(len(data.target)), test_size=0.25, stratify=data.target, random_state=0
    )
    view = {
        "hf_prob": 0.0,
        "rr_prob": 0.5,
        "rr_degrees": 15.0,
        "cj_strength": 0.5,
        "cj_sat": 0.0,
        "cj_hue": 0.0,
        "random_gray_scale": 0.0,
        "gaussian_blur": 0.0,
        "solarization_prob": 0.0,
        "normalize": {"mean": [0.3] * 3, "std": [0.35] * 3},
    }
    splits = (_Digits(indices, data.images, data.target) for indices in (train, test))
    return Images(*splits, size=16, view=view, global_scale=(0.5, 1.0), local_scale=(0.3, 0.6))


def cifar10(root: str = "data") -> Images:
    """CIFAR-10 through torchvision, downloaded at first use."""
    train, test = (torchvision.datasets.CIFAR10(root, train=split, download=True) for split in (True, False))
    view = {"gaussian_blur": 0.0, "solarization_prob": 0.1, "normalize": IMAGENET_NORMALIZE}
    return Images(train, test, size=32, view=view, global_scale=(0.2, 1.0), local_scale=(0.08, 0.4))


def folder(path: Path, size: int) -> Images:
    """An image folder `path/train/<class>/*` and `path/test/<class>/*`."""
    for split in ("train", "test"):
        if not (path / split).is_dir():
            raise SystemExit(
                f"--data {path}: no folder {path / split}; expected {path}/train/<class>/<image>"
            )
    train, test = (torchvision.datasets.ImageFolder(str(path / split)) for split in ("train", "test"))
    view = {"gaussian_blur": 0.0, "solarization_prob": 0.1, "normalize": IMAGENET_NORMALIZE}
    return Images(train, test, size=size, view=view, global_scale=(0.2, 1.0), local_scale=(0.08, 0.4))


def load(name: str, size: int = 32) -> Images:
    """digits, cifar10 or the path of an image folder."""
    return (
        {"digits": digits, "cifar10": cifar10}[name]()
        if name in ("digits", "cifar10")
        else folder(Path(name), size)
    )


def _lightly(dataset: Dataset[Any], transform: Callable[[Image.Image], Any]) -> LightlyDataset:
    """As a LightlyDataset, which sets the transform on the data set it is given: on a copy, then."""
    return LightlyDataset.from_torch_dataset(copy.copy(dataset), transform=transform)


def views_loader(
    images: Images, num_global: int, num_local: int, batch_size: int, workers: int
) -> DataLoader[Any]:
    """lightly's batches: (list of views, labels, file names)."""
    dataset = _lightly(images.train, images.transform(num_global, num_local))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


@torch.no_grad()
def embed(backbone: torch.nn.Module, images: Images, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and labels of a split, without augmentation."""
    dataset = _lightly(getattr(images, split), images.plain())
    backbone.eval()
    batches = [(backbone(x).flatten(1), y) for x, y, _ in DataLoader(dataset, batch_size=256)]
    features, labels = zip(*batches, strict=True)
    return torch.cat(features).numpy(), torch.cat(labels).numpy()

"""Images in memory: uint8 tensors with labels, whatever they came from."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NAMES = ("digits", "cifar10", "fashion_mnist")


class Images(NamedTuple):
    """Training and test images `(n, C, H, W)` in uint8, with their labels `(n,)`."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def check(data: str, root: str, size: int | None = None) -> None:
    """Raises ValueError when `load` could not find such images."""
    if data in NAMES:
        return
    folder = Path(data).expanduser()
    for part in ("train", "test"):
        if not any((folder / part).glob("*/*")):
            raise ValueError(
                f"data={data!r} is none of {', '.join(NAMES)}, nor a folder with {part}/CLASS/IMAGE; "
                f"lay it out as DIR/train/CLASS/*.png and DIR/test/CLASS/*.png"
            )


@functools.lru_cache(maxsize=2)
def load(
    data: str = "digits", root: str = "data", size: int | None = None, images: int | None = None
) -> Images:
    """The images of a name or a folder; the first `images` a class for training, where given."""
    check(data, root, size)
    if data == "digits":
        loaded = _digits()
    elif data in NAMES:
        loaded = Images(*_torchvision(data, root, True), *_torchvision(data, root, False))
    else:
        folder = Path(data).expanduser()
        loaded = Images(*_folder(folder / "train", size), *_folder(folder / "test", size))
    if images is not None:
        kept = torch.cat(
            [(loaded.train_labels == c).nonzero()[:images, 0] for c in loaded.train_labels.unique()]
        )
        loaded = loaded._replace(train=loaded.train[kept], train_labels=loaded.train_labels[kept])
    return loaded


def _digits() -> Images:
    """Scikit-learn's 1,797 digits of 8 x 8 pixels; every fourth one tests."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    y = torch.from_numpy(digits.target).long()
    test = torch.arange(len(y)) % 4 == 3
    return Images(x[~test], y[~test], x[test], y[test])


def _torchvision(data: str, root: str, train: bool) -> tuple[Tensor, Tensor]:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "fashion_mnist": datasets.FashionMNIST}[data]
    found = kind(root, train=train, download=True)
    x = torch.as_tensor(np.asarray(found.data))
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    return x.contiguous(), torch.as_tensor(found.targets)


def _folder(folder: Path, size: int | None) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import ImageFolder

    found = ImageFolder(str(folder), transform=None if size is None else lambda im: im.resize((size, size)))
    shapes = {found[0][0].size, found[-1][0].size}
    try:
        x = np.stack([np.asarray(image) for image, _ in found])
    except ValueError:
        raise ValueError(
            f"the images in {folder} differ in size ({shapes}, ...); give size=64, say"
        ) from None
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.tensor(found.targets)

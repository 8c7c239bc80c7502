"""Images in memory: uint8 tensors with labels, whatever they came from.

`python -m benchmarks.data cifar10 DIR` writes CIFAR-10 as a folder of images (`benchmarks.cifar10`), and
`python -m benchmarks.data fashion_mnist DIR` Fashion-MNIST as arrays (`benchmarks.fashion_mnist`).
"""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NAMES = ("digits", "cifar10", "fashion_mnist")
ARRAYS = "images.npz"  # a folder's images once more, as arrays: read in a second instead of a minute


class Images(NamedTuple):
    """Training and test images `(n, C, H, W)` in uint8, with their labels `(n,)`."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def check(data: str, root: str) -> None:
    """Raises ValueError when `load` could not find such images."""
    if data in NAMES:
        return
    folder = Path(data).expanduser()
    if (folder / ARRAYS).exists():
        return
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
    check(data, root)
    if data == "digits":
        loaded = _digits()
    elif data in NAMES:
        loaded = Images(*_torchvision(data, root, True), *_torchvision(data, root, False))
    else:
        folder = Path(data).expanduser()
        if size is None and (folder / ARRAYS).exists():
            loaded = _arrays(folder / ARRAYS)
        else:
            loaded = Images(*_folder(folder / "train", size), *_folder(folder / "test", size))
    if images is not None:
        kept = _of_each(loaded.train_labels, slice(images))
        loaded = loaded._replace(train=loaded.train[kept], train_labels=loaded.train_labels[kept])
    return loaded


def split(
    all_images: Images, images: int | None, selection: int | None
) -> tuple[Images, tuple[Tensor, Tensor]]:
    """The first `images` a class to train on, and the last `selection` a class to choose settings by.

    Both are training images; None is all of them and none of them.  The test images stay as they are.
    Raises ValueError when a class has too few.
    """
    labels = all_images.train_labels
    fewest, selection = int(labels.bincount().min()), selection or 0
    images = fewest - selection if images is None and selection else images
    if (images or 1) + selection > fewest:
        raise ValueError(f"images={images} and selection={selection}: a class has {fewest} training images")
    kept = slice(None) if images is None else _of_each(labels, slice(images))
    held = _of_each(labels, slice(-selection, None)) if selection else labels.new_empty(0)
    train = all_images._replace(train=all_images.train[kept], train_labels=labels[kept])
    return train, (all_images.train[held], labels[held])


def _of_each(labels: Tensor, part: slice) -> Tensor:
    """The indices of a part of each class."""
    return torch.cat([(labels == c).nonzero()[part, 0] for c in labels.unique()])


@functools.lru_cache(maxsize=4)
def digest(data: str, root: str = "data", size: int | None = None) -> str:
    """The first 12 digits of the SHA-256 of all images and labels, for the rows."""
    found = hashlib.sha256()
    for part in load(data, root, size):
        found.update(str(tuple(part.shape)).encode() + part.contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


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


def _arrays(path: Path) -> Images:
    with np.load(path) as found:
        train, test = (torch.from_numpy(found[f"{part}_images"]) for part in ("train", "test"))
        labels = [torch.from_numpy(found[f"{part}_labels"]).long() for part in ("train", "test")]
    train, test = (x.permute(0, 3, 1, 2).contiguous() for x in (train, test))
    return Images(train, labels[0], test, labels[1])


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


if __name__ == "__main__":
    from benchmarks import cifar10, fashion_mnist

    writers = {"cifar10": cifar10.write, "fashion_mnist": fashion_mnist.write}
    if len(sys.argv) != 3 or sys.argv[1] not in writers:
        raise SystemExit(f"usage: python -m benchmarks.data {'|'.join(writers)} DIR")
    writers[sys.argv[1]](Path(sys.argv[2]))
    print(f"data_sha256 {digest(sys.argv[2])}")

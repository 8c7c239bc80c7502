"""Run a script of solo-learn on CIFAR-10 without a download and within reach of a CPU.

    SMALL_CIFAR=500 python small_cifar.py CLONE/main_pretrain.py ... backbone.name=small_resnet18

Two things are put in the place of others before the script starts, for every method alike; the script,
the methods and their configs stay solo-learn's own:

1. `dataset: cifar10` reads the image folder `data.train_path`/{train,test}/<class>/, SMALL_CIFAR training
   images of each class, where torchvision would download the archive.
2. `backbone.name: small_resnet18` is a ResNet-18 with its usual strided stem.  (solo-learn gives
   `resnet18` on CIFAR a stem without stride, which costs 15 times as much.)
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision
from torch import nn
from torchvision.datasets import ImageFolder


class FolderCIFAR10(ImageFolder):
    """CIFAR-10's signature over an image folder."""

    def __init__(self, root: str, train: bool, download: bool, transform: Callable[..., Any]) -> None:
        super().__init__(str(Path(root) / ("train" if train else "test")), transform)
        if train:
            keep, seen = int(os.environ["SMALL_CIFAR"]), [0] * len(self.classes)
            kept = []
            for path, label in self.samples:
                seen[label] += 1
                if seen[label] <= keep:
                    kept.append((path, label))
            self.samples = self.imgs = kept
            self.targets = [label for _, label in kept]


def small_resnet18(method: str, **kwargs: Any) -> nn.Module:
    """A backbone by solo-learn's contract: takes the method's name, ends in features, knows their number."""
    model = torchvision.models.resnet18(**kwargs)
    model.num_features = model.fc.in_features
    model.fc = nn.Identity()
    return model


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
    from solo.methods.base import BaseMethod

    torchvision.datasets.CIFAR10 = FolderCIFAR10
    BaseMethod._BACKBONES["small_resnet18"] = small_resnet18
    runpy.run_path(sys.argv[0], run_name="__main__")

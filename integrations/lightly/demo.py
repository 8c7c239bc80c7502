"""The demo: pretrain on scikit-learn's digits without labels, then ask what the encoder learnt.

    python -m integrations.lightly.demo
    python -m integrations.lightly.demo --method byol --out runs/byol     # or dino, simsiam

Compares k-NN and linear accuracy with 1, 5 and 10 labels a class for raw pixels, the untrained
encoder and the encoder after LeJEPA; writes report.json and report.png to runs/demo.  Of another
method there is the report alone.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch

from integrations.lightly import data, picture, pretrain, probes

RECIPE = ["--data", "digits", "--epochs", "40", "--projection-dim", "16", "--out", "runs/demo"]


def features(backbone: torch.nn.Module, images: data.Images) -> tuple[probes.Split, probes.Split]:
    return data.embed(backbone, images, "train"), data.embed(backbone, images, "test")


def pixels(images: data.Images) -> tuple[probes.Split, probes.Split]:
    train, test = (
        (
            np.stack([np.asarray(image.convert("L"), dtype=np.float32).ravel() for image in split.images]),
            split.labels,
        )
        for split in (images.train, images.test)
    )
    return train, test


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    names = {"pixels": "raw pixels", "random": "untrained encoder"}
    names |= {name: f"{pretrain.NAMES[name]} encoder" for name in results.keys() - names.keys()}
    lines = [f"{'k-NN accuracy, labels a class':30}" + "".join(f"{n:>16}" for n in probes.LABELS)]
    for key, name in names.items():
        cells = (results[key][str(n)] for n in probes.LABELS)
        lines.append(f"{name:30}" + "".join(f"{c['mean']:>9.3f} ± {c['sd']:.3f}" for c in cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    args = pretrain.parse([*RECIPE, *(sys.argv[1:] if arguments is None else arguments)])
    if args.data != "digits":
        raise SystemExit(
            f"--data {args.data}: the demo is of digits; for other data run integrations.lightly.pretrain"
        )
    images = data.digits()
    torch.manual_seed(args.seed)
    untrained = pretrain.build(args, images.size).backbone
    spaces = {"pixels": pixels(images), "random": features(untrained, images)}
    start = time.perf_counter()
    model = pretrain.pretrain(args, images)
    seconds = time.perf_counter() - start
    spaces[args.method] = features(model.backbone, images)
    knn = {name: probes.knn(*space) for name, space in spaces.items()}
    report: dict[str, Any] = {
        "knn": knn,
        "linear": {name: probes.linear(*space) for name, space in spaces.items()},
        "config": {k: str(v) if k == "out" else v for k, v in vars(args).items()},
        "seconds": round(seconds, 1),
        "versions": {
            name: version(name)
            for name in ("sigreg", "torch", "lightly", "pytorch-lightning", "scikit-learn")
        }
        | {"python": platform.python_version(), "cores": os.cpu_count()},
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    if args.method == "lejepa":
        projection = torch.nn.Sequential(model.backbone, model.projection_head)
        log = pd.read_csv(pretrain.log_of(model))
        picture.draw(log, knn, *spaces["lejepa"][1], data.embed(projection, images, "train")[0]).savefig(
            args.out / "report.png", dpi=120
        )
    print(f"\n{table(knn)}\n(mean ± sd over {probes.DRAWS} draws of the labels)\n")
    print("wrote", " and ".join(str(path) for path in sorted(args.out.glob("report.*"))))


if __name__ == "__main__":
    main()

"""Pretrain an encoder without labels: LeJEPA, or one of the recipes it replaces, in lightly.

    python -m integrations.lightly.pretrain --method lejepa --data digits
    python -m integrations.lightly.pretrain --method byol --data cifar10 --backbone resnet18 --epochs 200
    python -m integrations.lightly.pretrain --data PATH      # PATH/train/<class>/*, PATH/test/<class>/*

Writes last.ckpt and log/version_*/metrics.csv to --out; --resume goes on from that checkpoint and
starts the next version of the log.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger

from integrations.lightly import backbones, data, methods
from sigreg_adapters.lightning import GaussianityMonitor

NAMES = {"lejepa": "LeJEPA", "byol": "BYOL", "dino": "DINO", "simsiam": "SimSiam"}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=list(NAMES), default="lejepa")
    parser.add_argument("--data", default="digits", help="digits, cifar10 or the path of an image folder")
    parser.add_argument("--size", type=int, default=32, help="side of a view in pixels, for an image folder")
    parser.add_argument("--backbone", default="small", help="small, or any timm model")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--views", type=int, default=4, help="views of each image (byol and simsiam: 2)")
    parser.add_argument("--num-global", type=int, default=2, help="how many of them are global")
    parser.add_argument("--lambda", type=float, default=0.05, dest="lambda_param", help="weight of SIGReg")
    parser.add_argument("--projection-dim", type=int, default=64, help="width D of LeJEPA's projection")
    parser.add_argument("--lr", type=float, help="learning rate; the method's own by default")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--precision", default="32-true", help="as Lightning's Trainer takes it")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--monitor", type=int, default=0, metavar="STEPS", help="log Gaussianity this often (LeJEPA)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: runs/METHOD")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args(arguments)
    if args.monitor and args.method != "lejepa":
        parser.error(f"--monitor reports on what SIGReg is given, which {args.method} does not use")
    if args.method in ("byol", "simsiam"):
        args.views = args.num_global = 2
    if args.method == "dino":
        args.num_global = 2
    if not 1 <= args.num_global <= args.views:
        parser.error(f"--num-global {args.num_global} must lie in 1...{args.views}, the number of views")
    args.out = args.out or Path("runs") / args.method
    return args


def build(args: argparse.Namespace, size: int) -> pl.LightningModule:
    """The method, for views of `size` pixels."""
    backbone, dim = backbones.create(args.backbone, size)
    if args.method == "lejepa":
        settings = args.num_global, args.lambda_param, args.projection_dim
        return methods.LeJEPA(backbone, dim, *settings, lr=args.lr)
    recipe = {"byol": methods.BYOL, "dino": methods.DINO, "simsiam": methods.SimSiam}[args.method]
    return recipe(backbone, dim, args.lr)


def _quiet() -> None:
    """Lightning greets with the hardware and a tip; the progress bar says enough."""
    for name in (
        "pytorch_lightning.utilities.rank_zero",
        "pytorch_lightning.trainer.connectors.signal_connector",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)


def pretrain(args: argparse.Namespace, images: data.Images) -> pl.LightningModule:
    """Train and return the method; its `.backbone` is the encoder."""
    last = args.out / "last.ckpt"
    if args.resume and not last.exists():
        raise SystemExit(f"--resume: there is no checkpoint {last}; leave --resume out to start anew")
    if math.ceil(len(images.train) / args.devices) < args.batch_size:  # a loader without a batch
        where = f" on {args.devices} devices" if args.devices > 1 else ""
        raise SystemExit(
            f"--batch-size {args.batch_size}{where}: there are only {len(images.train)} images to train on"
        )
    _quiet()
    pl.seed_everything(args.seed, workers=True, verbose=False)
    if not torch.cuda.is_available():  # leave the loader's processes a core each: threads that wait spin
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.devices - args.workers))
    model = build(args, images.size)
    loader = data.views_loader(
        images, args.num_global, args.views - args.num_global, args.batch_size, args.workers
    )
    callbacks: list[pl.Callback] = [
        ModelCheckpoint(args.out, "last", save_on_train_epoch_end=True, enable_version_counter=False),
        TQDMProgressBar(refresh_rate=1),
    ]
    if args.monitor:
        callbacks.append(GaussianityMonitor(every_n_steps=args.monitor))
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator="auto",
        devices=args.devices,
        precision=args.precision,
        logger=CSVLogger(args.out, name="log"),
        callbacks=callbacks,
        log_every_n_steps=len(loader),
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")  # sized for two cores on purpose
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # the last checkpoint is replaced
        warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of torch
        trainer.fit(model, loader, ckpt_path=last if args.resume else None)
    return model


def log_of(model: pl.LightningModule) -> Path:
    """The CSV log of the run that trained `model`: a row an epoch."""
    return Path(str(model.trainer.log_dir)) / "metrics.csv"


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    model = pretrain(args, data.load(args.data, args.size))
    print(f"checkpoint: {args.out / 'last.ckpt'}\nlog: {log_of(model)}")


if __name__ == "__main__":
    main()

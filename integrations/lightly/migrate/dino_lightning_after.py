"""Pretrain a ResNet-18 without labels: lightly and PyTorch Lightning, CIFAR-10 or a folder of images."""

import argparse

import pytorch_lightning as pl
import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.transforms.dino_transform import DINOTransform
from torch import nn

from sigreg_adapters.lightly import LeJEPALoss, LeJEPAProjectionHead


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.head = LeJEPAProjectionHead(512)
        self.criterion = LeJEPALoss(gather_distributed=True)

    def forward(self, x):
        y = self.backbone(x).flatten(1)
        return self.head(y)

    def training_step(self, batch, batch_idx):
        views = batch[0]
        loss = self.criterion([self(view) for view in views], num_global=2)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.001)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a folder of images, with or without subfolders; default: CIFAR-10")
    parser.add_argument("--size", type=int, default=32, help="side of a global view in pixels")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=8)
    args = parser.parse_args(arguments)

    transform = DINOTransform(
        global_crop_size=args.size, local_crop_size=args.size // 2, gaussian_blur=(0.0, 0.0, 0.0)
    )
    if args.data:
        dataset = LightlyDataset(args.data, transform=transform)
    else:
        dataset = torchvision.datasets.CIFAR10("datasets/cifar10", download=True, transform=transform)
    dataloader = torch.utils.data.DataLoader(
        dataset, batch_size=args.batch_size, shuffle=True, drop_last=True, num_workers=args.workers
    )

    trainer = pl.Trainer(max_epochs=args.epochs, accelerator="auto", devices=1)
    trainer.fit(Model(), dataloader)
    return trainer


if __name__ == "__main__":
    main()

"""Pretrain a ResNet-18 without labels: lightly and PyTorch Lightning, CIFAR-10 or a folder of images."""

import argparse

import pytorch_lightning as pl
import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from lightly.transforms import SimSiamTransform
from torch import nn


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = SimSiamProjectionHead(512, 512, 128)
        self.prediction_head = SimSiamPredictionHead(128, 64, 128)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, x):
        y = self.backbone(x).flatten(1)
        z = self.projection_head(y)
        p = self.prediction_head(z)
        return z.detach(), p

    def training_step(self, batch, batch_idx):
        x0, x1 = batch[0]
        (z0, p0), (z1, p1) = self(x0), self(x1)
        loss = 0.5 * (self.criterion(z0, p1) + self.criterion(z1, p0))
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.06)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a folder of images, with or without subfolders; default: CIFAR-10")
    parser.add_argument("--size", type=int, default=32, help="side of a view in pixels")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=8)
    args = parser.parse_args(arguments)

    transform = SimSiamTransform(input_size=args.size, gaussian_blur=0.0)
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

"""Pretrain a ResNet-18 without labels: lightly and plain PyTorch, CIFAR-10 or a folder of images."""

import argparse

import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from lightly.transforms import SimSiamTransform
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = SimSiamProjectionHead(512, 512, 128)
        self.prediction_head = SimSiamPredictionHead(128, 64, 128)

    def forward(self, x):
        y = self.backbone(x).flatten(1)
        z = self.projection_head(y)
        p = self.prediction_head(z)
        return z.detach(), p


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

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model().to(device)
    criterion = NegativeCosineSimilarity()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    for epoch in range(args.epochs):
        for batch in dataloader:
            x0, x1 = (x.to(device) for x in batch[0])
            (z0, p0), (z1, p1) = model(x0), model(x1)
            loss = 0.5 * (criterion(z0, p1) + criterion(z1, p0))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()

"""Pretrain a ResNet-18 without labels: lightly and plain PyTorch, CIFAR-10 or a folder of images."""

import argparse

import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.transforms.dino_transform import DINOTransform
from torch import nn

from sigreg_adapters.lightly import LeJEPALoss, LeJEPAProjectionHead


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.head = LeJEPAProjectionHead(512)

    def forward(self, x):
        y = self.backbone(x).flatten(1)
        return self.head(y)


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

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model().to(device)
    criterion = LeJEPALoss().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for epoch in range(args.epochs):
        for batch in dataloader:
            views = [view.to(device) for view in batch[0]]
            loss = criterion([model(view) for view in views], num_global=2)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()

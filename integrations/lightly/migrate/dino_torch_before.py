"""Pretrain a ResNet-18 without labels: lightly and plain PyTorch, CIFAR-10 or a folder of images."""

import argparse
import copy

import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.dino_transform import DINOTransform
from lightly.utils.scheduler import cosine_schedule
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.head = DINOProjectionHead(512, 512, 64, 2048, freeze_last_layer=1)
        self.teacher_backbone = copy.deepcopy(self.backbone)
        self.teacher_head = DINOProjectionHead(512, 512, 64, 2048)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)

    def forward(self, x):
        y = self.backbone(x).flatten(1)
        return self.head(y)

    @torch.no_grad()
    def forward_teacher(self, x):
        y = self.teacher_backbone(x).flatten(1)
        return self.teacher_head(y)


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
    criterion = DINOLoss(output_dim=2048, warmup_teacher_temp_epochs=5).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for epoch in range(args.epochs):
        momentum = cosine_schedule(epoch, args.epochs, 0.996, 1)
        for batch in dataloader:
            views = [view.to(device) for view in batch[0]]
            update_momentum(model.backbone, model.teacher_backbone, m=momentum)
            update_momentum(model.head, model.teacher_head, m=momentum)
            teacher_out = [model.forward_teacher(view) for view in views[:2]]
            student_out = [model(view) for view in views]
            loss = criterion(teacher_out, student_out, epoch=epoch)
            loss.backward()
            model.head.cancel_last_layer_gradients(current_epoch=epoch)
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()

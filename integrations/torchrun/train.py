"""LeJEPA in plain PyTorch: one process, or any number of them under torchrun, with the same losses.

    python integrations/torchrun/train.py
    torchrun --nproc-per-node 2 integrations/torchrun/train.py                  # gloo, or nccl on GPUs
    torchrun --nproc-per-node 2 integrations/torchrun/train.py --wrapper fsdp

Every step draws one global batch from a seeded generator and each rank takes its share, so a run on
any number of ranks sees the same data; SIGReg makes the loss of the whole batch out of the shares.
The network normalises by LayerNorm: BatchNorm would take its statistics from each rank's share and
change the losses (`nn.SyncBatchNorm.convert_sync_batchnorm` brings them back, on GPUs).
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sigreg import LeJEPALoss, SIGReg

VIEWS = 4


def images() -> torch.Tensor:
    """scikit-learn's 1,797 digits as (N, 1, 8, 8), or noise of that shape where it is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        return torch.randn(1797, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 8 - 1


def views(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(N, 1, 8, 8) -> (V, N, 1, 8, 8): shifted by a pixel or none, noisy, brighter or darker."""
    V, N = VIEWS, len(x)
    shifts = torch.randint(-1, 2, (V, N, 2), generator=generator)
    rows, columns = ((torch.arange(8) + shifts[..., i, None]).clamp(0, 7) for i in range(2))  # (V, N, 8)
    n = torch.arange(N)[None, :, None, None]
    shifted = x[:, 0][n, rows[..., :, None], columns[..., None, :]].unsqueeze(2)
    gain = 1 + 0.2 * torch.randn(V, N, 1, 1, 1, generator=generator)
    return gain * shifted + 0.2 * torch.randn(shifted.shape, generator=generator)


def encoder(width: int) -> nn.Module:
    torch.manual_seed(0)  # the same weights on every rank, before any wrapper
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.GELU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GELU(),
        nn.Flatten(), nn.Linear(256, 256), nn.LayerNorm(256), nn.GELU(), nn.Linear(256, width),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--wrapper", choices=["ddp", "fsdp"], default="ddp")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=256, help="samples over all ranks")
    parser.add_argument("--width", type=int, default=32, help="of the embedding")
    parser.add_argument("--slices", type=int, default=256)
    arguments = parser.parse_args()

    launched = "RANK" in os.environ  # by torchrun
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if launched:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if arguments.batch < 2 * world:
        parser.error(
            f"--batch {arguments.batch} leaves {world} ranks too few samples; take {2 * world} or more"
        )

    model = encoder(arguments.width).to(device)
    if launched and arguments.wrapper == "ddp":
        model = DistributedDataParallel(model)
    elif launched:
        from torch.distributed.fsdp import fully_shard

        fully_shard(model)
    criterion = LeJEPALoss(sigreg=SIGReg(num_slices=arguments.slices)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    data, generator = images(), torch.Generator().manual_seed(1)
    for step in range(1, arguments.steps + 1):
        index = torch.randint(len(data), (arguments.batch,), generator=generator)
        batch = views(data[index], generator)
        share = batch.tensor_split(world, dim=1)[rank].to(device)  # uneven where world does not divide it
        z = model(share.flatten(0, 1)).unflatten(0, share.shape[:2])  # (V, N, D)
        loss, prediction, sigreg = criterion.components(z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and (step <= 3 or step % 20 == 0):
            print(f"step {step:4d}  loss {loss:.6f}  prediction {prediction:.6f}  sigreg {sigreg:.6f}")

    if launched:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

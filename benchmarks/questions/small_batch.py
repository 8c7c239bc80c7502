"""What helps a batch of 8 to 32: a memory, or microbatches that add up?

All runs see as many images.  `memory` tests the last M embeddings beside the live ones, which alone have
gradients (`SIGReg(memory=M)`); `accumulate` makes one step of several batches with the loss of them all
(`sigreg.microbatches.backward`), so that 256 images a step leave as few steps as a batch of 256 has.
BatchNorm sees one batch at a time in every run.
"""

from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from benchmarks import accuracy, training
from benchmarks.choices import difference
from benchmarks.report import markdown, spread
from sigreg import LeJEPALoss, SIGReg
from sigreg.microbatches import backward

measured_code = (
    "benchmarks/training.py",
    "benchmarks/augment.py",
    "benchmarks/probes.py",
    "sigreg/memory.py",
    "sigreg/microbatches.py",
    "sigreg/replay.py",
)


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what cannot run."""
    training.check(cfg)
    if cfg.max_images is None:
        raise ValueError("small_batch compares equal images; give max_images")
    if cfg.accumulate is not None and cfg.accumulate % cfg.batch_size:
        raise ValueError(f"accumulate={cfg.accumulate} is no multiple of batch_size={cfg.batch_size}")


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Train, freeze, probe: one setting of batch, memory and accumulation."""
    images, selection = training.splits(cfg)
    images_a_step = cfg.accumulate or cfg.batch_size
    steps = cfg.max_images // images_a_step
    model = training.Pretraining(cfg, images.train, steps)
    sigreg = SIGReg(cfg.statistic, num_slices=cfg.num_slices, seed=cfg.seed, memory=cfg.memory)
    criterion = LeJEPALoss(cfg.lambda_param, sigreg)
    chosen = model.configure_optimizers()
    optimizer, schedule = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]

    def encode(x: torch.Tensor) -> torch.Tensor:
        (views,) = model.views(x.float().div(255))
        return model.projector(model.features(views.flatten(0, 1))).unflatten(0, views.shape[:2])

    last: list[torch.Tensor] = []
    batches = _batches(images.train, images_a_step)
    for _ in range(steps):
        optimizer.zero_grad()
        parts = next(batches).split(cfg.batch_size)
        if len(parts) > 1:
            components = backward(criterion.components, encode, parts, modules=[model])
        else:
            components = criterion.components(encode(*parts))
            components.total.backward()
        optimizer.step()
        schedule.step()
        last = [*last, torch.stack([part.detach() for part in components])][-20:]
    losses = torch.stack(last).mean(0).tolist()
    train, test, *held = training.embedded(
        model, [images.train, images.test, *([selection.images] if selection else [])], cfg
    )
    return {
        "method": "lejepa",
        "steps": steps,
        "images_seen": steps * images_a_step,
        **dict(zip(("loss", "prediction", "sigreg"), losses, strict=True)),
        **training.probed(train, test, images, cfg, held[0] if held else None, selection),
    }


def _batches(images: torch.Tensor, size: int) -> Any:
    """Batches without end, each image once an epoch but for the last incomplete batch."""
    while True:
        yield from DataLoader(
            training.Batches(images), size, shuffle=True, drop_last=True, collate_fn=lambda batch: batch
        )


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with a name for what was tried beside the plain batch."""
    name = frame.memory.map(lambda m: f"memory {m:g}" if m else "alone")
    parts = frame.accumulate.map(lambda a: "" if pd.isna(a) else f"microbatches to {a:g}")
    named = frame.assign(kind=name.where(parts == "", parts))
    named.attrs.update(frame.attrs)
    return named


def table(frame: pd.DataFrame) -> str:
    """Both accuracies, and the paired difference to the same batch alone."""
    named, lines = _named(frame), []
    columns = list(accuracy.probes(frame))
    for (lam, batch, kind), rows in named.groupby(["lambda_param", "batch_size", "kind"]):
        same = (named.lambda_param == lam) & (named.batch_size == batch) & (named.kind == "alone")
        lines.append(
            {"lambda": f"{lam:g}", "batch": batch, "kind": kind, "steps": int(rows.steps.iloc[0])}
            | {column: spread(rows[column]) for column in columns}
            | {
                f"{column} against alone": "" if kind == "alone" else difference(rows, named[same], column)
                for column in columns
            }
            | {"effective rank": spread(rows.effective_rank, percent=False)}
        )
    return markdown(pd.DataFrame(lines).set_index(["lambda", "batch", "kind"]))


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the batch that is in memory, at the lambda with the most rows."""
    named = _named(frame)
    lam = named.lambda_param.mode().iloc[0]
    shown = named[named.lambda_param == lam]
    shown.attrs.update(frame.attrs)
    return accuracy.figure(
        shown,
        x="batch_size",
        lines="kind",
        title="Small batches: alone, with a memory, as parts of 256",
        xlabel="images encoded at a time",
        more=f"lambda = {lam:g}, equal images; every batch has its own BatchNorm statistics.",
    )

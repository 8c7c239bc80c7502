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
from benchmarks.choices import best, difference
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
    """Both accuracies and the paired difference to the same batch alone; then the learning rates tried."""
    named, lines = _named(frame), []
    columns = list(accuracy.probes(frame))
    usual = named[named.lr == _usual(named.lr)]
    for (lam, batch, kind), rows in usual.groupby(["lambda_param", "batch_size", "kind"]):
        same = (usual.lambda_param == lam) & (usual.batch_size == batch) & (usual.kind == "alone")
        lines.append(
            {"lambda": f"{lam:g}", "batch": batch, "kind": kind, "steps": int(rows.steps.iloc[0])}
            | {column: spread(rows[column]) for column in columns}
            | {
                f"{column} against alone": "" if kind == "alone" else difference(rows, usual[same], column)
                for column in columns
            }
            | {"effective rank": spread(rows.effective_rank, percent=False)}
        )
    parts = [markdown(pd.DataFrame(lines).set_index(["lambda", "batch", "kind"]))]
    return "\n\n".join([*parts, *_searched(named, columns)])


def _searched(named: pd.DataFrame, columns: list[str]) -> list[str]:
    """A table for each batch size with several learning rates, and the best ones against each other."""
    found = []
    for batch, rows in named.groupby("batch_size"):
        tried = rows.groupby("kind").lr.nunique()
        rows = rows[rows.kind.isin(tried[tried > 1].index)]
        if not len(rows):
            continue
        chosen = best(rows, ["kind"], "lr").groupby("kind")
        alone = chosen.get_group("alone")
        lines = [
            {"kind": kind, "lr": f"{lr:g} (best)" if lr == chosen.get_group(kind).lr.iloc[0] else f"{lr:g}"}
            | {column: spread(of[column]) for column in columns}
            | {"sigreg": spread(of.sigreg, percent=False)}
            for (kind, lr), of in rows.groupby(["kind", "lr"])
        ]
        against = "; ".join(
            f"{kind} {', '.join(f'{difference(own, alone, column)} {column}' for column in columns)}"
            for kind, own in chosen
            if kind != "alone"
        )
        found.append(
            f"Learning rates at a batch of {batch}; the best of each kind is chosen on the selection split.  "
            f"Best against the best alone: {against}.\n\n"
            + markdown(pd.DataFrame(lines).set_index(["kind", "lr"]))
        )
    return found


def _usual(values: pd.Series) -> float:
    """The value with the most rows."""
    return float(values.mode().iloc[0])


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the batch that is in memory, at the lambda and learning rate with the most rows."""
    named = _named(frame)
    lam, lr = _usual(named.lambda_param), _usual(named.lr)
    shown = named[(named.lambda_param == lam) & (named.lr == lr)]
    shown.attrs.update(frame.attrs)
    return accuracy.figure(
        shown,
        x="batch_size",
        lines="kind",
        title="Small batches: alone, with a memory, as parts of 256",
        xlabel="images encoded at a time",
        more=f"lambda = {lam:g}, learning rate {lr:g}, equal images; BatchNorm sees one batch at a time.",
    )

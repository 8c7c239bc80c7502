"""One run of a method of `benchmarks.hosts`: train, probe at checkpoints, go on after an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightly.utils.benchmarking.knn import knn_predict
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import data, probes
from benchmarks.cuda_graph import GraphedStep
from benchmarks.hosts import BASELINES, METHODS, OPTIMIZERS, Method, lines, untrained

CURVES = ("epoch", "loss", "knn", "linear", "selection_knn", "selection_linear")


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what cannot run."""
    if cfg.method not in (*METHODS, *BASELINES):
        raise ValueError(f"method={cfg.method!r} is unknown; use one of {', '.join((*METHODS, *BASELINES))}")
    if cfg.optimizer not in (None, *OPTIMIZERS):
        raise ValueError(
            f"optimizer={cfg.optimizer!r} is unknown; use one of {', '.join(OPTIMIZERS)} or null"
        )
    if cfg.method in METHODS and cfg.optimizer == METHODS[cfg.method].own:
        raise ValueError(f"optimizer={cfg.optimizer} is {cfg.method}'s own; say optimizer=null")
    data.check(cfg.data, cfg.data_root)


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Train one method: its checkpoints as lists, its last accuracies as numbers.

    Training stops at the first loss that is not finite; the row then says `diverged` and has no accuracies.
    A baseline is not trained, and has accuracies alone.
    """
    images, selection = data.split(data.load(cfg.data, cfg.data_root, cfg.size), cfg.images, cfg.selection)
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.accelerator != "cpu" else "cpu")
    if cfg.method in BASELINES:
        torch.manual_seed(cfg.seed)
        backbone = untrained(cfg.method, cfg, images.train).to(device)
        found = _probed(backbone, images, selection, device)
        assert found is not None  # finite
        values, rank = found
        return {
            "views": 0,
            "images_seen": 0,
            "diverged": False,
            **dict(zip(CURVES[2:], values, strict=False)),
            "effective_rank": rank,
            "lines": 0,
        }
    batches = len(images.train) // cfg.batch_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # weight_norm in lightly's DINO head
        method = METHODS[cfg.method](cfg, images.train.shape[1], cfg.epochs * batches).to(device)
    run = _Run(cfg, method)
    while run.epoch < cfg.epochs and not run.diverged:
        run.train(images.train.to(device))
        if not run.diverged and (run.epoch % cfg.every == 0 or run.epoch == cfg.epochs):
            run.probe(images, selection)
        run.save()
    last = {name: run.curve[name][-1] if not run.diverged else None for name in CURVES[2:]}
    return {
        "views": method.views,
        "steps": method.steps,
        "images_seen": run.epoch * batches * cfg.batch_size,
        "diverged": run.diverged,
        **last,
        "effective_rank": None if run.diverged else run.rank,
        "step_ms": round(1e3 * run.seconds / max(run.epoch * batches, 1), 2),
        "lines": lines(cfg.method),
        **{f"curve_{name}": values for name, values in run.curve.items()},
    }


class _Run:
    """A method in training, with all that a checkpoint holds."""

    def __init__(self, cfg: DictConfig, method: Method) -> None:
        self.cfg, self.method = cfg, method
        self.optimizer, self.schedule = method.optimizer()
        self.epoch, self.diverged, self.seconds, self.rank = 0, False, 0.0, 0.0
        self.loss = math.nan
        on_gpu = next(method.parameters()).is_cuda
        self.step = GraphedStep(method, self._loss) if on_gpu else self._forward_and_backward
        self.saved = -math.inf
        self.curve: dict[str, list[float]] = {name: [] for name in CURVES}
        self.path = _path(cfg)
        if self.path is not None and self.path.exists():
            self._restore(self.path)

    def train(self, images: Tensor) -> None:
        """One epoch.  Its random numbers depend on the seed and the epoch alone, so that a resumed run draws
        the order and the crops of one that was never interrupted."""
        cfg, start, total = (
            self.cfg,
            time.perf_counter(),
            torch.zeros((), dtype=torch.float64, device=images.device),
        )
        torch.manual_seed(100_003 * cfg.seed + self.epoch)
        self.method.train()
        self.method.epoch = self.epoch
        count = len(images) // cfg.batch_size
        order = torch.randperm(len(images))[: count * cfg.batch_size].to(images.device)
        for chosen in order.split(cfg.batch_size):
            loss = self.step(images[chosen])
            if loss.device.type == "cpu" and not loss.isfinite():  # seen after the epoch on a GPU
                break
            self.optimizer.step()
            self.schedule.step()
            total = total + loss
        self.loss = float(total + 0 * loss) / count
        self.diverged = not math.isfinite(self.loss)
        self.seconds += time.perf_counter() - start
        self.epoch += 1

    def _forward_and_backward(self, batch: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self._loss(batch)
        loss.backward()
        return loss.detach()

    def _loss(self, batch: Tensor) -> Tensor:
        with _autocast(self.cfg, batch.device):
            loss: Tensor = self.method(batch)
        return loss

    def probe(self, images: data.Images, selection: tuple[Tensor, Tensor]) -> None:
        """A point of every curve; a run whose features are not finite has diverged."""
        device = next(self.method.parameters()).device
        found = _probed(self.method.backbone, images, selection, device)
        if found is None:
            self.diverged = True
            return
        accuracies, self.rank = found
        values = [self.epoch, self.loss, *accuracies]
        for name, value in zip(CURVES, values, strict=False):
            self.curve[name].append(round(float(value), 5))
        for name in CURVES[len(values) :]:
            self.curve[name].append(math.nan)

    def save(self) -> None:
        """Write the checkpoint beside the old one and replace it, so that a kill leaves one of the two.

        After the first and the last epoch, and at most every 20 seconds between them.
        """
        now = time.perf_counter()
        if self.path is None or (
            now - self.saved < 20 and self.epoch < self.cfg.epochs and not self.diverged
        ):
            return
        self.saved = now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".new")
        parts = {name: getattr(self, name).state_dict() for name in ("method", "optimizer", "schedule")}
        plain = {
            name: getattr(self, name) for name in ("epoch", "diverged", "seconds", "rank", "loss", "curve")
        }
        torch.save({**parts, "plain": plain}, beside)
        os.replace(beside, self.path)

    def _restore(self, path: Path) -> None:
        found = torch.load(path, map_location=next(self.method.parameters()).device, weights_only=True)
        for name in ("method", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(found[name])
        for name, value in found["plain"].items():
            setattr(self, name, value)


def _path(cfg: DictConfig) -> Path | None:
    """Where the checkpoint of this setting lies; None when no folder is given."""
    if cfg.checkpoints is None:
        return None
    from benchmarks import engine

    digest = hashlib.sha256(json.dumps(engine.identity(cfg), sort_keys=True).encode()).hexdigest()
    return Path(cfg.checkpoints) / f"{cfg.method}-seed{cfg.seed}-{digest[:12]}.pt"


def _autocast(cfg: DictConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bf16-mixed")


def _probed(
    backbone: torch.nn.Module, images: data.Images, selection: tuple[Tensor, Tensor], device: torch.device
) -> tuple[list[float], float] | None:
    """k-NN and linear accuracy on test images, then on held-out ones, and the features' effective rank.

    None where features are not finite.
    """
    train, test = (embedded(backbone, x, device) for x in (images.train, images.test))
    if not (train.isfinite().all() and test.isfinite().all()):
        return None
    scored = [(test, images.test_labels)]
    if len(selection[0]):
        scored.append((embedded(backbone, selection[0], device), selection[1]))
    found = accuracies(train, images.train_labels, scored, device)
    return [value for pair in found for value in pair], round(probes.effective_rank(test.numpy()), 3)


@torch.no_grad()
def embedded(backbone: torch.nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Frozen features `(n, F)` on the CPU, computed on `device`."""
    backbone.eval()
    return torch.cat([backbone(x.to(device).float().div(255)).float().cpu() for x in images.split(500)])


def accuracies(
    train: Tensor, labels: Tensor, scored: list[tuple[Tensor, Tensor]], device: torch.device
) -> list[tuple[float, float]]:
    """Of each (features, labels): k-NN as lightly has it (k = 200, t = 0.1), and logistic regression.

    Tensors are on the CPU; the neighbours are found on `device`.
    """
    classes, k = int(labels.max()) + 1, min(200, len(train))
    bank, known = normalize(train, dim=1).T.to(device), labels.to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the number of iterations is a fixed budget
        linear = probes.classifier("linear", "all").fit(train.numpy(), labels.numpy())
    found = []
    for x, y in scored:
        parts = zip(normalize(x, dim=1).to(device).split(500), y.to(device).split(500), strict=True)
        hits = sum(
            int((knn_predict(part, bank, known, classes, k, 0.1)[:, 0] == z).sum()) for part, z in parts
        )
        found.append((hits / len(y), float(linear.score(x.numpy(), y.numpy()))))
    return found

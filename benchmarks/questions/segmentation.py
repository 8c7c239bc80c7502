"""Do objects appear in patch tokens and attention without labels?

A small vision transformer on scenes that are drawn here (`benchmarks.scenes`), so that every mask is known.
The first principal component of patch tokens (each image's own, and one for all images), and the attention of
the class token in the last block, become masks by a rule without labels (`benchmarks.masking`) and are held
against the truth.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from benchmarks import augment, data, masking, scenes, segmentation_figure
from benchmarks.segmentation_figure import METHODS, RULES, table
from sigreg import LeJEPALoss, SIGReg
from sigreg_adapters.timm import Encoder

__all__ = ["RULES", "check", "figure", "measure", "measured_code", "table"]

measured_code = (
    "benchmarks/scenes.py",
    "benchmarks/masking.py",
    "benchmarks/augment.py",
    "adapters/sigreg_adapters/patches.py",
    "adapters/sigreg_adapters/timm.py",
)
NETWORKS = ("untrained", "supervised", "lejepa", "pretrained")
SEEDS = {"selection": 1_000_001, "test": 1_000_002}  # of the scenes that are never trained on
PATCH = 16  # pixels, where a model has patches of its own
PROBED = 100  # images with masks for the linear probe
EXAMPLES = 4  # images whose maps a row holds, for the figure


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what no row could say."""
    if cfg.method not in METHODS:
        raise ValueError(f"method={cfg.method!r} is unknown; use one of {', '.join(METHODS)}")
    if not timm.is_model(cfg.model):
        raise ValueError(f"model={cfg.model!r} is unknown to timm")
    if cfg.folder is not None:
        data.check(cfg.folder, "")
    elif cfg.size is None or cfg.patch is None:
        raise ValueError("scenes need size=64 and patch=8, say; null is for folder=DIR")


def held_out(cfg: DictConfig, part: str) -> tuple[Tensor, Tensor | None]:
    """Images `(n, 3, s, s)` in uint8 of a part and their masks `(n, s, s)`, where there are any."""
    if cfg.folder is None:
        found = scenes.draw(cfg.test_images, cfg.size, SEEDS[part])
        return found.images, found.masks
    images = data.load(cfg.folder, "", cfg.size).test
    if len(images) < 2 * cfg.test_images:
        raise ValueError(
            f"{cfg.folder}/test has {len(images)} images; test_images={cfg.test_images} needs twice as many, "
            "half of them for selection"
        )
    kept = slice(None, cfg.test_images) if part == "test" else slice(cfg.test_images, 2 * cfg.test_images)
    masks = _masks(Path(cfg.folder).expanduser(), images.shape[-1])
    return images[kept], None if masks is None else masks[kept]


def _masks(folder: Path, size: int) -> Tensor | None:
    """DIR/masks/CLASS/NAME.png, as many as DIR/test/CLASS/NAME.*: all that is not black is object."""
    from PIL import Image

    paths = sorted((folder / "masks").glob("*/*"))
    if not paths:
        return None
    tests = sorted(path for path in (folder / "test").glob("*/*"))
    if [p.relative_to(folder / "masks").with_suffix("") for p in paths] != [
        p.relative_to(folder / "test").with_suffix("") for p in tests
    ]:
        raise ValueError(f"{folder}/masks holds other names than {folder}/test; give each image a mask")
    read = [np.asarray(Image.open(path).convert("L").resize((size, size))) > 0 for path in paths]
    return torch.from_numpy(np.stack(read))


def trained_on(cfg: DictConfig) -> tuple[Tensor, Tensor]:
    """Training images in uint8 and their classes."""
    if cfg.folder is not None:
        found = data.load(cfg.folder, "", cfg.size)
        return found.train, found.train_labels
    drawn = scenes.draw(cfg.images, cfg.size, cfg.seed)
    return drawn.images, drawn.shapes


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Train where there is something to train; maps, masks and their overlap with the truth."""
    parts = {part: held_out(cfg, part) for part in ("selection", "test")}
    row = {} if cfg.folder is None else {"data_sha256": data.digest(cfg.folder, "", cfg.size)}
    if cfg.method == "centre":
        return row | _blind(cfg, parts)
    encoder = _encoder(cfg) if cfg.method in NETWORKS else None
    if encoder is not None and cfg.method in ("supervised", "lejepa"):
        row |= _train(encoder, cfg)
    found = {part: _maps(cfg, encoder, images) for part, (images, _) in parts.items()}
    shared = masking.shared_component(found["test"]["tokens"], of=found["selection"]["tokens"])
    found["test"]["shared"] = masking.oriented(shared)
    if parts["test"][1] is not None:
        truths = {part: masking.on_patches(masks, _grid(found[part])) for part, (_, masks) in parts.items()}
        row |= _scores(found, truths)
    for key in WHAT:
        maps = found["test"].get(key, ())
        row |= {f"map_{key}_{i}": _written(maps[i]) for i in range(min(EXAMPLES, len(maps)))}
    return row


def _grid(maps: dict[str, Tensor]) -> tuple[int, int]:
    h, w = maps["first"].shape[1:]
    return h, w


def _blind(cfg: DictConfig, parts: dict[str, tuple[Tensor, Tensor | None]]) -> dict[str, float]:
    """Overlap of one disc in the middle of every image, of the radius that fits the selection images best."""
    side = cfg.size // (cfg.patch or PATCH)
    at = (torch.arange(side) + 0.5) / side - 0.5
    distance = torch.hypot(*torch.meshgrid(at, at, indexing="ij"))
    truths = {p: masking.on_patches(m, (side, side)) for p, (_, m) in parts.items() if m is not None}

    def overlap(part: str, radius: float) -> float:
        return float(masking.iou((distance < radius).expand_as(truths[part]), truths[part]).mean())

    if not truths:
        return {}
    best = max(np.linspace(0.1, 0.7, 25), key=lambda radius: overlap("selection", radius))
    return {"radius": float(best), "first": overlap("test", best)}


def _scores(found: dict[str, dict[str, Tensor]], truths: dict[str, Tensor]) -> dict[str, float]:
    """Mean IoU over test images of each rule; the last two see the selection images' masks."""

    def overlap(masks: Tensor, part: str = "test") -> float:
        return round(float(masking.iou(masks, truths[part]).mean()), 5)

    test = found["test"]
    row = {rule: overlap(masking.above(test[rule])) for rule in ("first", "shared")}
    if "attention" in test:
        row["attention"] = overlap(masking.above(test["attention"]))
        row["attention_by_border"] = overlap(masking.above(masking.oriented(test["attention"])))
        heads = found["selection"]["heads"].unbind(1)
        best = max(range(len(heads)), key=lambda i: overlap(masking.above(heads[i]), "selection"))
        row["best_head"] = overlap(masking.above(test["heads"][:, best]))
    return row | {"probe": overlap(_probed(found, truths))}


def _probed(found: dict[str, dict[str, Tensor]], truths: dict[str, Tensor]) -> Tensor:
    """Masks of the test images by logistic regression from tokens, fitted to the selection images' masks."""
    tokens = found["selection"]["tokens"][:PROBED].flatten(0, 2)
    probe = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(tokens.numpy(), truths["selection"][:PROBED].flatten().numpy())
    said = probe.predict(found["test"]["tokens"].flatten(0, 2).numpy())
    return torch.from_numpy(said).reshape(truths["test"].shape)


def _encoder(cfg: DictConfig) -> Encoder:
    names = {
        "img_size": "size",
        "patch_size": "patch",
        "embed_dim": "width",
        "depth": "depth",
        "num_heads": "heads",
    }
    given = {key: cfg[name] for key, name in names.items() if cfg[name] is not None}
    return Encoder(
        cfg.model,
        cfg.projector_width,
        cfg.projector_hidden,
        pretrained=cfg.method == "pretrained",
        dynamic_img_size=True,
        **given,
    ).to(_device(cfg))


def _device(cfg: DictConfig) -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() and cfg.accelerator != "cpu" else "cpu")


def _normal(x: Tensor) -> Tensor:
    return (x - 0.5) / 0.25


def _crops(x: Tensor, cfg: DictConfig) -> list[Tensor]:
    """Crops of images in [0, 1], `(V, N, 3, s, s)`: one to learn a class from, or global and local ones."""
    look = {"jitter": cfg.jitter, "noise": 0.0}
    if cfg.method == "supervised":
        return [augment.views(x, 1, tuple(cfg.class_scale), size=cfg.class_size, **look)]
    parts = [augment.views(x, cfg.global_views, tuple(cfg.global_scale), size=cfg.global_size, **look)]
    if cfg.local_views:
        parts.append(augment.views(x, cfg.local_views, tuple(cfg.local_scale), size=cfg.local_size, **look))
    return parts


def _train(encoder: Encoder, cfg: DictConfig) -> dict[str, Any]:
    """LeJEPA, or cross-entropy of the shape's class; the means of the last 20 steps."""
    images, labels = trained_on(cfg)
    device = _device(cfg)
    head = nn.Linear(encoder.embedding_dim, int(labels.max()) + 1).to(device)
    criterion = LeJEPALoss(cfg.lambda_param, SIGReg(num_slices=cfg.num_slices, seed=cfg.seed)).to(device)
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *head.parameters()], lr=cfg.lr, weight_decay=cfg.weight_decay
    )
    encoder.train()
    losses, warmup = [], max(1, cfg.max_steps // 10)
    for step in range(cfg.max_steps):
        rate = min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / cfg.max_steps))
        for group in optimizer.param_groups:
            group["lr"] = cfg.lr * rate
        chosen = torch.randint(len(images), (cfg.batch_size,))
        crops = _crops(images[chosen].to(device).float().div(255), cfg)
        if cfg.method == "supervised":
            embedding = encoder.backbone(_normal(crops[0]).flatten(0, 1))
            said = head(embedding)
            truth = labels[chosen].to(device)
            loss = nn.functional.cross_entropy(said, truth)
            right = float((said.argmax(1) == truth).float().mean())
        else:
            z = [encoder(_normal(x).flatten(0, 1))[1].unflatten(0, x.shape[:2]) for x in crops]
            loss = criterion(torch.cat(z), num_global=cfg.global_views)
            right = math.nan
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((float(loss.detach()), right))
        if not math.isfinite(losses[-1][0]):
            break
    last = np.mean(losses[-20:], axis=0)
    return {"steps": len(losses), "loss": float(last[0]), "class_accuracy": float(last[1])}


@torch.no_grad()
def _maps(cfg: DictConfig, encoder: Encoder | None, images: Tensor) -> dict[str, Tensor]:
    """`tokens` `(n, h, w, C)`, their `first` component `(n, h, w)`, its sign by the border rule.

    Of a network also `heads` `(n, heads, h, w)` and their mean, `attention` `(n, h, w)`.
    """
    x = images.float().div(255)
    if encoder is None:
        p = cfg.patch or PATCH
        patches = x.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5)  # (n, h, w, 3, p, p)
        tokens = patches.mean((4, 5)) if cfg.method == "colours" else patches.flatten(3)
        return {"tokens": tokens, "first": masking.oriented(masking.first_component(tokens))}
    encoder.eval()
    parts = [_normal(part.to(_device(cfg))) for part in x.split(100)]
    tokens = torch.cat([encoder.tokens(part).float().cpu() for part in parts])
    heads = torch.cat([encoder.attention(part).float().cpu() for part in parts])
    first = masking.oriented(masking.first_component(tokens))
    return {"tokens": tokens, "first": first, "heads": heads, "attention": heads.mean(1)}


def _written(values: Tensor) -> str:
    """A map as text, rows separated by `/`: 16 levels, from its least to its greatest value."""
    span = (values.max() - values.min()).clamp(min=1e-12)
    levels = ((values - values.min()) / span * 15).round().int()
    return "/".join("".join(f"{int(level):x}" for level in line) for line in levels)


WHAT = {"first": "own component", "shared": "shared comp.", "attention": "attention"}


def figure(frame: pd.DataFrame) -> Figure:
    """Maps of a few test images, then the IoU of every method and rule."""
    return segmentation_figure.draw(frame, WHAT, held_out)

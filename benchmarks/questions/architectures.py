"""Does one recipe train every architecture?

Networks of timm, each the smallest of its kind, on small images with one learning rate, one lambda and one
number of steps, nothing tuned.  Each is compared with itself before training; a network that cannot be
built or run at this size is a row with its reason.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks import augment, data, picture, probes
from benchmarks.report import markdown
from benchmarks.training import projector
from sigreg import LeJEPALoss, SIGReg

measured_code = (
    "benchmarks/training.py:projector",
    "benchmarks/augment.py",
    "benchmarks/probes.py",
    "sigreg",
)
SMALL_PATCHES = 8  # pixels, where a network for 224 pixels has patches of 16 or 32
GIVEN = (("img_size", "patch_size"), ("img_size",), ())  # what a network is given: the first it accepts
CHOOSE_PATCHES = ("patch", "mixer", "mlp_", "xcit", "cait", "convit", "test_vit")
COLLAPSED = 2.0  # an effective rank below this: the features lie on little more than a line


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what no row could say."""
    if not timm.is_model(cfg.model):
        raise ValueError(f"model={cfg.model!r} is unknown to timm")
    data.check(cfg.data, cfg.data_root)


def network(name: str, channels: int, size: int) -> tuple[nn.Module, dict[str, int]]:
    """The network of a name for images of `size` pixels, and what it was given for that.

    With small patches where it has patches to choose.  Raises what timm raised last when nothing works.
    """
    values = {"img_size": size, "patch_size": SMALL_PATCHES}
    for names in GIVEN if any(mark in name for mark in CHOOSE_PATCHES) else GIVEN[1:]:
        given = {key: values[key] for key in names}
        try:
            net = timm.create_model(name, num_classes=0, in_chans=channels, **given)
            with torch.no_grad():
                net.eval()(torch.zeros(2, channels, size, size))
            return net, given
        except Exception as error:  # whatever a network of another author raises
            last = error
    raise last


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Probe, train, probe again; why not, where that is impossible."""
    row = {"family": timm.models._registry._model_to_module[cfg.model], "ran": False}
    try:
        return row | _trained(cfg) | {"ran": True}
    except Exception as error:  # the row says why, as the sweep is about what runs at all
        said = " ".join(str(error).split())[:160]
        return row | {"reason": f"{type(error).__name__}: {said}"}


def _trained(cfg: DictConfig) -> dict[str, Any]:
    images, _ = data.split(data.load(cfg.data, cfg.data_root), cfg.images, None)
    if cfg.test_images is not None:
        kept = torch.cat([(images.test_labels == c).nonzero()[: cfg.test_images, 0] for c in range(10)])
        images = images._replace(test=images.test[kept], test_labels=images.test_labels[kept])
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.accelerator != "cpu" else "cpu")
    net, given = network(cfg.model, images.train.shape[1], images.train.shape[-1])
    net = net.to(device)  # not channels_last: torch 2.14 corrupts memory then for three of these networks
    torch.manual_seed(cfg.seed)  # the same order and crops for every network
    before = _probed(_with_statistics(copy.deepcopy(net), images.train, cfg), images, cfg)
    curve = _train(net, images.train, cfg)
    after = _probed(net, images, cfg) if np.isfinite(curve).all() else None
    row: dict[str, Any] = {
        "given": " ".join(f"{key}={value}" for key, value in given.items()),
        "million_parameters": round(sum(p.numel() for p in net.parameters()) / 1e6, 3),
        "steps": len(curve),
        "loss_first": round(float(np.mean(curve[:10])), 5),
        "loss_last": round(float(np.mean(curve[-10:])), 5),
        **{f"untrained_{key}": value for key, value in (before or {}).items()},
        "diverged": after is None,
    }
    return row | (after or {}) | {"collapsed": after is not None and after["effective_rank"] < COLLAPSED}


def _normal(x: Tensor) -> Tensor:
    """uint8 images as floats around zero."""
    return (x.float().div(255) - 0.5) / 0.25


def _train(net: nn.Module, images: Tensor, cfg: DictConfig) -> list[float]:
    """The loss of every step; training stops at the first that is not finite."""
    device = next(net.parameters()).device
    net.train()
    with torch.no_grad():  # some networks give more features than they say
        features = net(_normal(images[:2]).to(device)).shape[1]
    head = projector(features, cfg.projector_width, cfg.projector_hidden).to(device)
    criterion = LeJEPALoss(cfg.lambda_param, SIGReg(num_slices=cfg.num_slices, seed=cfg.seed)).to(device)
    parameters = [*net.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=cfg.lr, weight_decay=cfg.weight_decay)
    steps = cfg.epochs * (len(images) // cfg.batch_size)
    orders = (torch.randperm(len(images)).split(cfg.batch_size) for _ in itertools.count())
    batches = (batch for order in orders for batch in order if len(batch) == cfg.batch_size)
    warmup, curve = max(1, steps // 10), []
    for step, chosen in zip(range(steps), batches, strict=False):
        rate = min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = cfg.lr * rate
        x = images[chosen].to(device).float().div(255)
        views = augment.views(x, 2, tuple(cfg.crop_scale), flip=cfg.flip, noise=0.0)
        z = head(net(((views - 0.5) / 0.25).flatten(0, 1))).unflatten(0, (2, -1))
        loss = criterion(z)
        curve.append(float(loss.detach()))
        if not math.isfinite(curve[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return curve


@torch.no_grad()
def _with_statistics(net: nn.Module, images: Tensor, cfg: DictConfig) -> nn.Module:
    """The untrained network with the BatchNorm statistics of these images, so that it is no straw man."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over the batches
    net.train()
    for batch in images[torch.randperm(len(images))[: 8 * cfg.batch_size]].split(cfg.batch_size):
        net(_normal(batch).to(next(net.parameters()).device))
    return net


@torch.no_grad()
def _probed(net: nn.Module, images: data.Images, cfg: DictConfig) -> dict[str, float] | None:
    """k-NN, linear and effective rank of the frozen features; None when they are not finite."""
    net.eval()
    device = next(net.parameters()).device
    train, test = (
        torch.cat([net(_normal(part).to(device)).float().cpu() for part in x.split(250)]).numpy()
        for x in (images.train, images.test)
    )
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        return None
    found = probes.accuracies(
        probes.Split(train, images.train_labels.numpy()),
        {"": probes.Split(test, images.test_labels.numpy())},
        labels=[cfg.labels],
        draws=cfg.draws,
        probes=["knn", "linear"],
    )
    named = {key.rpartition("_")[0]: value for key, value in found.items()}
    return named | {"effective_rank": round(probes.effective_rank(test), 3)}


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Networks that ran to the end, a line each (means over seeds), in order of their k-NN gain in points."""
    ran = frame[(frame.ran.astype(str) == "True") & (frame.diverged.astype(str) == "False")].copy()
    for probe in ("knn", "linear"):
        ran[f"{probe}_gain"] = 100 * (ran[probe] - ran[f"untrained_{probe}"])
    numbers = [
        *("million_parameters", "untrained_knn", "knn", "knn_gain", "untrained_linear", "linear"),
        *("linear_gain", "untrained_effective_rank", "effective_rank"),
    ]
    groups = ran.groupby(["family", "model"])
    found = groups[numbers].mean().assign(seeds=groups.seed.nunique()).reset_index()
    return found.sort_values("knn_gain", ascending=False, ignore_index=True)


def _counts(frame: pd.DataFrame) -> dict[str, int]:
    found = gains(frame)
    true = {key: frame[key].astype(str) == "True" for key in ("ran", "diverged", "collapsed") if key in frame}
    return {
        "networks tried": frame.model.nunique(),
        "families tried": frame.family.nunique(),
        "could not run": frame.model[~true["ran"]].nunique(),
        **{name: frame.model[true[name]].nunique() for name in ("diverged", "collapsed") if name in true},
        "trained": len(found),
        "better in k-NN than untrained": int((found.knn_gain > 0).sum()),
        "better in linear than untrained": int((found.linear_gain > 0).sum()),
    }


def table(frame: pd.DataFrame) -> str:
    """Counts, then every network, then those that could not run."""
    counts = pd.DataFrame({"networks": _counts(frame)}).rename_axis("what")
    parts = [markdown(counts), markdown(_percent(gains(frame)).set_index(["family", "model"]))]
    failed = frame[frame.ran.astype(str) != "True"]
    if len(failed):
        parts += ["Could not run:", markdown(failed.set_index(["family", "model"])[["reason"]])]
    return "\n\n".join(parts)


def _percent(found: pd.DataFrame) -> pd.DataFrame:
    shown = found.copy()
    for probe in ("knn", "linear", "untrained_knn", "untrained_linear"):
        shown[probe] = (100 * shown[probe]).round(1)
    rounded = {"knn_gain": 1, "linear_gain": 1, "effective_rank": 1, "untrained_effective_rank": 1}
    return shown.round(rounded)


def figure(frame: pd.DataFrame) -> Figure:
    """A line per network from untrained to trained, k-NN and linear, beside raw pixels."""
    found = gains(frame)
    size = f"{int(10 * frame.images.iloc[0]):,} images" if frame.images.notna().any() else "all images"
    pixels = frame.attrs.get("pixels", {}).get(frame.images.iloc[0], {})
    note = f"n = {len(found)} networks of {found.family.nunique()} families, {size}, "
    note += f"{picture.seeds(found.seeds)} each; open: untrained; filled: trained by LeJEPA. "
    note += "Grey: within 1.96 standard errors of the difference on the test images; red: below untrained."
    note += " Dotted: the median of the untrained networks"
    note += ", and raw pixels with the same images and labels, in `indomain`." if pixels else "."
    fig, axes = picture.panels(
        1,
        2,
        title="One recipe for every architecture: before and after training",
        note=note,
        size=(11.5, max(3.0, 0.17 * len(found) + 1.8)),
        sharey=True,
    )
    at = np.arange(len(found))[::-1]
    number = 10 * frame.test_images.fillna(1000).iloc[0]  # CIFAR-10 has 1,000 a class
    for ax, probe, name in zip(axes, ("knn", "linear"), ("k-NN", "Linear probe"), strict=True):
        before, after = found[f"untrained_{probe}"], found[probe]
        error = np.sqrt((before * (1 - before) + after * (1 - after)) / number)
        sure = (after - before).abs() > 1.96 * error
        colours = np.where(after > before, picture.BLUE, picture.RED)
        colours = np.where(sure, colours, picture.GREY)
        ax.hlines(at, 100 * before, 100 * after, colors=colours, linewidth=1.2)
        ax.scatter(100 * before, at, s=16, facecolors="white", edgecolors=picture.GREY, zorder=3)
        ax.scatter(100 * after, at, s=16, c=colours, zorder=3)
        gain, lose = int((sure & (after > before)).sum()), int((sure & (after < before)).sum())
        title = f"{name}: {gain} gain, {lose} lose"
        if baseline := pixels.get(f"{probe}_{frame.labels.iloc[0]:g}"):
            title += f", {int((after > baseline).sum())} above pixels"
            _dotted(ax, "pixels", baseline, "left")
        if len(found):
            _dotted(ax, "untrained", before.median(), "right")
        picture.label(ax, f"{title}, of {len(found)}", "accuracy on test images, %", "")
    axes[0].set_yticks(at, found.model, fontsize=6.5)
    axes[0].set_ylim(-1, len(found))
    return fig


def _dotted(ax: Axes, name: str, accuracy: float, align: str) -> None:
    """A dotted line with its name at its foot; `align` is the end of the name that is at the line."""
    ax.axvline(100 * accuracy, color=picture.INK, linestyle=":", linewidth=1.2, zorder=0)
    ax.annotate(
        f"{name} {100 * accuracy:.1f}",
        (100 * accuracy, 0),
        xycoords=("data", "axes fraction"),
        xytext=(3 if align == "left" else -3, 3),
        textcoords="offset points",
        **{"color": picture.INK, "fontsize": 8.5, "ha": align},
    )

"""Table and figure of the question `segmentation`: maps of a few images, and their overlap with the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from benchmarks import choices, picture
from benchmarks.report import markdown, spread

METHODS = {
    "centre": "a disc in the centre (no map)",
    "pixels": "pixels of each patch",
    "colours": "mean colour of each patch",
    "untrained": "ViT, untrained",
    "supervised": "ViT, trained on the shape's class",
    "lejepa": "ViT, trained by LeJEPA",
    "pretrained": "ViT, timm's weights",
}
BLIND = ("centre", "pixels", "colours")  # without a network: one row serves every seed
RULES = {
    "first": "first component of the image's tokens",
    "shared": "first component of all images' tokens",
    "attention": "attention",
    "attention_by_border": "attention, sign by the border rule",
    "best_head": "best head (sees masks)",
    "probe": "linear probe (sees masks)",
}
Images = tuple[Tensor | None, Tensor | None]  # and their masks
Held = Callable[[DictConfig, str], Images]
SHORT = {"pixels": "pixels", "colours": "mean colours", "untrained": "untrained", "supervised": "supervised"}
SHORT |= {"lejepa": "LeJEPA", "pretrained": "timm's weights"}


def order(frame: pd.DataFrame) -> list[str]:
    """The methods that have rows."""
    return [method for method in METHODS if method in set(frame.method)]


def table(frame: pd.DataFrame) -> str:
    """IoU of every rule, a line per method; then LeJEPA against the others, seed by seed."""
    rules = [rule for rule in RULES if rule in frame and frame[rule].notna().any()]
    if not rules:
        return "No masks, so maps only."
    lines = {
        METHODS[method]: {RULES[rule]: spread(own[rule], none="") for rule in rules}
        | {
            "accuracy on training crops' classes": spread(
                own.get("class_accuracy", pd.Series(dtype=float)), none=""
            )
        }
        for method in order(frame)
        for own in [frame[frame.method == method]]
    }
    parts = [
        markdown(pd.DataFrame.from_dict(lines, orient="index").rename_axis("mean IoU with the masks, %"))
    ]
    ours = frame[frame.method == "lejepa"]
    against = {}
    for method in [m for m in ("pixels", "colours", "untrained", "supervised") if m in set(frame.method)]:
        other = _at_seeds(frame[frame.method == method], ours)
        against[METHODS[method]] = {RULES[rule]: choices.difference(ours, other, rule) for rule in rules}
    if len(ours) and against:
        text = "LeJEPA minus the other, points of IoU"
        parts.append(markdown(pd.DataFrame.from_dict(against, orient="index").rename_axis(text)))
    return "\n\n".join(parts)


def _at_seeds(other: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """The rows of a method; of one that draws nothing, once for every seed of ours."""
    if other.method.iloc[0] not in BLIND or ours.empty:
        return other
    return pd.concat([other.iloc[[0]].assign(seed=seed) for seed in ours.seed.unique()])


def draw(frame: pd.DataFrame, what: dict[str, str], held_out: Held) -> Figure:
    """Maps of a few test images, then the IoU of every method and rule.

    `what` names the kinds of maps, `held_out` gives the images and masks of a part.
    """
    frame = frame.sort_values("seed")
    examples = sum(column.startswith("map_first_") for column in frame)
    scored = "first" in frame and frame["first"].notna().any()
    with mpl.rc_context(picture.STYLE):
        fig = Figure(figsize=(13.5, 1.5 * examples + (4.4 if scored else 1.2)), layout="constrained")
        heights = (1.5 * examples, 3.2) if scored else (1,)
        parts = fig.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _draw_maps(parts[0], frame, what, _shown(frame, examples, held_out))
        if scored:
            _draw_scores(parts[1].subplots(), frame)
    seeds = frame[frame.method == "lejepa"].seed.nunique()
    title = "Where in the image: first component of patch tokens, and attention of the class token"
    note = f"Maps: the first {examples} test images in their order, not chosen; first seed, bright is high, "
    note += "red the true outline. "
    note += f"IoU: mean over {frame.test_images.iloc[0]:g} test images, then over {seeds} seeds; bars: range."
    picture.heading(fig, title, note)
    return fig


def _draw_maps(part: Any, frame: pd.DataFrame, what: dict[str, str], shown: Images) -> None:
    """A line per image: the image, its mask, and the maps of every method."""
    first = frame.drop_duplicates("method").set_index("method")
    columns = [
        (kind, method)
        for kind in what
        for method in order(frame)
        if (kind != "shared" or method not in BLIND)
        and f"map_{kind}_0" in first
        and pd.notna(first.loc[method, f"map_{kind}_0"])
    ]
    images, masks = shown
    examples = sum(column.startswith("map_first_") for column in frame)
    axes = part.subplots(examples, 1 + len(columns), squeeze=False)
    for i, line in enumerate(axes):
        for ax in line:
            ax.set(xticks=[], yticks=[])
        if images is not None:
            line[0].imshow(images[i].permute(1, 2, 0).numpy(), extent=(0, 1, 1, 0))
        for ax, (kind, method) in zip(line[1:], columns, strict=True):
            ax.imshow(read(first.loc[method, f"map_{kind}_{i}"]), cmap="cividis", extent=(0, 1, 1, 0))
            if masks is not None:
                at = (np.arange(masks.shape[-1]) + 0.5) / masks.shape[-1]
                ax.contour(at, at, masks[i].float().numpy(), levels=[0.5], colors=picture.RED, linewidths=0.9)
    titles = ["image", *(f"{what[kind]}\n{SHORT[method]}" for kind, method in columns)]
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=8.5, loc="center", fontweight="normal")


def _shown(frame: pd.DataFrame, examples: int, held_out: Held) -> Images:
    """The images of the maps, drawn or read again; none where a folder is not here."""
    row = frame.iloc[0]
    folder = None if pd.isna(row.get("folder")) else str(row.folder)
    cfg = DictConfig({"folder": folder, "size": int(row["size"]), "test_images": int(row.test_images)})
    try:
        images, masks = held_out(cfg, "test")
    except (OSError, ValueError):
        return None, None
    return images[:examples], None if masks is None else masks[:examples]


def _draw_scores(ax: Axes, frame: pd.DataFrame) -> None:
    """IoU of every rule, a line per method."""
    methods = order(frame)[::-1]
    rules = [rule for rule in RULES if rule in frame and frame[rule].notna().any()]
    for k, rule in enumerate(rules):
        stats = 100 * frame.groupby("method")[rule].agg(["mean", "min", "max"]).reindex(methods)
        sees_masks = "sees masks" in RULES[rule]
        ax.errorbar(
            stats["mean"],
            np.arange(len(methods)) + 0.1 * (len(rules) / 2 - k),
            xerr=picture.ranges(stats),
            fmt=picture.MARKERS[k],
            color=picture.GREY if rule == "probe" else picture.COLOURS[k],
            markerfacecolor="white" if sees_masks else None,
            capsize=2,
            elinewidth=1,
            label=RULES[rule],
        )
    ax.set_yticks(np.arange(len(methods)), [METHODS[method] for method in methods])
    ax.grid(axis="x", color=picture.PALE, linewidth=0.6)
    ax.set_axisbelow(True)
    picture.label(ax, "Masks from these maps", "mean IoU with the true masks, %", "")
    ax.set_xlim(left=0)
    picture.legend(ax)


def read(text: str) -> np.ndarray:
    """A map from the text that a row holds."""
    return np.array([[int(digit, 16) for digit in line] for line in text.split("/")])

"""Do more unlabelled images help, at as many steps and at as many epochs?

At equal steps a run with more images repeats each less often; at equal epochs it also trains longer.  The
probes' labels come from the images that trained, so `labels` is what the smallest run has.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import accuracy, picture
from benchmarks.report import markdown, spread
from benchmarks.training import check as check
from benchmarks.training import measure as measure

BUDGETS = {"steps": "equal steps", "epochs": "equal epochs"}
LOOKS = {"steps": (picture.BLUE, "o"), "epochs": (picture.RED, "s")}


def _ready(frame: pd.DataFrame) -> pd.DataFrame:
    """With the number of training images and which of the two budgets a run had."""
    found = frame.copy()
    found["trained_on"] = (10 * found.images).astype(int)
    found["budget"] = found.max_steps.notna().map({True: "steps", False: "epochs"})
    return found


def _probes(frame: pd.DataFrame) -> list[str]:
    """k-NN and linear accuracy with the most labels."""
    most = str(frame.labels.iloc[0]).split()[-1]
    return [f"knn_{most}", f"linear_{most}"]


def table(frame: pd.DataFrame) -> str:
    """Accuracies and effective rank at every size, one line per budget and size."""
    found = _ready(frame)
    lines = {}
    for (budget, count), own in found.groupby(["budget", "trained_on"]):
        lines[f"{count:,}", BUDGETS[str(budget)]] = {
            "steps": int(own.steps.iloc[0]),
            **{name: spread(own[name]) for name in _probes(frame)},
            "loss": spread(own.loss, percent=False),
            "effective rank": round(own.effective_rank.mean(), 1),
        }
    index = pd.MultiIndex.from_tuples(lines, names=["images", "budget"])
    return markdown(pd.DataFrame(list(lines.values()), index=index))


def figure(frame: pd.DataFrame) -> Figure:
    """Both accuracies against the number of images, a line per budget."""
    found = _ready(frame)
    seeds = found.groupby(["budget", "trained_on"]).seed.nunique()
    fewest = int(found.images.min())  # a class
    kinds = {"pixels": frame.attrs.get("pixels", {}).get(fewest, {})}
    kinds["untrained"] = accuracy.measured(found, "untrained", fewest)
    dotted = f" Dotted: raw pixels and the untrained network with {10 * fewest:,} images, in `indomain`, "
    dotted += "on its 2,000 test images."
    fig, axes = picture.panels(
        1,
        2,
        title="More unlabelled images, at equal steps and at equal epochs",
        note=f"n = {picture.seeds(seeds)} a point, mean and sd; "
        f"{picture.dataset(str(found.data.iloc[0]))}, {found.backbone.iloc[0]}, nothing tuned by size."
        + (dotted if any(kinds.values()) else ""),
    )
    for ax, probe in zip(axes, _probes(frame), strict=True):
        ends = []
        for budget, own in found.groupby("budget"):
            colour, marker = LOOKS[str(budget)]
            end = picture.curve(ax, own, "trained_on", probe, colour=colour, marker=marker)
            ends.append((*end, BUDGETS[str(budget)], colour))
        picture.log_ticks(
            ax, found.trained_on.unique(), [f"{n:,}" for n in sorted(found.trained_on.unique())]
        )
        kind, _, labels = probe.partition("_")
        name = "k-NN" if kind == "knn" else "Linear probe"
        picture.label(ax, f"{name}, {labels} labels a class", "training images", "accuracy on test images, %")
        known = {kind: values[probe] for kind, values in kinds.items() if probe in values}
        picture.name_ends(ax, [*ends, *picture.baselines(ax, known)])
    return fig

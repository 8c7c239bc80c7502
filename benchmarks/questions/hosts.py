"""What does lightly's user gain by replacing the teacher: accuracy, time, memory, lines?

BYOL, DINO, SimSiam, SimCLR, lightly's own LeJEPALoss and ours on the same backbone, augmentations, batch and
images, each by lightly's recipe (SGD) and by AdamW with a warm-up, at learning rates in steps of about three.
Settings are chosen by k-NN and linear accuracy on training images held out for it, and reported on the test
images.  k-NN is lightly's (k = 200, t = 0.1), linear is logistic regression on all images trained on.
At equal time, a run has as many epochs as take LeJEPA's time by `host_steps`, and its schedule ends there.
lightly's LeJEPALoss needs more than two views, and is compared with ours on four, at one setting.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from benchmarks import host_figures, picture
from benchmarks.host_runs import check, measure
from benchmarks.hosts import BASELINES, METHODS
from benchmarks.report import markdown, spread
from benchmarks.rows import numbers

__all__ = ["check", "figure", "measure", "measured_code", "sources", "table"]

sources = ("hosts", "host_steps")
measured_code = (
    "benchmarks/hosts.py",
    "benchmarks/host_runs.py",
    "benchmarks/augment.py",
    "benchmarks/probes.py:classifier,effective_rank",
)
SETTING = ["optimizer", "lr_times"]
SEARCHED = 0  # the seed that ran every setting of every method


def runs_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are runs, their optimizer by name."""
    runs = frame[frame.question.isin(["hosts", "hosts_long"])].copy()
    own = runs.method.map({name: method.own for name, method in METHODS.items()})
    runs["optimizer"] = runs.optimizer.where(runs.optimizer.notna(), own) if "optimizer" in runs else own
    return runs


def _whole(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs as long as LeJEPA's, without those that are stopped at its time."""
    return runs[runs.epochs == runs.epochs[runs.method == "lejepa"].max()]


def steps_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The newest row of `host_steps` for each method."""
    columns = ["ms", "ours_over_this", "extra_mib"]
    steps = frame[frame.question == "host_steps"]
    if steps.empty:
        return pd.DataFrame(columns=columns)
    return steps[steps.date == steps.date.max()].set_index("method").reindex(columns=columns)


def _search_runs(own: pd.DataFrame) -> pd.DataFrame:
    """One method's runs of the seeds that ran every setting, so that none wins by a seed that others lack."""
    settings = own[SETTING].apply(tuple, axis=1)
    return own[settings.groupby(own.seed).transform("nunique") == settings.nunique()]


def best(own: pd.DataFrame, by: str) -> pd.DataFrame:
    """One method's runs at the setting with the best mean of `by`; a run that diverged counts as zero."""
    found = _search_runs(own)
    optimizer, times = found[by].fillna(0.0).groupby([found[key] for key in SETTING]).mean().idxmax()
    return own[(own.optimizer == optimizer) & (own.lr_times == times)]


def setting(run: pd.Series) -> str:
    """A run's optimizer and its learning rate as a multiple of the recipe's: `SGD x 3`."""
    return f"{'SGD' if run.optimizer == 'sgd' else 'AdamW'} x {run.lr_times:g}"


def _says(chosen: pd.DataFrame, own: pd.DataFrame) -> str:
    """The setting chosen; `edge` where the next learning rate of its optimizer was not tried."""
    if len(own[SETTING].drop_duplicates()) == 1:
        return "not searched"
    run = chosen.iloc[0]
    tried = own.lr_times[own.optimizer == run.optimizer]
    return setting(run) + (", edge" if run.lr_times in (tried.min(), tried.max()) else "")


def lead(ours: pd.Series, theirs: pd.Series) -> str:
    """`+1.9 [0.9, 2.8]`: the difference of means in points and its 95 % interval, by Welch's t."""
    ours, theirs = 100 * ours.dropna(), 100 * theirs.dropna()
    mean = f"{round(ours.mean() - theirs.mean(), 1) + 0.0:+.1f}"  # -0.0 becomes +0.0
    if min(len(ours), len(theirs)) < 2:
        return mean
    interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    return f"{mean} [{interval.low:.1f}, {interval.high:.1f}]"


def _tried(own: pd.DataFrame) -> str:
    parts = {"sgd": "SGD", "adamw": "AdamW"}
    rates = {name: sorted(own.lr_times[own.optimizer == key].unique()) for key, name in parts.items()}
    return "; ".join(
        f"{name} {', '.join(f'{x:g}' for x in values)}" for name, values in rates.items() if values
    )


def _fair(runs: pd.DataFrame, steps: pd.DataFrame) -> str:
    """A line per method: each accuracy at the setting that the held-out images choose for it."""
    whole = _whole(runs)
    timed_runs = runs.drop(whole.index)
    lejepa = whole[whole.method == "lejepa"]
    table: dict[str, dict[str, Any]] = {}
    for name in [name for name in METHODS if name in set(runs.method)]:
        own, timed = (rows[rows.method == name] for rows in (whole, timed_runs))
        if own.empty:
            continue
        line: dict[str, Any] = {}
        for title, column in (("k-NN", "knn"), ("linear", "linear")):
            chosen = best(own, f"selection_{column}")
            line[title] = spread(chosen[column], none="diverged")
            line[f"{title}'s setting"] = _says(chosen, own)
            ours = best(lejepa, f"selection_{column}")
            rival = name != "lejepa" and METHODS[name].views == METHODS["lejepa"].views
            line[f"LeJEPA's lead in {title}, Welch"] = lead(ours[column], chosen[column]) if rival else ""
        line["k-NN / linear at LeJEPA's time"] = (
            " / ".join(spread(timed[column], none="diverged") for column in ("knn", "linear"))
            + f", {timed.epochs.iloc[0]:g} epochs"
            if len(timed)
            else ""
        )
        cost = steps.loc[name] if name in steps.index else pd.Series(dtype=float)
        line |= {"tried": _tried(own), "diverged": int((own.diverged.astype(str) == "True").sum())}
        line |= {"step, ms": cost.get("ms"), "LeJEPA's step / its": cost.get("ours_over_this")}
        line |= {"peak MiB": cost.get("extra_mib"), "lines": int(own.lines.iloc[0])}
        line["effective rank, least"] = float(chosen.effective_rank.min())
        table[name] = line
    for name in [name for name in BASELINES if name in set(runs.method)]:
        own = whole[whole.method == name]
        table[name] = {"k-NN": spread(own.knn), "linear": spread(own.linear)}
    columns = dict.fromkeys(key for line in table.values() for key in line)
    shown = pd.DataFrame.from_dict(table, orient="index").reindex(columns=list(columns))
    return markdown(shown.astype(object).where(shown.notna(), "").rename_axis("method"))


def _four_views(runs: pd.DataFrame) -> str:
    """Our loss less lightly's own, which needs more than two views, on four; empty without rows of both."""
    runs = _whole(runs)
    ours, theirs = (runs[runs.method == name] for name in ("lejepa-4", "lightly-lejepa"))
    if ours.empty or theirs.empty:
        return ""
    knn, linear = (
        lead(best(ours, f"selection_{column}")[column], best(theirs, f"selection_{column}")[column])
        for column in ("knn", "linear")
    )
    devices = ", ".join(sorted({*ours.device, *theirs.device}))
    both = f"lejepa-4 minus lightly-lejepa, both with four views on {devices} (95 % interval, Welch)"
    return f"{both}: {knn} in k-NN, {linear} in linear accuracy."


def table(frame: pd.DataFrame) -> str:
    """A line per method and baseline; below it our loss against lightly's own."""
    runs = runs_of(frame)
    search = "Settings were chosen on held-out training images, accuracies are of all test images "
    search += f"(SHA-256 of the data: {_known(runs)})."
    parts = (_fair(runs, steps_of(frame)), search, _four_views(runs))
    return "\n\n".join(part for part in parts if part)


def _known(runs: pd.DataFrame) -> str:
    return ", ".join(sorted(str(value) for value in runs.data_sha256.dropna().unique()))


def figure(frame: pd.DataFrame) -> Figure:
    """Above, test accuracy against images at the chosen settings; below, the search.  Two views only."""
    every = _whole(runs_of(frame))
    runs = every[every.views == METHODS["lejepa"].views]
    fig, axes = picture.panels(
        2,
        2,
        title="Accuracy of each method at the setting chosen for it (above), and the search for it (below)",
        note=f"{_size(runs)} images, narrow ResNet-9, {runs.epochs.max():g} epochs, two views; mean over n "
        f"seeds, band: sd. Below: n = 1 (seed {SEARCHED}); names stand at the height of a "
        "method's best.",
        size=(12, 8),
        sharey="row",
    )
    ends: dict[Axes, list[tuple[float, float, str, str]]] = {}
    for row, title, above, below in zip(
        ("knn", "linear"), ("k-NN", "Linear"), axes[:2], axes[2:], strict=True
    ):
        ends[above] = host_figures.baselines(above, every, row)
        for name in [name for name in METHODS if name in set(runs.method)]:
            own = runs[runs.method == name]
            chosen = best(own, f"selection_{row}")
            if chosen.diverged.astype(bool).any():
                continue
            epochs = numbers(chosen.curve_epoch.iloc[0])
            images = epochs / chosen.epochs.iloc[0] * chosen.images_seen.iloc[0] / 1000
            ends[above].append(host_figures.curve(above, chosen, row, images))
        ends[below] = _search(below, runs, f"selection_{row}")
        picture.label(above, f"{title} accuracy at the chosen setting", "images seen, thousands", "")
        picture.label(below, f"{title}: the search", "learning rate, times its recipe's", "")
    axes[0].set_ylabel("accuracy on test images, %")
    axes[2].set_ylabel("accuracy on held-out images, %")
    for ax, found in ends.items():
        picture.name_ends(ax, found)
    return fig


def _search(ax: Axes, runs: pd.DataFrame, y: str) -> list[tuple[float, float, str, str]]:
    """One seed's accuracy at every setting: filled for SGD, open for AdamW; a name at each method's best."""
    ends = []
    for method in [method for method in METHODS if method in set(runs.method)]:
        name, colour = host_figures.LOOKS[method]
        tried = runs[(runs.method == method) & (runs.seed == SEARCHED)]
        means = 100 * tried.groupby(SETTING)[y].mean()
        for optimizer, mean in means.groupby(level=0):
            face, line = (colour, "-") if optimizer == "sgd" else ("white", ":")
            at = mean.index.get_level_values(1)
            ax.plot(at, mean, line, color=colour, marker="o", markersize=6, markerfacecolor=face)
        if means.notna().any():
            ends.append((1.0, float(means.max()), name, colour))
    for name, face in (("SGD", picture.INK), ("AdamW", "white")):
        ax.plot([], [], "o", color=picture.INK, markersize=6, markerfacecolor=face, label=name)
    picture.legend(ax, loc="upper left", bbox_to_anchor=(0.0, 1.0))
    picture.log_ticks(ax, (0.1, 0.3, 1, 3, 10, 30))
    return ends


def _size(runs: pd.DataFrame) -> str:
    """How many images trained, which data: `10,000 CIFAR-10`."""
    count = runs.images_seen.iloc[0] / runs.epochs.iloc[0]
    images = runs.images.dropna()
    data = picture.dataset(str(runs.data.iloc[0]))
    return f"{10 * int(images.iloc[0]) if len(images) else int(count):,} {data}"

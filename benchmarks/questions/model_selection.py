"""Can the training loss choose the model, without a label?

The paper: the Spearman correlation of low training loss with accuracy is 0.60 to 0.90, and 0.93 to 0.99 for
loss / lambda^alpha with alpha about 0.4.  A loss can be compared between runs that minimise the same
function only, so every group here shares the statistic, the slices and their kind, the grid, the views, the
projector and the batch; lambda is in the group's runs or is not.  Nothing is trained: these are rows of the
other questions.
"""

import math
from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import accuracy, picture
from benchmarks.choices import bootstrap, difference, rank_correlation
from benchmarks.report import markdown
from sigreg.selection.objective import AT_ZERO

sources = ("recipe", "lambda", "batch_size", "batch_steps", "slices")
OBJECTIVE = [
    *("question", "statistic", "num_slices", "directions", "resample", "t_max", "num_points"),
    *("projector_width", "global_views", "local_views", "batch_size"),
]
VARIED = {"lr": "learning rate", "weight_decay": "decay", "epochs": "epochs", "lambda_param": "lambda"}
ALPHAS = np.linspace(0, 1, 101)
PAPER = 0.4
FEWEST = 4  # settings in a group


def groups(frame: pd.DataFrame) -> Iterator[tuple[str, list[str], pd.DataFrame]]:
    """Runs of one objective: a name, what varies, the rows.  A rank needs a few settings to mean anything."""
    frame = frame.dropna(subset=["loss", "accuracy"])
    for _, rows in frame.groupby(OBJECTIVE, dropna=False, sort=True):
        varied = [key for key in VARIED if rows[key].nunique() > 1]
        if len(rows.drop_duplicates(varied or ["seed"])) >= FEWEST and varied:
            where = f"N = {rows.batch_size.iloc[0]}"
            if "lambda_param" in varied:
                where = f"{rows.views.iloc[0]} views"
            name = f"{rows.question.iloc[0]}, {where}"
            yield name, varied, rows
            if (at_zero := collapsed(rows)).any():
                left_out = f"{at_zero.sum()} collapsed run{'s' if at_zero.sum() > 1 else ''} left out"
                yield f"{name}, {left_out}", varied, rows[~at_zero]


def collapsed(rows: pd.DataFrame) -> pd.Series:
    """Which runs ended with all embeddings at 0, by their SIGReg."""
    at_zero = AT_ZERO * rows.batch_size
    return (rows.sigreg / at_zero - 1).abs() < 0.01


def scaled(rows: pd.DataFrame, alpha: float) -> pd.Series:
    """What is compared, large where it is good: - loss / lambda^alpha."""
    return -rows.loss / rows.lambda_param**alpha


def fitted(rows: pd.DataFrame) -> float:
    """The alpha with the highest correlation."""
    found = [rank_correlation(scaled(rows, alpha), rows.accuracy) for alpha in ALPHAS]
    return float(ALPHAS[int(np.nanargmax(found))]) if np.isfinite(found).any() else math.nan


def _cell(rows: pd.DataFrame, varied: list[str], alpha: float, column: str = "accuracy") -> str:
    """Correlation with its bootstrap interval over settings."""
    shown = rows.assign(scaled=scaled(rows, alpha))
    low, high = bootstrap(shown, "scaled", column, varied, draws=500)
    return f"{rank_correlation(shown.scaled, shown[column]):.2f} [{low:.2f}, {high:.2f}]"


def table(frame: pd.DataFrame) -> str:
    """Correlations within one objective; alpha from half the seeds, used on the others; fixed slices."""
    knn = list(accuracy.probes(frame))[1]
    lines = []
    for name, varied, rows in groups(frame):
        line = {
            "runs of": name,
            "varied": ", ".join(VARIED[key] for key in varied),
            "settings": len(rows.drop_duplicates(varied)),
            "runs": len(rows),
            "low loss, high accuracy": _cell(rows, varied, 0.0),
            f"the same for {knn}": _cell(rows, varied, 0.0, knn),
        }
        if "lambda_param" in varied:
            line[f"loss / lambda^{PAPER}"] = _cell(rows, varied, PAPER)
            line |= _fitted_cell(rows, varied)
        lines.append(line)
    parts = [markdown(pd.DataFrame(lines).fillna("").set_index("runs of"))] if lines else []
    if fixed := _fixed_slices(frame):
        parts.append(
            "Fixed slices against resampled ones at the same number.  The loss that fixed slices "
            f"report is lower, the features are not better.\n\n{fixed}"
        )
    return "\n\n".join(parts) or "Too few settings of one objective."


def _fitted_cell(rows: pd.DataFrame, varied: list[str]) -> dict[str, str]:
    seeds = sorted(rows.seed.unique())
    if len(seeds) < 2:
        return {}
    first = rows.seed.isin(seeds[: len(seeds) // 2])
    alpha = fitted(rows[first])
    return {
        "alpha, first half of the seeds": f"{alpha:.2f}",
        "with it, second half": _cell(rows[~first], varied, alpha),
    }


def _fixed_slices(frame: pd.DataFrame) -> str:
    slices = frame[frame.question == "slices"]
    lines = []
    for (kind, K), rows in slices.groupby(["directions", "num_slices"]):
        fixed, new = rows[~rows["resample"].astype(bool)], rows[rows["resample"].astype(bool)]
        if len(fixed) and len(new):
            ratio = fixed.groupby("seed").loss.mean() / new.groupby("seed").loss.mean()
            lines.append(
                {
                    "directions": kind,
                    "slices": K,
                    "loss, fixed / resampled": f"{ratio.mean():.2f} ({ratio.notna().sum()})",
                    "accuracy, fixed - resampled": difference(fixed, new),
                }
            )
    return markdown(pd.DataFrame(lines).set_index(["directions", "slices"])) if lines else ""


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against loss: a panel per question and objective, with its correlation; then fixed slices."""
    found = sorted(_without_collapsed(frame), key=lambda group: -len(group[2]))
    shown = [g for g in found if "lambda_param" not in g[1]]
    shown += [g for g in found if "lambda_param" in g[1]][-1:]
    if not shown:
        fig, (ax,) = picture.panels(
            title="Training loss against accuracy", note=accuracy.note(frame), size=(7.5, 4.4)
        )
        _draw_fixed_slices(ax, frame)
        _baselines(ax, frame)
        return fig
    columns = 2 if len(shown) < 4 else 3
    across = "different objectives, fixed and new slices"
    slices = frame[(frame.question == "slices") & (frame.directions == "gaussian")]
    fig, axes = picture.panels(
        -(-(len(shown) + 1) // columns),
        columns,
        title=f"Training loss against accuracy, one objective a panel; in the last one {across}",
        note=f"{accuracy.data_of(frame)}; a point is a run, and in the last panel the mean "
        f"over {picture.seeds(slices.groupby(['num_slices', 'resample']).seed.nunique())}. rho is Spearman's "
        "correlation of low loss with high accuracy over a panel's runs, with a 95 % bootstrap interval over "
        "settings. One legend serves all panels of the same settings. Dotted: raw pixels and the untrained "
        "network.",
    )
    named: set[tuple[str, tuple[float, ...]]] = set()
    for ax, (name, varied, rows) in zip(axes, shown, strict=False):
        alpha = PAPER if "lambda_param" in varied else 0.0
        key = "lambda_param" if alpha else "epochs" if "epochs" in varied else varied[0]
        values = (key, tuple(sorted(rows[key].unique())))
        _scatter(ax, rows, key, -scaled(rows, alpha), legend=values not in named)
        named.add(values)
        x = f"training loss / lambda^{PAPER}" if alpha else "training loss"
        picture.label(
            ax,
            f"{_title(name, varied, rows)}\nrho = {_cell(rows, varied, alpha)}, n = {len(rows)}",
            x,
            "test accuracy, %",
        )
    for ax in axes[len(shown) + 1 :]:
        ax.remove()
    _draw_fixed_slices(axes[len(shown)], frame)
    for ax in axes[: len(shown) + 1]:
        _baselines(ax, frame)
    return fig


def _without_collapsed(frame: pd.DataFrame) -> Iterator[tuple[str, list[str], pd.DataFrame]]:
    """Every objective once: where runs collapsed, the group that leaves them out, which comes second."""
    found = list(groups(frame))
    for group, after in zip_longest(found, found[1:]):
        if after is None or not after[2].index.isin(group[2].index).all():
            yield group


def _baselines(ax: Axes, frame: pd.DataFrame) -> None:
    """What pixels and the untrained network reach, where that is known."""
    picture.name_ends(ax, picture.baselines(ax, accuracy.baselines(frame, "accuracy")))


def _title(name: str, varied: list[str], rows: pd.DataFrame) -> str:
    """What varies, and what else names the group: `Learning rate, batch 64, equal steps`."""
    *first, last = (VARIED[key] for key in varied)
    what = f"{', '.join(first)} and {last}" if first else last
    where = name.partition(", ")[2].replace("N = ", "batch ")
    equal = {"batch_size": ", equal images", "batch_steps": ", equal steps"}.get(rows.question.iloc[0], "")
    return f"{what[0].upper()}{what[1:]}, {where}{equal}"


def _scatter(ax: Axes, rows: pd.DataFrame, key: str, x: pd.Series, legend: bool) -> None:
    """A colour per value of the setting named first, from dark (small) to light, named beside the axes."""
    import matplotlib as mpl

    values = sorted(rows[key].unique())
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(values)))
    for value, shade, marker in zip(values, shades, picture.MARKERS * 2, strict=False):
        at = rows[key] == value
        ax.plot(x[at], 100 * rows.accuracy[at], marker, ms=5, alpha=0.85, color=shade, label=f"{value:g}")
    ax.locator_params(axis="x", nbins=5)
    if legend:
        picture.legend(ax, title=VARIED[key], bbox_to_anchor=(1.0, 0.6))


def _draw_fixed_slices(ax: Axes, frame: pd.DataFrame) -> None:
    """Few slices, fixed and resampled: mean over seeds, joined by number of slices."""
    slices = frame[(frame.question == "slices") & (frame.directions == "gaussian")]
    means = slices.groupby(["num_slices", "resample"])[["loss", "accuracy"]].mean()
    for K, rows in means.groupby(level=0):
        ax.plot(rows.loss, 100 * rows.accuracy, "-", color=picture.PALE, zorder=1)
        for (_, drawn), row in rows.iterrows():
            style = {"color": picture.BLUE} if drawn else {"color": picture.RED, "markerfacecolor": "white"}
            ax.plot(row.loss, 100 * row.accuracy, "o", **style)
            ax.annotate(
                "" if drawn else f"K = {K}",
                (row.loss, 100 * row.accuracy),
                xytext=(-7, -3),
                textcoords="offset points",
                **{"fontsize": 8, "color": picture.INK, "ha": "right"},
            )
    ax.plot([], [], "o", color=picture.RED, markerfacecolor="white", label="fixed slices")
    ax.plot([], [], "o", color=picture.BLUE, label="new slices at every step")
    picture.legend(ax)
    ax.margins(x=0.2)
    picture.label(ax, "Fixed slices: lower loss, no better features", "training loss", "test accuracy, %")

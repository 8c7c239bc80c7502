"""Which test of normality makes the best regularizer, and what happens without one?

The paper: Epps-Pulley is stable, moments explode, tests on the distribution function are slow, none
collapses. Each statistic has its own lambda: searched in steps of 2 on the selection split until its
neighbours are worse, at three seeds; then ten seeds at that lambda, reported on the test split.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import accuracy, picture
from benchmarks.choices import at_edge, best, criterion, difference
from benchmarks.report import markdown, spread
from benchmarks.training import check as check
from benchmarks.training import measure as measure

USUAL = "epps_pulley"
NAMES = {
    "anderson_darling": "Anderson-Darling",
    "cramer_von_mises": "Cramér-von Mises",
    "epps_pulley": "Epps-Pulley",
    "exact_sigreg": "SIGReg over all slices",
    "extended_jarque_bera": "extended Jarque-Bera",
    "jarque_bera": "Jarque-Bera",
    "none": "no regularizer",
    "shapiro_francia": "Shapiro-Francia",
    "vasicek_entropy": "Vasicek's entropy",
    "vcreg": "VCReg",
    "watson": "Watson",
}


def _chosen(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each statistic at its best lambda, the best statistic first by the same criterion."""
    chosen = best(frame, ["statistic"], "lambda_param")
    order = chosen.groupby("statistic")[criterion(frame)].mean().sort_values(ascending=False).index
    chosen = pd.concat([chosen[chosen.statistic == name] for name in order], ignore_index=True)
    chosen.attrs.update(frame.attrs)
    return chosen


def table(frame: pd.DataFrame) -> str:
    """Both accuracies at the best lambda, the paired difference to Epps-Pulley, effective rank."""
    chosen = _chosen(frame)
    usual = chosen[chosen.statistic == USUAL]
    lines = {}
    for name, rows in chosen.groupby("statistic", sort=False):
        tried, value = frame[frame.statistic == name], rows.lambda_param.iloc[0]
        edge = " (edge)" if name != "none" and at_edge(tried, "lambda_param", value) else ""
        lines[name] = {"lambda": f"{value:g}{edge}"}
        for column in accuracy.probes(frame):
            lines[name][column] = spread(rows[column])
            if name != USUAL:
                lines[name][f"{column} against Epps-Pulley"] = difference(rows, usual, column)
        lines[name]["effective rank"] = spread(rows.effective_rank, percent=False)
        lines[name]["diverged"] = f"{int(tried.diverged.sum())} of {len(tried)}"
    return markdown(pd.DataFrame.from_dict(lines, orient="index").fillna("").rename_axis("statistic"))


_SAYS = "Orange: Epps-Pulley, the default of SIGReg. The order is that of the selection split."


def figure(frame: pd.DataFrame) -> Figure:
    """A point with bars for each statistic at its best lambda, the best on top; baselines as lines."""
    chosen = _chosen(frame)
    names = list(chosen.statistic.unique())[::-1]
    fig, axes = picture.panels(
        1,
        2,
        title="Statistics as regularizers, each at the lambda that the selection split chose",
        note=accuracy.note(chosen, _SAYS),
        size=(11, 0.36 * len(names) + 2.2),
        sharey=True,
    )
    for ax, (column, what) in zip(axes, accuracy.probes(frame).items(), strict=True):
        stats = chosen.groupby("statistic")[column].agg(["mean", "std"]).loc[names] * 100
        for y, name in enumerate(names):
            colour = picture.RED if name == USUAL else picture.GREY if name == "none" else picture.BLUE
            bar = stats["std"].fillna(0)[name]
            ax.errorbar(stats["mean"][name], y, xerr=bar, fmt="o", color=colour, capsize=2.5, elinewidth=1)
        picture.label(ax, accuracy.title_of(what), "test accuracy, %", "")
        ax.grid(axis="x", color=picture.PALE, linewidth=0.6)
        for i, (kind, value) in enumerate(
            sorted(accuracy.baselines(frame, column).items(), key=lambda kv: kv[1])
        ):
            ax.axvline(100 * value, color=picture.GREY, linestyle=":", linewidth=1.2, zorder=0)
            ax.annotate(
                f"{kind} {100 * value:.1f}",
                (100 * value, 0.98),
                xycoords=("data", "axes fraction"),
                xytext=(2 if i else -2, 0),
                textcoords="offset points",
                **{"ha": "left" if i else "right", "va": "top", "rotation": 90},
                **{"color": picture.GREY, "fontsize": 8},
            )
        ax.margins(x=0.08)
    lambdas = chosen.groupby("statistic").lambda_param.first()
    axes[0].set_yticks(
        range(len(names)),
        [NAMES.get(n, n) + ("" if n == "none" else f"  (lambda {lambdas[n]:g})") for n in names],
    )
    return fig

"""Choosing a setting, and how far one is from another: complete seeds, the selection split, intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats


def criterion(frame: pd.DataFrame) -> str:
    """The column that choices are made by: the selection split's accuracy, in old rows the test accuracy."""
    return "selection" if "selection" in frame and frame.selection.notna().any() else "accuracy"


def complete(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Only the settings of `by` that ran at every search seed: those that at least half of them have.

    Without it a half-finished sweep could crown one lucky seed.
    """
    tried = frame.groupby(by, dropna=False).seed.agg(set)
    wanted = {seed for seed in set(frame.seed) if sum(seed in seeds for seeds in tried) >= len(tried) / 2}
    wanted = wanted or set.intersection(*tried)
    kept = tried[[wanted <= seeds for seeds in tried]].reset_index()[by]
    return frame.merge(kept, on=by)


def best(frame: pd.DataFrame, by: list[str], over: str | list[str]) -> pd.DataFrame:
    """For each combination of `by`, all rows of the `over` that is best by the criterion at common seeds."""
    over = [over] if isinstance(over, str) else over
    column = criterion(frame)
    parts = []
    for _, line in frame.groupby(by, dropna=False):
        rows = complete(line, over)
        seeds = set.intersection(*rows.groupby(over, dropna=False).seed.agg(set))
        scored = rows[rows.seed.isin(seeds)].assign(
            score=rows[column].astype(float).fillna(-1)
        )  # -1: diverged
        mean = scored.groupby(over, dropna=False).score.mean()
        chosen = pd.DataFrame([mean.idxmax()] if len(over) > 1 else [[mean.idxmax()]], columns=over)
        parts.append(rows.merge(chosen, on=over))
    return pd.concat(parts, ignore_index=True)


def at_edge(frame: pd.DataFrame, over: str, value: float) -> bool:
    """Whether a chosen value is the least or the greatest of those that ran at all search seeds."""
    tried = complete(frame, [over])[over]
    return value in (tried.min(), tried.max())


def student(values: Any) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t; NaN where there are too few values."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return mean, mean - half, mean + half


def wilson(count: int, number: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    found = stats.binomtest(count, number).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def paired(one: pd.Series, other: pd.Series) -> tuple[float, float, float, int]:
    """Mean difference of two series indexed by seed, its Student interval, and the number of pairs.

    Runs of one seed share initialisation and label draws (and the order of images, where the batch is the
    same).
    """
    difference = (one - other).dropna()
    return *student(difference), len(difference)


def difference(one: pd.DataFrame, other: pd.DataFrame, column: str = "accuracy") -> str:
    """`+0.8 [0.2, 1.4] (n = 10)`: paired difference in points, 95 % interval, pairs."""
    mean, low, high, n = paired(*(rows.groupby("seed")[column].mean() for rows in (one, other)))
    if n < 2:
        return f"{100 * mean:+.1f} (n = {n})" if n else ""
    return f"{100 * mean:+.1f} [{100 * low:.1f}, {100 * high:.1f}] (n = {n})"


def rank_correlation(x: pd.Series, y: pd.Series) -> float:
    """Spearman's, or NaN for a constant."""
    if x.nunique() < 2 or y.nunique() < 2:
        return math.nan
    return float(stats.spearmanr(x, y).statistic)


def bootstrap(frame: pd.DataFrame, x: str, y: str, unit: list[str], draws: int = 1000) -> tuple[float, float]:
    """95 % interval of Spearman's correlation when settings (`unit`) are drawn again with replacement.

    A setting is drawn with all its seeds: seeds of one setting are no independent evidence about the order of
    settings.
    """
    generator = np.random.default_rng(0)
    groups = [rows[[x, y]].to_numpy(dtype=float) for _, rows in frame.groupby(unit, dropna=False)]
    found = []
    for _ in range(draws):
        drawn = np.concatenate([groups[i] for i in generator.integers(len(groups), size=len(groups))])
        if (np.ptp(drawn, axis=0) > 0).all():
            found.append(np.corrcoef(stats.rankdata(drawn, axis=0).T)[0, 1])
    if not found:
        return math.nan, math.nan
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)

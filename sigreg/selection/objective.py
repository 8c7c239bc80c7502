"""Which settings of a run decide what its training loss measures."""

from __future__ import annotations

import math
import re
from collections import Counter

from sigreg.diagnostics import collapsed_value, expected_value
from sigreg.selection.table import Row, Value

GRID = "the grid of the integral"
SAMPLE = "SIGReg grows with the number of samples N that are tested together"
VIEWS = "both terms are means over views"
SLICES = "the mean over few slices is larger, and fixed slices are fitted"
DATA = "easier views have a lower prediction term"
KIND = "another function"
SETTINGS = {
    **dict.fromkeys(("method", "objective", "criterion", "loss_function", "convention"), KIND),
    **dict.fromkeys(("statistic", "unbiased", "sigreg_statistic", "samples", "window"), KIND),
    **dict.fromkeys(("t_max", "num_points", "grid", "knots", "sigreg_t_max", "sigreg_knots"), GRID),
    **dict.fromkeys(("num_slices", "num_vectors", "sigreg_num_vectors", "directions"), SLICES),
    **dict.fromkeys(("N", "batch_size", "global_batch_size", "memory", "world_size"), SAMPLE),
    **dict.fromkeys(("devices", "num_nodes", "group", "gather_distributed"), SAMPLE),
    **dict.fromkeys(("V", "views", "num_views", "global_views", "local_views", "num_global"), VIEWS),
    **dict.fromkeys(("n_global_views", "n_local_views", "num_large_crops", "num_small_crops"), VIEWS),
    **dict.fromkeys(("D", "projector_width", "projection_dim", "proj_output_dim"), "another space"),
    **dict.fromkeys(("data", "dataset", "images", "augmentation", "augmentations", "transform"), DATA),
    **dict.fromkeys(("global_scale", "local_scale", "flip", "rotate", "jitter", "noise"), DATA),
}
"""Settings that a training loss can be compared within only, each with the reason."""
LAMBDA = ("lambda_param", "lambda", "lambd", "lamb", "lmbda", "sigreg_weight", "sigreg.weight")
RESAMPLED = ("resample", "resample_slices", "resample_directions")
FIXED = ("fixed_slices", "fixed_directions")
FIXED_ARE_FITTED = (
    "a run with fixed slices fits those slices: it reaches a lower loss than one that draws new slices at "
    "every step, and its features are no better, with few slices worse"
)
EXPECTED = round(expected_value(), 2)  # 1.05
AT_ZERO = round(collapsed_value(1), 5)  # 0.40205


def named(column: str, names: tuple[str, ...] | dict[str, str]) -> str | None:
    """The name that a column has among `names`; `method_kwargs.t_max` and `cfg/t_max` are t_max."""
    last = re.split(r"[./]", column)[-1]
    return column if column in names else last if last in names else None


def reason(column: str) -> str:
    """Why runs that differ in a setting cannot be compared."""
    return SETTINGS.get(named(column, SETTINGS) or "", "named as part of the objective")


def counted(values: list[Value]) -> str:
    """`3.0 in 4 runs and 5.0 in 2`, the most frequent first."""
    counts = Counter("not given" if value is None else str(value) for value in values).most_common()
    parts = [f"{value} in {n}" for value, n in counts[:4]]
    parts[0] += " runs" if counts[0][1] > 1 else " run"
    return ", ".join(parts[:-1]) + f" and {parts[-1]}" + (", ..." if len(counts) > 4 else "")


def fixed_slices(row: Row) -> bool:
    """Whether a run says that its slices stay the same; 0 and 1 are truth values here."""
    return any(
        (value == 0 and named(column, RESAMPLED)) or (value == 1 and named(column, FIXED))
        for column, value in row.items()
    )


def suspiciously_low(rows: list[Row]) -> int:
    """How many runs report an Epps-Pulley value below what N(0, I) itself has.

    New slices at every step measure about 1.05 or more; less says that the slices are fixed, or that the
    network has fitted the batch that was measured.
    """
    values = [row["sigreg"] for row in rows if _usual_statistic(row)]
    return sum(isinstance(value, float | int) and value < EXPECTED - 0.05 for value in values)


def collapsed(rows: list[Row]) -> int:
    """How many runs ended with all embeddings at 0, by their SIGReg: within 1 % of 0.40205 N.

    They have a low prediction term, and with a small lambda a low loss.  N is the column `N`, or else
    `batch_size` on each of `devices`; below 16 other embeddings reach such values too.
    """
    count = 0
    for row in filter(_usual_statistic, rows):
        N = row.get("N") or _product(row.get("batch_size"), row.get("devices") or 1)
        value = row["sigreg"]
        if isinstance(value, float | int) and isinstance(N, float | int) and N >= 16:
            count += abs(value / (AT_ZERO * N) - 1) < 0.01
    return count


def _product(*values: Value) -> float | None:
    numbers = [value for value in values if isinstance(value, float | int)]
    return math.prod(numbers) if len(numbers) == len(values) else None


def _usual_statistic(row: Row) -> bool:
    """Whether `sigreg` is Epps-Pulley on the default grid, whose values for N(0, I) and at 0 are known."""
    return (
        "sigreg" in row
        and row.get("unbiased") != 1
        and row.get("statistic") in ("epps_pulley", None)
        and row.get("t_max") in (3, None)
        and row.get("num_points") in (17, None)
    )

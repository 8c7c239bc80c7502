"""How many slices, of which kind, and new ones at every step or fixed?

The paper: few resampled slices beat many fixed ones.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import accuracy
from benchmarks.choices import difference
from benchmarks.picture import BLUE, GREEN, RED
from benchmarks.report import markdown
from benchmarks.training import check as check
from benchmarks.training import measure as measure

KINDS = {"gaussian": BLUE, "orthogonal": GREEN, "sobol": RED}


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    drawn = frame["resample"].map({True: "resampled", False: "fixed"})
    named = frame.assign(slices=frame.directions + ", " + drawn)
    named.attrs.update(frame.attrs)
    return named


def table(frame: pd.DataFrame) -> str:
    """Both accuracies by number and kind; then what resampling is worth."""
    named = _named(frame)
    lines = []
    for (kind, K), rows in frame.groupby(["directions", "num_slices"]):
        new, fixed = rows[rows["resample"]], rows[~rows["resample"]]
        lines.append(
            {"directions": kind, "num_slices": K}
            | {f"{c}: resampled - fixed": difference(new, fixed, c) for c in accuracy.probes(frame)}
        )
    worth = markdown(pd.DataFrame(lines).set_index(["directions", "num_slices"]))
    return f"{accuracy.table(named, ['slices', 'num_slices'])}\n\nWhat resampling is worth:\n\n{worth}"


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the number of slices; fixed ones dashed."""
    drawn = frame["resample"].map({True: "new slices at every step", False: "fixed slices"})
    kind = frame.directions + ", " if frame.directions.nunique() > 1 else ""
    named = frame.assign(slices=kind + drawn)
    named.attrs.update(frame.attrs)
    kinds = dict(zip(named.slices, named.directions, strict=True))
    return accuracy.figure(
        named,
        x="num_slices",
        lines="slices",
        title="New slices at every step against fixed ones",
        xlabel="slices K",
        dashed=[line for line in kinds if line.endswith("fixed slices")],
        colours={line: KINDS.get(kind, RED) for line, kind in kinds.items()},
    )

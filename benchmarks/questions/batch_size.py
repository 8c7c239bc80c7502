"""Does LeJEPA need a large batch?

The paper: it works at 128 and below.  Every run of `batch_size` sees the same number of images, so a large
batch makes few steps; every run of `batch_steps` makes the same number of steps, so a large batch sees more
images.  Each batch has its best learning rate on the selection split.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import accuracy
from benchmarks.choices import at_edge, best
from benchmarks.report import markdown, spread
from benchmarks.training import check as check
from benchmarks.training import measure as measure

sources = ("batch_size", "batch_steps")
KINDS = {"batch_size": "equal images", "batch_steps": "equal steps"}


def _chosen(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each batch at its best learning rate, for both kinds of equality."""
    chosen = best(frame, ["question", "batch_size"], "lr")
    chosen.attrs.update(frame.attrs)
    return chosen.assign(kind=chosen.question.map(KINDS))


def table(frame: pd.DataFrame) -> str:
    """Both accuracies at the learning rate that the selection split chose."""
    lines = []
    for (kind, batch), rows in _chosen(frame).groupby(["kind", "batch_size"]):
        lr, tried = (
            rows.lr.iloc[0],
            frame[(frame.batch_size == batch) & (frame.question == rows.question.iloc[0])],
        )
        edge = " (edge)" if at_edge(tried, "lr", lr) else ""
        lines.append(
            {"kind": kind, "batch_size": batch, "lr": f"{lr:g}{edge}", "steps": int(rows.steps.iloc[0])}
            | {column: spread(rows[column]) for column in accuracy.probes(frame)}
            | {"effective rank": spread(rows.effective_rank, percent=False)}
        )
    return markdown(pd.DataFrame(lines).set_index(["kind", "batch_size"]))


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against batch size, at equal images and at equal steps."""
    return accuracy.figure(
        _chosen(frame),
        x="batch_size",
        lines="kind",
        title="Small batches suffice; lambda stays at .05 while N changes",
        xlabel="batch size N",
        more="Each point at the learning rate that the selection split chose.",
    )

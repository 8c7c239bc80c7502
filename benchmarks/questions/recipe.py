"""Which learning rate, weight decay and length of training, at one objective?

The objective stays as it is, so that `model_selection` may compare the training losses of these runs.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import accuracy
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Both accuracies at every setting."""
    return accuracy.table(frame, ["epochs", "weight_decay", "lr"])


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the learning rate, a line per length and decay."""
    named = frame.assign(
        line=[f"{e} epochs, decay {w:g}" for e, w in zip(frame.epochs, frame.weight_decay, strict=True)]
    )
    named.attrs.update(frame.attrs)
    return accuracy.figure(
        named,
        x="lr",
        lines="line",
        title="Learning rate, weight decay and epochs at one objective",
        xlabel="learning rate",
        dashed=[line for line in named.line.unique() if not line.endswith(f"{frame.weight_decay.min():g}")],
        colours=_colours(named),
    )


def _colours(named: pd.DataFrame) -> dict[object, str]:
    """A colour per number of epochs."""
    lengths = sorted(named.epochs.unique())
    return {
        line: accuracy.picture.COLOURS[lengths.index(e)]
        for line, e in zip(named.line, named.epochs, strict=True)
    }

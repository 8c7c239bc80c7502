"""How many views, and how many of them global?

The paper: more views help; one global view hurts.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import accuracy
from benchmarks.training import check as check
from benchmarks.training import measure as measure


def table(frame: pd.DataFrame) -> str:
    """Both accuracies by global and local views; what more local ones are worth, and what global ones are."""
    fewest = int(frame.local_views.min())
    local = accuracy.table(frame, ["global_views", "local_views"], {"local_views": fewest})
    shared = accuracy.table(frame, ["local_views", "global_views"], {"global_views": 2})
    return f"{local}\n\nAgainst two global views:\n\n{shared}"


def figure(frame: pd.DataFrame) -> Figure:
    """Accuracy against the number of local views, a line per number of global ones."""
    crops = frame.global_views + frame.local_views
    return accuracy.figure(
        frame,
        x="local_views",
        lines="global_views",
        title="Accuracy against the number of local views",
        xlabel="local views",
        name="{} global",
        log=False,
        more="One lambda and one learning rate for all. The crops of an image, and with them the work of a "
        f"step, differ: {crops.min()} to {crops.max()}.",
    )

"""`python -m sigreg inspect FILE`: exit status 0 healthy, 1 not healthy, 2 unusable input."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from sigreg.diagnostics import diagnose
from sigreg.inspect import plot, probes, report
from sigreg.inspect.files import opened, sample
from sigreg.inspect.formats import Unusable
from sigreg.inspect.report import Inspected

MOST = 1 << 26  # values that are held in memory: 512 MiB in float64
HEALTHY, NOT_HEALTHY, UNUSABLE = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(
        "python -m sigreg inspect", description="What is wrong with embeddings, in words."
    )
    p.epilog = "Exit status: 0 healthy, 1 not healthy (of FILE), 2 unusable input."
    p.add_argument(
        "file", type=Path, metavar="FILE", help="embeddings (N, D): .npy, .npz, .pt or .safetensors"
    )
    p.add_argument("--key", help="which array, where the file holds several")
    p.add_argument(
        "--labels", type=Path, metavar="FILE", help="one label a row: adds k-NN and a linear probe"
    )
    p.add_argument("--compare", type=Path, metavar="OTHER", help="a second file, set beside the first")
    p.add_argument(
        "--plot", type=Path, metavar="OUT.png", help="draw slices, spectrum, lengths and quantiles"
    )
    p.add_argument("--json", action="store_true", help="print JSON instead of text")
    p.add_argument("--num-slices", type=int, default=256, help="random directions (default: 256)")
    p.add_argument("--seed", type=int, default=0, help="of the directions and of the rows of a large file")
    p.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load pickled Python objects, which can run any code: for files that you trust",
    )
    return p


def main(arguments: list[str]) -> int:
    """The exit status."""
    options = parser().parse_args(arguments)
    try:
        if options.num_slices < 1:
            raise Unusable(f"--num-slices={options.num_slices} must be at least 1")
        found = inspect(options.file, options)
        other = inspect(options.compare, options, first=False) if options.compare else None
    except Unusable as error:
        print(f"python -m sigreg inspect: {error}", file=sys.stderr)
        return UNUSABLE
    if options.json:
        both = report.as_json(found) | ({} if other is None else {"compare": report.as_json(other)})
        print(json.dumps(both, indent=1))
    else:
        print(report.text(found) if other is None else report.compared(found, other))
    return HEALTHY if found.diagnosis.healthy else NOT_HEALTHY


def inspect(path: Path, options: argparse.Namespace, first: bool = True) -> Inspected:
    """Read, diagnose, and do what the options ask for beside it.

    Raises:
        Unusable: the file, the labels or an output cannot be used.
    """
    array = opened(path, options.key, options.allow_pickle)
    rows, columns = array.shape
    z, index = sample(array, MOST, options.seed)
    try:
        diagnosis = diagnose(z, num_slices=options.num_slices, seed=options.seed)
    except ValueError as error:
        raise Unusable(f"{array}: {error}") from None
    accuracies = None
    if options.labels and (first or rows == len(z)):
        labels = probes.read(options.labels, rows, options.allow_pickle)
        accuracies = probes.accuracies(z, [labels[i] for i in index.tolist()], options.seed)
    found = Inspected(str(array), (rows, columns), array.dtype, diagnosis, accuracies)
    if options.plot and first:
        plot.draw(z, diagnosis.measured, f"{array.path.name}: {found.verdict}", options.plot)
    return found

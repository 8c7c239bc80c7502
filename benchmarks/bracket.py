"""`python -m benchmarks.bracket QUESTION LINE=A,B,C KEY [key=value ...]`: search KEY in steps of 2.

For every value of LINE (a statistic, say) a coarse scan of KEY at the first seed finds where to begin; then
KEY moves in steps of 2 at the search seeds until the best value by the selection split has a worse neighbour
on both sides; then the best one runs at all seeds.  Every run is an ordinary row of the question, so that an
interrupted search goes on where it was.  The test split takes no part.
"""

from __future__ import annotations

import sys

from benchmarks import __main__ as command
from benchmarks.rows import Table

SEARCH = (0, 1, 2)
SEEDS = tuple(range(10))
COARSE = (0.00125, 0.005, 0.02, 0.08)
LEAST, MOST = 0.00015, 0.64


def search(question: str, line: str, value: str, key: str, overrides: list[str]) -> float:
    """The best value of `key` at one `value` of `line`, inside its neighbours or at LEAST or MOST."""
    results = next((o.removeprefix("results=") for o in overrides if o.startswith("results=")), None)

    def score(x: float, seeds: tuple[int, ...]) -> float:
        run(question, {line: value, key: x}, seeds, overrides)
        return scored(question, {line: value, key: x}, seeds, results)

    best = max(COARSE, key=lambda x: score(x, SEARCH[:1]))
    while True:
        near = [x for x in (best / 2, best, best * 2) if LEAST <= x <= MOST]
        found = max(near, key=lambda x: score(x, SEARCH))
        if found == best:
            return best
        best = found


def run(question: str, settings: dict[str, object], seeds: tuple[int, ...], overrides: list[str]) -> None:
    """The rows of one setting at these seeds; those that exist are left alone."""
    chosen = [
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in settings.items()
    ]
    command.main([question, *chosen, f"seed={','.join(str(seed) for seed in seeds)}", *overrides])


def scored(
    question: str, settings: dict[str, object], seeds: tuple[int, ...], results: str | None = None
) -> float:
    """Mean accuracy on the selection split at these seeds; a run that diverged counts as 0."""
    frame = Table(question, results).frame()
    frame = frame[frame.select_every.notna() & frame.seed.isin(seeds)]
    for key, value in settings.items():
        frame = (
            frame[(frame[key] - value).abs() < 1e-9]
            if isinstance(value, float)
            else frame[frame[key] == value]
        )
    return float(frame.selection.fillna(0).sum()) / len(seeds)


def main(arguments: list[str]) -> None:
    """All lines: first every search, then all seeds of what was found."""
    if len(arguments) < 3:
        raise SystemExit("usage: python -m benchmarks.bracket QUESTION LINE=A,B,C KEY [key=value ...]")
    question, lines, key, *overrides = arguments
    line, _, values = lines.partition("=")
    best = {value: search(question, line, value, key, overrides) for value in values.split(",")}
    for value, found in best.items():
        print(f"{line}={value}: {key}={found:g}")
        run(question, {line: value, key: found}, SEEDS, overrides)


if __name__ == "__main__":
    main(sys.argv[1:])

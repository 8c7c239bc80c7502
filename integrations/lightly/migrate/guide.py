"""What a migration changes, read off the files beside this one.

    python -m integrations.lightly.migrate.guide

prints the table and the diffs that the README shows; a test holds the README to them.
"""

from __future__ import annotations

import difflib
from pathlib import Path

METHODS = {"byol": "BYOL", "dino": "DINO", "simsiam": "SimSiam"}
FRAMEWORKS = {"torch": "PyTorch", "lightning": "Lightning"}


def diff(method: str, framework: str) -> list[str]:
    """The lines that go (-) and come (+), with an empty line between places."""
    before, after = (
        Path(__file__).with_name(f"{method}_{framework}_{when}.py").read_text().splitlines()
        for when in ("before", "after")
    )
    _, _, _, *lines = difflib.unified_diff(before, after, n=0, lineterm="")
    return ["" if line.startswith("@@") else line for line in lines if line[1:].strip()]


def counts(method: str, framework: str) -> tuple[int, int]:
    """Lines of code deleted and added; empty lines do not count."""
    signs = [line[:1] for line in diff(method, framework)]
    return signs.count("-"), signs.count("+")


def table() -> str:
    rows = ["| lines | " + " | ".join(FRAMEWORKS.values()) + " |", "|---|" + "---|" * len(FRAMEWORKS)]
    for method, name in METHODS.items():
        cells = ["-{} +{}".format(*counts(method, framework)) for framework in FRAMEWORKS]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def block(method: str, framework: str) -> str:
    return "```diff\n" + "\n".join(diff(method, framework)) + "\n```"


if __name__ == "__main__":
    print(table())
    for method, name in METHODS.items():
        for framework, where in FRAMEWORKS.items():
            print(f"\n{name}, {where}\n{block(method, framework)}")

"""The recipe's numbers as Markdown tables, and where they come from."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("sigreg", "torch", "transformers", "accelerate")


def source() -> dict[str, Any]:
    """Commit, whether files were changed since, and versions."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    versions = {name: version(name) for name in PACKAGES}
    return {
        "commit": commit.stdout.strip() or None,
        "dirty": bool(changed.stdout.strip()),
        "versions": versions | {"python": platform.python_version()},
        "cores": os.cpu_count(),
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown, three significant digits; the columns are those of the row that has most."""
    columns = list(max(rows.values(), key=len))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, cells in rows.items():
        shown = (f"{cells[column]:.3g}" if column in cells else "" for column in columns)
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)

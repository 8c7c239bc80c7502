"""Where the rows of a section come from: the command, the machine, the commits, and what changed since.

A row is stale when the code that it measured differs between its commit and the working tree: for a training
run the recipe, for a timing the kernels.  Comments and docstrings do not count, nor does code of a question's
file that `measure` does not reach.  Data are compared by the hash in the row, not here.
"""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pandas as pd

from benchmarks import engine
from benchmarks.provenance import ROOT, git
from benchmarks.rows import cell, compared

TRAINING = ("benchmarks/training.py", "benchmarks/augment.py", "benchmarks/probes.py")
CORE = tuple(  # what `sigreg` stands for: all that a loss or a statistic runs, not the tools beside them
    f"sigreg/{part}"
    for part in (
        *("arguments.py", "collectives.py", "directions.py", "functional.py", "kernels", "memory.py"),
        "multivariate",
        *("next_embedding.py", "objective.py", "random_numbers.py", "regularizer.py", "sample.py"),
        "univariate",
    )
)
# Commits that changed measured code and no number of these questions' rows, and why that is so.
UNTIMED = ("architectures", "grid_error", "model_selection", "segmentation", "small_batch", "stability")
ON_CORE = (
    *(*UNTIMED, "directions", "host_steps", "hosts", "hosts_long", "inspect_power"),
    *("monitor_cost", "scaling", "theory", "theory_rate", "world_model"),
)
MASKED = "it is about what masked steps hold, and values that are not finite beside a mask"
CHECKS = (
    "it checks arguments, within microseconds a call, and mends inputs that no row has; other values and "
    "gradients are the same to the last bit"
)
NAMES_AND_STATES = "it is about names, states and warnings, and not about what is computed"
HARMLESS = {
    "baf0bb657d": (
        (*UNTIMED, "theory", "theory_rate"),
        "it mends inputs that no row has, and gives the same values to the last bit for the others",
    ),
    "70e7017158": (("small_batch",), "it lets a module have buffers that are None"),
    "7ffb3653f6": (("hosts",), "it gives NaN as the effective rank of features that are not finite"),
    "b17940a32d": (ON_CORE, CHECKS),
    "88bfb37d17": (ON_CORE, "it is about tensors on the meta device"),
    "c90127c613": (
        ON_CORE,
        "it is about GPUs; on a CPU values and gradients are the same to the last bit",
    ),
    "bcb3cd29af": (ON_CORE, "it moves code and saves microseconds of a call"),
    "9761135320": (ON_CORE, "it is about the compilations of backend='inductor'"),
    "2b0c917417": (ON_CORE, "it is about the trial of Triton on a GPU"),
    "5e21f57f0f": (
        ("hosts", "hosts_long", "stability"),
        "it adds a method, and moves the probe into a function",
    ),
    "881b8ddf1a": (
        ON_CORE,
        "it is about GPUs, views of one valid row and calls without rows; other values and gradients are the "
        "same to the last bit",
    ),
    "f1b9f0d09a": (ON_CORE, "it names a type"),
    "8854c4e167": (ON_CORE, "it is about the trial of Triton on a GPU"),
    "5745ab15a2": (ON_CORE, "it makes a second derivative of some statistics an error"),
    "7ef2815473": (ON_CORE, MASKED),
    "2aca087834": (ON_CORE, "it stores the rows of a memory later in the same call"),
    "feeb9f62b5": (ON_CORE, MASKED),
    "2d7ae4a4f6": (("monitor_cost",), NAMES_AND_STATES),
    "35d34a6f95": (("inspect_power",), "it sums fewer terms, which changes a value by 1e-13 of it"),
    "1c38dd94d2": (ON_CORE, CHECKS),
    "a27766a581": (ON_CORE, CHECKS),
    "22eb802fb8": (ON_CORE, "it names a type"),
    "ee1559a341": (("cost",), "it moves the table and the figure into another file"),
    "a712f7a0be": ((*ON_CORE, "cost"), "it is about a warning"),
    "4670ab0cf2": (("monitor_cost",), NAMES_AND_STATES),
    "9f5ab010e1": (("monitor_cost",), NAMES_AND_STATES),
    "c6d950873a": (("monitor_cost",), NAMES_AND_STATES),
    "15eeb33ebb": (("inspect_power",), "it is about samples of fewer than 4 rows"),
    "ffcb78cc59": (("inspect_power", "monitor_cost"), CHECKS),
    "b263f3e683": (("inspect_power",), "it is about samples of more than 16,384 rows"),
    "017ab2790a": (("small_batch",), "it is about what is returned, and not about the gradients"),
    "3703090948": (("cost",), "it adds what a GPU alone runs"),
    "facc25af9b": (
        (*ON_CORE, "cost"),
        "it saves operations of a call with a mask; values and gradients are the same to the last bit",
    ),
    "786d27f296": (("segmentation",), "it refuses a setting that no row has"),
    "1d79d00f05": ((*ON_CORE, "cost"), "it calls a function for what was written out"),
    "9cc2a338c8": (
        ("cost",),
        "it lets the mix have other numbers of points than 17; rows of the mix with others were removed",
    ),
}
# A commit of HARMLESS that does count for the implementations whose name contains a word.
EXCEPT = {"facc25af9b": "masked"}


def measured_code(module: ModuleType) -> tuple[str, ...]:
    """What the rows of a question depend on: folders, files, or `FILE:name,name` for these and what they use.

    A question says so by `measured_code`, where `sigreg` stands for `CORE`; else it is the shared recipe of
    `benchmarks.training` for one that trains and the library for any other.  The question's own `measure`
    always belongs to it.
    """
    own = f"benchmarks/questions/{module.__name__.rpartition('.')[2]}.py:measure"
    trains = any(
        "benchmarks.training" in (getattr(x, "__name__", ""), getattr(x, "__module__", ""))
        for x in vars(module).values()
    )
    code = getattr(module, "measured_code", TRAINING if trains else ("sigreg",))
    return (*(part for name in code for part in (CORE if name == "sigreg" else (name,))), own)


class Change(NamedTuple):
    """What of some code differs from that of a commit."""

    files: tuple[str, ...]
    """Those that differ."""
    mends: tuple[str, ...] = ()
    """The harmless commits without which other files would differ."""


@functools.cache
def changed(commit: str, code: tuple[str, ...], harmless: tuple[str, ...] = ()) -> Change | None:
    """How `code` differs from that of a commit; None when there is no such commit here.

    What the commits of `harmless` changed, from the oldest on, does not count.
    """
    wanted = dict(part.partition(":")[::2] for part in code)
    try:
        differ = git("diff", "--name-only", commit, "--", *wanted).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    found: list[str] = []
    applied: set[str] = set()
    for name in differ:
        names = tuple(wanted[name].split(",")) if wanted.get(name) else ()
        now = (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).exists() else ""
        if not name.endswith(".py"):
            continue
        before, mends = _code_at(commit, name, names), set()
        for mend in harmless:
            if before == _code_at(f"{mend}^", name, names) != _code_at(mend, name, names):
                before = _code_at(mend, name, names)
                mends.add(mend)
        if before != _code(now, names):
            found.append(name)
        else:
            applied |= mends
    return Change(tuple(found), tuple(mend for mend in harmless if mend in applied))


@functools.cache
def _code_at(commit: str, name: str, names: tuple[str, ...]) -> list[str]:
    try:
        return _code(git("show", f"{commit}:{name}"), names)
    except subprocess.CalledProcessError:
        return []  # the file is newer


def _code(source: str, names: Iterable[str]) -> list[str]:
    """The statements of a file without docstrings and comments; with names, those that these reach."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # docstrings of attributes stand below them
            body[:] = [statement for statement in body if not _is_text(statement)]
    if not (wanted := list(names)):
        return [ast.dump(node) for node in tree.body]
    defined = {name: node for node in tree.body for name in _names(node)}
    reached: dict[str, ast.stmt] = {}
    while wanted:
        name = wanted.pop()
        if name in defined and name not in reached:
            reached[name] = defined[name]
            wanted += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    return sorted(f"{name}: {ast.dump(node)}" for name, node in reached.items())


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _names(node: ast.stmt) -> list[str]:
    """What a statement at the top of a file defines; an import defines nothing of its own."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def _harmless(name: str, implementation: str) -> tuple[str, ...]:
    """The commits that leave rows of a question, and of one implementation in it, as they are."""
    return tuple(
        commit
        for commit, (questions, _) in HARMLESS.items()
        if name in questions and not (commit in EXCEPT and EXCEPT[commit] in implementation)
    )


def stale(name: str, rows: pd.DataFrame) -> str:
    """What to say of rows of one question that other code measured; empty when none is stale."""
    code = measured_code(engine.module(name))
    harmless = _harmless(name, "")
    implementation = (
        rows["implementation"].astype(str) if "implementation" in rows else rows.commit.map(lambda _: "")
    )
    parts, unknown, before, mends = [], 0, 0, set()
    for (commit, does), own in rows.groupby([rows.commit.astype(str), implementation], sort=True):
        change = changed(str(commit), code, _harmless(name, does))
        if change is None:
            unknown += len(own)
        elif change.files:
            parts.append((len(own), str(commit), change.files))
        elif change.mends:
            before += len(own)
            mends |= {*change.mends}
    said = ""
    if parts:
        names = sorted({Path(file).name for _, _, found in parts for file in found})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        count, commits = sum(n for n, _, _ in parts), ", ".join(sorted({commit for _, commit, _ in parts}))
        said = f"**Stale:** {count} of {len(rows)} rows of {name} are from before a change of "
        said += f"{', '.join(f'`{file}`' for file in names[:3])}{more} (commits {commits})."
    if unknown:
        said += f" {unknown} rows of {name} are of commits that this checkout does not have."
    if before:
        commits = ", ".join(f"`{commit}`" for commit in harmless if commit in mends)
        said += f" {before} rows of {name} are from before changes that leave them as they are ({commits})."
    return said.strip()


def reasons(text: str) -> str:
    """Why the commits that `stale` names in a text leave rows as they are; empty when it names none."""
    found = [f"- `{commit}`: {why}." for commit, (_, why) in HARMLESS.items() if f"`{commit}`" in text]
    return "\n".join(["## Changes that leave rows as they are\n", *found, ""]) if found else ""


def command(name: str, scale: str, rows: pd.DataFrame) -> str:
    """The command that gives these rows, and what of its sweep is missing or beside it."""
    needed = "".join(f" {argument}" for argument in getattr(engine.module(name), "needed_arguments", ()))
    line = f"`python -m benchmarks {name} scale={scale}{needed}`"
    try:
        planned = engine.plan(name, scale)
    except KeyError:
        return f"{line} has no such scale any more"
    texts = [
        {str(key): "" if pd.isna(value) else cell(value) for key, value in row.items()}
        for row in rows.to_dict("records")
    ]
    missing, outside = compared(texts, planned)
    notes = [f"{len(missing)} of its {len(planned)} settings have no row yet"] if missing else []
    notes += [f"{len(outside)} rows above are of other settings"] if outside else []
    return line + (f" ({'; '.join(notes)})" if notes else "")


def line(name: str, scale: str, frame: pd.DataFrame) -> str:
    """The lines under a section: stale rows first, then rows, machine, versions, commits and commands."""

    def known(column: str) -> str:
        values = frame[column].dropna().unique() if column in frame else []
        return ", ".join(cell(value) for value in values)

    frame = frame if "question" in frame else frame.assign(question=name)
    sources = [(str(source), rows.dropna(axis=1, how="all")) for source, rows in frame.groupby("question")]
    warnings = [text for source, rows in sources if (text := stale(source, rows))]
    counts = " and ".join(f"{len(rows)} rows of {source}" for source, rows in sources)
    hours = frame.drop_duplicates(["question", "date", "seconds"]).seconds.sum() / 3600
    dirty = int((frame.dirty.astype(str) == "True").sum())
    about = [f"{counts}, {hours:.2f} hours of runs on {known('device')}"]
    about += [f"{known('cores')} cores"] if known("cores") else []
    versions = [
        f"{package} {known(package)}"
        for package in ("torch", "lightly", "stable-pretraining")
        if known(package)
    ]
    about += [f"data {known('data_sha256')}"] if known("data_sha256") else []
    about += [f"{dirty} rows from a changed tree"] if dirty else []
    commands = "; ".join(command(source, scale, rows) for source, rows in sources)
    text = f"*{', '.join(about)}; {', '.join(versions)}; commit {known('commit')}. {commands}*"
    return "\n\n".join([*warnings, text]) + "\n"

"""`python -m sigreg.conformance module:Name ...`: prints a table for each copy, exits 1 on a fault."""

from __future__ import annotations

import argparse
import ast
import json
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import sigreg
from sigreg.conformance import FAULT, Row, check, golden, ranks
from sigreg.conformance.report import markdown, text


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 without a fault, 1 with one, 2 for a copy that could not be called."""
    parser = argparse.ArgumentParser(prog="python -m sigreg.conformance", description=__doc__)
    parser.add_argument(
        "copies",
        nargs="*",
        metavar="module:Name",
        help='a class or a function, with settings where it needs some: "module:Name(num_slices=256)"',
    )
    parser.add_argument("--one-process", action="store_true", help="leave out the check on two ranks")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--golden", action="store_true", help="print the golden values and stop")
    options = parser.parse_args(arguments)
    if options.golden:
        print(golden.dumps(golden.computed()))
        return 0
    if not options.copies:
        parser.error("name at least one copy, as module:ClassOrFunction")
    sys.path.insert(0, "")  # as python -m would find it
    reports: dict[str, list[Row]] = {}
    not_called = False
    for copy, (name, settings) in [(copy, parsed(copy)) for copy in options.copies]:
        heading = f"{copy}, {versions(name)}"
        print(f"\n{heading}")
        rows = reports[heading] = []
        try:
            for row in check(name, settings, run=None if options.one_process else ranks.spawned):
                rows.append(row)
                print(text(row), flush=True)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            print(f"  {type(error).__name__}: {error}", file=sys.stderr)
            not_called = True
    if options.markdown:
        options.markdown.write_text(markdown(reports))
    if options.json:
        found = {name: [asdict(row) for row in rows] for name, rows in reports.items()}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 2 if not_called else int(any(row.verdict == FAULT for rows in reports.values() for row in rows))


def parsed(copy: str) -> tuple[str, dict[str, Any]]:
    """`module:Name(key=value)` as the name and its settings, which must be literals."""
    name, bracket, arguments = copy.partition("(")
    try:
        call = ast.parse(f"f({arguments}" if bracket else "f()", mode="eval").body
        if isinstance(call, ast.Call) and not call.args:
            return name, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        pass
    print(f"{copy!r} is not module:Name or module:Name(key=literal, ...)", file=sys.stderr)
    raise SystemExit(2)


def versions(name: str) -> str:
    """The version of the package that a copy comes from, and torch's."""
    package = name.partition(":")[0].partition(".")[0]
    try:
        number = f"{package} {version(package.replace('_', '-'))}"
    except PackageNotFoundError:
        ours = package in ("sigreg", "sigreg_adapters")
        number = f"sigreg {sigreg.__version__}" if ours else f"{package} without a version"
    return f"{number}, torch {torch.__version__.partition('+')[0]}"


if __name__ == "__main__":
    sys.exit(main())

"""Docstrings of this library, which are plain text with Markdown's code spans, as reStructuredText.

Sphinx reads docstrings as reStructuredText, where `|x|` is a substitution, `x_` a reference and an indented
formula a quotation.  This translates them before napoleon reads their sections: code spans become literals,
indented blocks literal blocks, Markdown tables list tables, and everything else is escaped.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"^\s*(Args|Attributes|Returns|:returns|Raises|Example|Shapes):\s*$")


def translated(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText, its sections left to napoleon."""
    out: list[str] = []
    for block in _blocks(lines):
        first = block[0].strip()
        if first.startswith(">>>"):
            out += block
        elif first.startswith("|"):
            out += _table(block)
        elif _is_indented(block, out):
            previous = next(line for line in reversed(out) if line.strip())
            out += [" " * _indent(previous) + "::", "", *block]
        else:
            if any(line.strip() == "Shapes:" for line in out[-2:]):
                block = _items(block)
            out += _escaped("\n".join(block)).split("\n")
        out.append("")
    return out


def _items(block: list[str]) -> list[str]:
    """Lines whose continuations are indented, as a list."""
    base = _indent(block[0])
    if all(_indent(line) == base for line in block):
        return block
    return [" " * base + ("- " if _indent(line) == base else "  ") + line.strip() for line in block]


def _blocks(lines: list[str]) -> list[list[str]]:
    """The parts between empty lines; a section's header is a part of its own."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if not line.strip() or SECTION.match(line):
            blocks.append([])
        if line.strip():
            blocks[-1].append(line)
        if SECTION.match(line):
            blocks.append([])
    return [block for block in blocks if block]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_indented(block: list[str], out: list[str]) -> bool:
    """Deeper than the line before it, which is neither a header nor a literal block that goes on."""
    previous = [line for line in out if line.strip()]
    if not previous or SECTION.match(previous[-1]):
        return False
    if "::" in (line.strip() for line in previous[-12:]) and _indent(block[0]) == _indent(previous[-1]) > 0:
        return False  # the literal block goes on
    return _indent(block[0]) > _indent(previous[-1])


def _escaped(text: str) -> str:
    """Text with its code spans as literals and what reStructuredText would read as markup escaped."""
    parts = re.split(r"`+([^`]+)`+", text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([\\*|])", r"\\\1", parts[i])
        parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", parts[i])
    for i in range(1, len(parts), 2):
        parts[i] = f"``{parts[i]}``"
        if parts[i + 1][:1].isalnum():
            parts[i] += "\\ "
    return "".join(parts).replace("Returns:", ":returns:")


def _table(block: list[str]) -> list[str]:
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block]
    rows = [row for row in rows if not set("".join(row)) <= set("-: ")]
    out = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        out += [f"   {'* -' if i == 0 else '  -'} {_escaped(cell)}" for i, cell in enumerate(row)]
    return out


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """autodoc's hook before napoleon's; it changes `lines` in place."""
    lines[:] = translated(lines)
    if what == "attribute":
        _of_attributes[name] = list(lines)


def restore(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """The hook after napoleon's, which takes what an attribute's sentence has before a colon for a type."""
    if name in _of_attributes:
        lines[:] = _of_attributes.pop(name)


_of_attributes: dict[str, list[str]] = {}


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=400)  # napoleon's is 500
    app.connect("autodoc-process-docstring", restore, priority=600)
    return {"parallel_read_safe": True}

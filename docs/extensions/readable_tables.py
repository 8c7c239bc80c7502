"""Where lines may break: cells marked by the length of their text, and whole numbers.  See static/tables.css.

A browser fits a table to a narrow screen by breaking every cell, down to "100" above "%", before it lets the
table scroll.  Here short cells stay on one line and long ones keep a width at which sentences can be read.
It also breaks 1e-6 after the minus sign, in any text.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

SHORT, LONG = 18, 45  # characters
NUMBER = re.compile(r"(\d+(?:\.\d+)?e-\d+)")


def mark(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Gives the cells and numbers of a page their classes."""
    for cell in doctree.findall(nodes.entry):
        length = len(cell.astext())
        if length <= SHORT:
            cell["classes"].append("short-cell")
        elif length >= LONG:
            cell["classes"].append("long-cell")
    for paragraph in doctree.findall(nodes.paragraph):
        for text in [child for child in paragraph.children if isinstance(child, nodes.Text)]:
            parts = NUMBER.split(text)
            if len(parts) > 1:  # numbers are the odd ones
                paragraph.replace(text, [_part(part, number=i % 2 == 1) for i, part in enumerate(parts)])


def _part(text: str, *, number: bool) -> nodes.Node:
    return nodes.inline(text, text, classes=["number"]) if number else nodes.Text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", mark)
    return {"parallel_read_safe": True}

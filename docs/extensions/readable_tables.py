"""Table cells marked by the length of their text, for static/tables.css.

A browser fits a table to a narrow screen by breaking every cell, down to "100" above "%", before it lets the
table scroll.  Here short cells stay on one line and long ones keep a width at which sentences can be read.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx

SHORT, LONG = 14, 45  # characters


def mark(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Gives the cells of a page their classes."""
    for cell in doctree.findall(nodes.entry):
        length = len(cell.astext())
        if length <= SHORT:
            cell["classes"].append("short-cell")
        elif length >= LONG:
            cell["classes"].append("long-cell")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", mark)
    return {"parallel_read_safe": True}

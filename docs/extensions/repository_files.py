"""Markdown files of the repository as pages, and links between them that work on both sides.

A page whose first line is `<!-- the text of ../../FILE.md -->` shows that file.  In every page, relative
links and pictures are those of the file in the repository: a link to a file that is a page leads to it, a
link to any other file (code, a folder) becomes its name, because the site does not hold it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

STUB = re.compile(r"<!-- the text of (\S+) -->")
UNBROKEN = re.compile(r"\d ± \d|\(n = \d+\)|\[[+-]?[\d.]+, [+-]?[\d.]+\]")  # in narrow table cells
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def pages(docs: Path) -> dict[Path, Path]:
    """The page of each Markdown file: its own, or the one that shows it."""
    found = {}
    for page in docs.rglob("*.md"):
        text = STUB.match(page.read_text(encoding="utf-8"))
        found[page.resolve()] = page.resolve()
        if text:
            found[(page.parent / text[1]).resolve()] = page.resolve()
    return found


def rewritten(text: str, source: Path, page: Path, known: dict[Path, Path]) -> str:
    """The text of the file `source` with the links that it needs as `page`."""

    def link(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        file = (source.parent / path).resolve()
        if not file.exists():
            raise FileNotFoundError(f"{source} links to {target}, which does not exist")
        if not picture and file not in known:
            return label
        there = os.path.relpath(known.get(file, file), page.parent)
        return f"{picture}[{label}]({there}{hash_}{anchor})"

    return LINK.sub(link, text)


def read(app: Sphinx, docname: str, content: list[str]) -> None:
    """Sphinx's hook for the text of a page."""
    page = Path(app.env.doc2path(docname)).resolve()
    if page.suffix != ".md":
        return
    source, text = page, content[0]
    if stub := STUB.match(text):
        source = (page.parent / stub[1]).resolve()
        app.env.note_dependency(str(source), docname=docname)
        text = source.read_text(encoding="utf-8")
    text = rewritten(text, source, page, pages(Path(app.srcdir)))
    content[0] = UNBROKEN.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", read)
    return {"parallel_read_safe": True}

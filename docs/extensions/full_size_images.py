"""Every picture is a link to its file, so that a reader with a small screen can enlarge it.

Sphinx does this itself for pictures whose size a page sets, and Markdown sets none.
"""

from __future__ import annotations

import posixpath

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri


def link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Wraps the pictures of a page that are not links already."""
    if app.builder.format != "html":
        return
    folder = relative_uri(app.builder.get_target_uri(docname), app.builder.imagedir)
    for image in list(doctree.findall(nodes.image)):
        known = app.env.images.get(image["uri"])
        if known is None or isinstance(image.parent, nodes.reference):
            continue
        reference = nodes.reference("", "", internal=True, refuri=posixpath.join(folder, known[1]))
        image.replace_self(reference)
        reference.append(image)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True}

"""Names in code are links, and each public one of ours is on an API page."""

import importlib
import pkgutil

from docutils import nodes
from other_projects import page_of
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

import skrepr

logger = logging.getLogger(__name__)

# Where code is no link: in headings, and where it is part of a link already.
UNLINKED = (nodes.title, nodes.reference, addnodes.pending_xref)


def public_names():
    """List what users may import, as pairs of a public module and a name in it."""
    modules = [skrepr]
    for info in pkgutil.walk_packages(skrepr.__path__, "skrepr."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            modules.append(importlib.import_module(info.name))
    return [
        (module.__name__, name)
        for module in modules
        for name in module.__all__
        if not name.startswith("_")
    ]


class LinkCode(SphinxPostTransform):
    """Make links of the names that stand in the text as code.

    A name of ours is full (`skrepr.metrics.alignment`), begins with a class (`NTXent`,
    `OutlierDetector.predict`) or, in a docstring, belongs to the same class or module
    (`fit`). One of another project is full (`torch.Generator`).
    """

    default_priority = 5  # before references are resolved

    def run(self, **kwargs):
        """Replace the nodes."""
        classes = {n: f"{module}.{n}" for module, n in public_names() if n[0].isupper()}
        for literal in list(self.document.findall(nodes.literal)):
            if any(isinstance(node, UNLINKED) for node in ancestors(literal)):
                continue
            text = literal.astext().removesuffix("()")
            link = self.link_to_ours(literal, self.readings(literal, text, classes))
            if link is None and "." in text and (page := page_of(text)):
                link = nodes.reference("", "", literal.deepcopy(), refuri=page)
            if link is not None:
                literal.replace_self(link)

    def readings(self, literal, text, classes):
        """List the full names of ours that a piece of code may stand for."""
        names = [text] if text.startswith("skrepr.") else []
        described = set()
        for node in ancestors(literal):
            if isinstance(node, addnodes.desc) and node["domain"] == "py":
                module, fullname = node[0]["module"], node[0]["fullname"]
                described.add(f"{module}.{fullname}")
                owner = node[0]["class"] or fullname
                names += [f"{module}.{owner}.{text}", f"{module}.{text}"]
        owner, dot, method = text.partition(".")
        if owner in classes:
            names.append(classes[owner] + dot + method)
        return [name for name in names if name not in described]

    def link_to_ours(self, literal, names):
        """Make a reference to the first of the names that there is, or None."""
        objects = self.env.domains.python_domain.objects
        for name in names:
            if name in objects:
                return make_refnode(
                    self.app.builder,
                    self.env.docname,
                    objects[name].docname,
                    objects[name].node_id,
                    literal.deepcopy(),
                    name,
                )
        return None


def ancestors(node):
    """Go from a node up to the document."""
    while node.parent is not None:
        node = node.parent
        yield node


def check_complete(app, env):
    """Warn of public names without a place on an API page."""
    objects = env.domains.python_domain.objects
    for module, name in public_names():
        if f"{module}.{name}" not in objects:
            logger.warning("%s.%s is missing from the pages in docs/api", module, name)


def setup(app):
    """Connect the events."""
    app.add_post_transform(LinkCode)
    app.connect("env-check-consistency", check_complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

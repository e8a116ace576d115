"""Names of skrepr: in code they are links, and each has a place on an API page."""

import importlib
import pkgutil

from docutils import nodes
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
        for name in getattr(module, "__all__", names_defined_in(module))
        if not name.startswith("_")
    ]


def names_defined_in(module):
    """List the names of the classes and functions that a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    ]


class LinkCode(SphinxPostTransform):
    """Make links of the names of ours that stand in the text as code.

    Such a name is full (`skrepr.metrics.alignment`), begins with a class (`NTXent`,
    `OutlierDetector.predict`) or, in a docstring, belongs to the same class or module
    (`fit`).
    """

    default_priority = 5  # before references are resolved

    def run(self, **kwargs):
        """Replace the nodes."""
        objects = self.env.domains.python_domain.objects
        classes = {n: f"{module}.{n}" for module, n in public_names() if n[0].isupper()}
        for literal in list(self.document.findall(nodes.literal)):
            if any(isinstance(node, UNLINKED) for node in ancestors(literal)):
                continue
            for name in self.readings(literal, classes):
                if name in objects:
                    literal.replace_self(self.link(literal, name, objects[name]))
                    break

    def readings(self, literal, classes):
        """List the full names that a piece of code may stand for."""
        text = literal.astext().removesuffix("()")
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

    def link(self, literal, name, entry):
        """Make a reference around a piece of code."""
        return make_refnode(
            self.app.builder,
            self.env.docname,
            entry.docname,
            entry.node_id,
            literal.deepcopy(),
            name,
        )


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

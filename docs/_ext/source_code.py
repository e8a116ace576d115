"""Links from the API to the lines of the source that define it.

Unlike sphinx.ext.viewcode it finds what a public module hands on from a private file,
and the methods that a class inherits.
"""

import inspect
import pkgutil
import sys

from docutils import nodes
from sphinx import addnodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms.post_transforms import SphinxPostTransform

FOLDER = "_modules"


def modules():
    """Give the modules of skrepr that have been imported, by name."""
    names = sorted(name for name in sys.modules if name.split(".")[0] == "skrepr")
    return {name: sys.modules[name] for name in names}


def find_definition(module, name):
    """Find the module and the line where something is defined, or None."""
    try:
        found = pkgutil.resolve_name(f"{module}:{name}")
    except AttributeError:
        return None  # set in __init__
    if inspect.isclass(found):
        # Its __module__ is the public one.
        for file_name, file in modules().items():
            if getattr(file, name, None) is found:
                tags = ModuleAnalyzer.for_module(file_name).find_tags()
                if name in tags:
                    return file_name, tags[name][1]
        return None
    code = getattr(inspect.unwrap(getattr(found, "fget", found)), "__code__", None)
    for file_name, file in modules().items():
        if code is not None and code.co_filename == file.__file__:
            return file_name, code.co_firstlineno
    return None


class LinkSource(SphinxPostTransform):
    """Put a link at the end of every signature."""

    default_priority = 100
    formats = ("html",)

    def run(self, **kwargs):
        """Append the nodes."""
        for signature in self.document.findall(addnodes.desc_signature):
            if not signature.get("module"):
                continue
            found = find_definition(signature["module"], signature["fullname"])
            if found is not None:
                page = f"{FOLDER}/{found[0].replace('.', '/')}"
                uri = self.app.builder.get_relative_uri(self.env.docname, page)
                text = nodes.inline("", "[source]", classes=["viewcode-link"])
                signature += nodes.reference(
                    "", "", text, internal=True, refuri=f"{uri}#L-{found[1]}"
                )


def source_pages(app):
    """Make a page of each module."""
    for name in modules():
        code = ModuleAnalyzer.for_module(name).code
        block = app.builder.highlighter.highlight_block(
            code, "python", linenos="inline", lineanchors="L"
        )
        context = {"title": name, "body": f"<h1>{name}</h1>\n{block}", "parents": []}
        yield f"{FOLDER}/{name.replace('.', '/')}", context, "page.html"


def setup(app):
    """Connect the events."""
    app.add_post_transform(LinkSource)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

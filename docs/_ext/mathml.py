"""Formulas as MathML, made at build: no browser needs a script or a font for it."""

import html
import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)


def to_mathml(node, display):
    """Convert the LaTeX of a node, and warn of commands that the converter ignores."""
    latex = node.astext()
    # Of several lines in one formula, Sphinx's own renderer makes an aligned block.
    if display == "block" and r"\\" in latex and r"\begin" not in latex:
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    mathml = convert(latex, display=display)
    # The space after the name of a function, which LaTeX has: log p, not logp.
    mathml = re.sub(
        r"<mi>[a-z]{2,}</mi>(?=<mi|<ms)", r'\g<0><mspace width="0.17em"/>', mathml
    )
    if "\\" in html.unescape(mathml):
        logger.warning("a command in %r has no MathML", latex, location=node)
    return mathml


def visit_math(translator, node):
    """Write a formula within a line."""
    translator.body.append(to_mathml(node, "inline"))
    raise nodes.SkipNode


def visit_math_block(translator, node):
    """Write a formula of its own, in a box that scrolls where it is too wide."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(to_mathml(node, "block"))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app):
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Configuration of Sphinx."""

import skrepr

project = "skrepr"
author = "The skrepr developers"
copyright = f"2026, {author}"
version = release = skrepr.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
    "numpydoc",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "examples"]
default_role = "literal"

autosummary_generate = True
autodoc_typehints = "none"
# The class template lists the methods; numpydoc would add scikit-learn's as well.
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "image_scrapers": ("matplotlib",),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = f"skrepr {release}"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}
html_sidebars = {"index": [], "guide/index": []}


def skip_foreign_members(app, what, name, obj, skip, options):
    """Leave out what a class has from scikit-learn: it is documented there."""
    module = getattr(getattr(obj, "fget", obj), "__module__", None)
    if isinstance(module, str) and module.split(".")[0] != "skrepr":
        return True
    return None


def setup(app):
    """Connect the events."""
    app.connect("autodoc-skip-member", skip_foreign_members)

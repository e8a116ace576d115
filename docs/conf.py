"""Configuration of Sphinx."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import torch
from other_projects import TYPE_LINKS
from our_names import public_names

import skrepr

project = "skrepr"
author = "The skrepr developers"
copyright = f"2026, {author}"
version = release = skrepr.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
    "numpydoc",
    "myst_parser",
    # in _ext
    "mathml",
    "other_projects",
    "our_names",
    "source_code",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "examples"]
default_role = "literal"
nitpicky = True

autodoc_typehints = "none"
autosummary_generate = True
# Pages of our torch modules leave out what every torch module has.
autosummary_context = {"torch_module_names": set(dir(torch.nn.Module))}
# Where files do not heed case, a function's page needs another name than its class's.
autosummary_filename_map = {
    f"skrepr.objectives.{name}": f"skrepr.objectives.{name}-function"
    for name in ("contrastive", "moco", "triplet", "vicreg")
}
toc_object_entries_show_parents = "hide"

# The class template lists the methods.
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = TYPE_LINKS | {
    name: f":obj:`{name} <{module}.{name}>`" for module, name in public_names()
}

# What a reader copies are the commands, without prompts and output.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    # The demo fits some forty models; the other examples show its parts.
    "ignore_pattern": r"__init__\.py|plot_quickstart\.py",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("matplotlib",),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    # Code of the examples links to the API, whose pages show the examples that use it.
    "doc_module": ("skrepr",),
    "reference_url": {"skrepr": None},
    "backreferences_dir": "api/generated",
}

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = f"skrepr {release}"
html_static_path = ["_static"]
html_css_files = ["skrepr.css"]
html_favicon = "_static/logo.svg"
html_show_sourcelink = False
html_context = {"default_mode": "auto"}  # light or dark, as the system has it
html_theme_options = {
    "logo": {"text": "skrepr", "image_light": "logo.svg", "image_dark": "logo.svg"},
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "footer_start": ["copyright"],
    "footer_end": [],
    "navigation_depth": 3,
    "show_toc_level": 2,
}
# Pages without others beside them need no section navigation.
html_sidebars = {
    "index": [],
    "changelog": [],
    "contributing": [],
    "search": [],
    "genindex": [],
    "_modules/**": [],
}

"""References to the pages of other projects, found by patterns and without a network.

A name is first looked up in the installed package: what does not exist stays
unresolved, and Sphinx warns of it.
"""

import inspect
import pkgutil

from docutils import nodes
from numpydoc.xref import DEFAULT_LINKS

SKLEARN = "https://scikit-learn.org/stable"
NUMPY = "https://numpy.org/doc/stable/reference"
SCIPY = "https://docs.scipy.org/doc/scipy/reference"
PANDAS = "https://pandas.pydata.org/docs/reference"
POLARS = "https://docs.pola.rs/api/python/stable/reference"
TORCH = "https://docs.pytorch.org/docs/stable"
MATPLOTLIB = "https://matplotlib.org/stable/api"
JOBLIB = "https://joblib.readthedocs.io/en/stable"
PYTHON = "https://docs.python.org/3/library"

# Pages of classes, functions and methods. `name` is the full name, `owner` the same
# without the method, `rest` the name without the package.
OBJECT_PAGES = {
    "sklearn": SKLEARN + "/modules/generated/{owner}.html#{name}",
    "numpy": NUMPY + "/generated/{name}.html",
    "scipy": SCIPY + "/generated/{name}.html",
    "pandas": PANDAS + "/api/{name}.html",
    "torch": TORCH + "/generated/{owner}.html#{name}",
    "matplotlib": MATPLOTLIB + "/_as_gen/{name}.html",
    "joblib": JOBLIB + "/generated/{owner}.html#{name}",
    "builtins": PYTHON + "/functions.html#{rest}",
}
MODULE_PAGES = {
    "sklearn": SKLEARN + "/api/{name}.html",
    "numpy": NUMPY + "/index.html",
    "scipy": SCIPY + "/{rest}.html",
    "pandas": PANDAS + "/index.html",
    "torch": TORCH + "/{rest}.html",
    "matplotlib": MATPLOTLIB + "/{rest}_api.html",
    "joblib": JOBLIB + "/index.html",
}
OTHER_PAGES = {
    "numpy.random.Generator": NUMPY + "/random/generator.html#{name}",
    "numpy.random.default_rng": NUMPY + "/random/generator.html#{name}",
    "numpy.random.RandomState": NUMPY + "/random/legacy.html#{name}",
    "torch.Tensor": TORCH + "/tensors.html#{name}",
    "torch.device": TORCH + "/tensor_attributes.html#{name}",
    "torch.dtype": TORCH + "/tensor_attributes.html#{name}",
    "polars.DataFrame": POLARS + "/dataframe/index.html",
    "polars.Series": POLARS + "/series/index.html",
    "pickle": PYTHON + "/pickle.html",
}
TERM_PAGE = SKLEARN + "/glossary.html#term-{term}"
# What docstrings inherited from scikit-learn refer to.
SECTION_PAGES = {
    "metadata_routing": SKLEARN + "/metadata_routing.html",
    "df_output_transform": SKLEARN + "/modules/df_output_transform.html",
    "accuracy_score": SKLEARN + "/modules/model_evaluation.html#accuracy-score",
    "r2_score": SKLEARN + "/modules/model_evaluation.html#r2-score",
    "sphx_glr_auto_examples_miscellaneous_plot_set_output.py": (
        SKLEARN + "/auto_examples/miscellaneous/plot_set_output.html"
    ),
}

# Words in the types of parameters and results. All others that are not names of ours
# are text, also those of Python that numpydoc knows.
TYPE_LINKS = {word: word for word in DEFAULT_LINKS} | {
    "array-like": ":term:`array-like`",
    "estimator": ":term:`estimator`",
    "transformer": ":term:`transformer`",
    "ndarray": ":obj:`ndarray <numpy.ndarray>`",
    "RandomState": ":obj:`RandomState <numpy.random.RandomState>`",
    "DataFrame": ":obj:`DataFrame <pandas.DataFrame>`",
    "torch.Tensor": ":obj:`torch.Tensor`",
    "torch.Generator": ":obj:`torch.Generator`",
    "torch.nn.Module": ":obj:`torch.nn.Module`",
    "torch.nn.Sequential": ":obj:`torch.nn.Sequential`",
    "Axes": ":obj:`Axes <matplotlib.axes.Axes>`",
    "Figure": ":obj:`Figure <matplotlib.figure.Figure>`",
    "Line2D": ":obj:`Line2D <matplotlib.lines.Line2D>`",
}


def page_of(name):
    """Give the address of the page about a Python object or module, or None."""
    if name in OTHER_PAGES:
        return OTHER_PAGES[name].format(name=name)
    package, _, rest = name.partition(".")
    if package not in OBJECT_PAGES:
        return None
    try:
        found = pkgutil.resolve_name(name)
        parent = name.rpartition(".")[0] or name
        owner = parent if inspect.isclass(pkgutil.resolve_name(parent)) else name
    except (ImportError, AttributeError, ValueError):  # the last: not a name
        return None
    pages = MODULE_PAGES if inspect.ismodule(found) else OBJECT_PAGES
    return pages[package].format(name=name, owner=owner, rest=rest)


def link(app, env, node, content):
    """Resolve a reference that leads to another project."""
    target = node["reftarget"]
    if node["refdomain"] == "py":
        page = page_of(target)
    elif node["reftype"] == "term":
        page = TERM_PAGE.format(term=target.replace(" ", "-"))
    else:
        page = SECTION_PAGES.get(target)
    return page and nodes.reference("", "", content, internal=False, refuri=page)


def setup(app):
    """Connect the event."""
    app.connect("missing-reference", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The layering of the package: imports go down only."""

import ast
import importlib
import pickle
from pathlib import Path

import pytest

import skrepr

ROOT = Path(skrepr.__file__).parent
PARTS = [  # a kind a layer: a layer may use those above it in this list
    "backbones",
    "penalties",
    "likelihoods",
    "latent_densities",
    "error_models",
    "augmentations",
    "objectives",
    "auxiliaries",
]
LAYERS = [  # from the ground up: a file imports its own folder and what lies below
    {"_blocks", "_public", "_sklearn", "_warnings", "exceptions"},
    {"_training"},
    {"_columns"},
    {"parts"},
    *({part} for part in PARTS),
    {"metrics"},
    {"_estimators"},
    {"inspection"},
    {"__init__"},
]
LEVEL = {room: level for level, layer in enumerate(LAYERS) for room in layer}
FILES = {path.relative_to(ROOT).as_posix(): path for path in ROOT.rglob("*.py")}
PUBLIC = [
    "skrepr",
    "skrepr.exceptions",
    "skrepr.parts",
    "skrepr.inspection",
    "skrepr.metrics",
    *(f"skrepr.{part}" for part in PARTS),
]


def room(file):
    """Name what a file belongs to: its folder, or itself at the top level."""
    return file.partition("/")[0].removesuffix(".py")


def imports(file, in_functions=True):
    """List the dotted names a file imports, those inside functions included or not."""
    names = []
    tree = ast.parse(FILES[file].read_text("utf-8"))
    for node in ast.walk(tree) if in_functions else tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def own_imports(file):
    """List the rooms of the package that a file imports."""
    dotted = [name.split(".") for name in imports(file)]
    return {name[1] for name in dotted if name[0] == "skrepr"}


def files_imported(file):
    """List the files of the package that a file imports."""
    found = set()
    for name in imports(file):
        path = name.removeprefix("skrepr.").replace(".", "/")
        for candidate in (path, path.rpartition("/")[0]):
            found |= {f"{candidate}.py", f"{candidate}/__init__.py"} & set(FILES)
    return found


def test_every_file_has_a_layer():
    assert {room(file) for file in FILES} == set(LEVEL)


@pytest.mark.parametrize("file", sorted(FILES))
def test_imports_go_down_only(file):
    own = room(file)
    upward = [name for name in own_imports(file) if LEVEL[name] > LEVEL[own]]
    assert upward == []


def test_no_two_files_import_each_other():
    finished, path = set(), []

    def visit(file):
        assert file not in path, " -> ".join([*path, file])
        if file not in finished:
            path.append(file)
            for imported in sorted(files_imported(file)):
                visit(imported)
            finished.add(path.pop())

    for file in sorted(FILES):
        visit(file)
    assert finished == set(FILES)


@pytest.mark.parametrize(
    "file", [file for file in sorted(FILES) if file.endswith("/__init__.py")]
)
def test_a_folder_hands_names_on_and_defines_nothing(file):
    tree = ast.parse(FILES[file].read_text("utf-8"))
    defined = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)
    ]
    assert defined == []


def test_training_never_imports_scikit_learn():
    reached = set()
    todo = {file for file in FILES if room(file) == "_training"}
    while todo:
        file = todo.pop()
        reached.add(file)
        todo |= files_imported(file) - reached
    roots = {name.partition(".")[0] for file in reached for name in imports(file)}
    assert "sklearn" not in roots


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_library_of_tables_is_imported_in_one_file_and_that_when_needed(library):
    adapter = f"skrepr._columns._{library}"
    for file in FILES:
        names = imports(file, in_functions=False)
        assert not any(name.startswith(adapter) for name in names)
        roots = {name.partition(".")[0] for name in imports(file)}
        assert (library in roots) == (file == f"_columns/_{library}.py")


@pytest.mark.parametrize("file", sorted(set(FILES) - {"_sklearn.py"}))
def test_private_names_of_scikit_learn_are_imported_in_one_file(file):
    from_sklearn = [name for name in imports(file) if name.startswith("sklearn")]
    private = [n for n in from_sklearn if any(p[0] == "_" for p in n.split("."))]
    assert private == []


def test_the_top_level_holds_the_estimators_and_the_version():
    assert set(skrepr.__all__) == {
        "AutoencoderTransformer",
        "ContrastiveTransformer",
        "FineTunedClassifier",
        "FineTunedRegressor",
        "OutlierDetector",
        "VAETransformer",
        "__version__",
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_print_and_pickle_under_their_public_module(name):
    module = importlib.import_module(name)
    assert module.__all__
    for key in module.__all__:
        value = getattr(module, key)
        if hasattr(value, "__qualname__"):
            assert value.__module__ == name
            assert pickle.loads(pickle.dumps(value)) is value

"""The layering of the package: imports go down only."""

import ast
from pathlib import Path

import pytest

import skrepr

ROOT = Path(skrepr.__file__).parent
ESTIMATORS = {"_autoencoder", "_vae", "_contrastive", "_fine_tuned", "_outlier"}
PARTS = {
    "backbones",
    "likelihoods",
    "latent_densities",
    "objectives",
    "augmentations",
    "penalties",
    "error_models",
    "auxiliaries",
}
LAYERS = [  # from the ground up; files of one layer do not import each other
    {"_engine", "_sklearn"},
    {"_torch"},
    {"parts"},
    {"_frame", "_quantiles"},
    {"_table", "_labels"},
    {"_inputs", "_sampling"},
    PARTS | {"metrics"},
    {"_training"},
    {"_base"},
    ESTIMATORS,
    {"inspection"},
    {"__init__"},
]
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}
FILES = {path.relative_to(ROOT).as_posix(): path for path in ROOT.rglob("*.py")}


def imports(file):
    """List the dotted names a file imports, those inside functions included."""
    names = []
    for node in ast.walk(ast.parse(FILES[file].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def own_imports(file):
    """List the modules of the package that a file imports."""
    dotted = [name.split(".") for name in imports(file)]
    return {name[1] for name in dotted if name[0] == "skrepr"}


def test_every_file_has_a_layer():
    assert {file.removesuffix(".py") for file in FILES} == set(LEVEL)


@pytest.mark.parametrize("file", sorted(FILES))
def test_imports_go_down_only(file):
    module = file.removesuffix(".py")
    upward = [name for name in own_imports(file) if LEVEL[name] >= LEVEL[module]]
    assert upward == []


@pytest.mark.parametrize("module", sorted(PARTS | {"parts", "_training"}))
def test_parts_and_training_know_no_estimator(module):
    assert own_imports(f"{module}.py").isdisjoint(ESTIMATORS | {"_base"})


def test_training_never_imports_scikit_learn():
    reached, todo = set(), {"_training"}
    while todo:
        module = todo.pop()
        reached.add(module)
        todo |= own_imports(f"{module}.py") - reached
    roots = {
        name.partition(".")[0] for module in reached for name in imports(f"{module}.py")
    }
    assert "sklearn" not in roots


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

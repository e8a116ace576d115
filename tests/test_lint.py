"""`make lint` reads every module of the package, whatever folder it is in."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("skrepr/**/*.py")}
OFFENCE = '''
def offence():
    """lower case."""
    return 1 + "1"
'''
FOUND_BY = {
    "ruff": r"^(\S+?):\d+:\d+: D403 ",
    "mypy": r"^(\S+?):\d+: error: Unsupported operand types",
    "numpydoc": r"^(\S+?):\d+: SS02 ",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Lint a copy of the package whose every module offends; return the output.

    Of a module's own text the copy keeps comments only: one may switch a linter off.
    """
    copy = tmp_path_factory.mktemp("lint")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    for module in MODULES:
        lines = (ROOT / module).read_text("utf-8").splitlines(keepends=True)
        (copy / module).parent.mkdir(parents=True, exist_ok=True)
        comments = [line for line in lines if line.startswith("#")]
        (copy / module).write_text("".join(comments) + OFFENCE, "utf-8")
    environment = os.environ | {"RUFF_OUTPUT_FORMAT": "concise"}
    environment.pop("MAKEFLAGS", None)  # of the `make` that runs the tests
    installed = f"BIN={Path(sys.executable).parent}"
    lint = ["make", "--ignore-errors", "-o", ".venv/.stamp-lint", "lint", installed]
    done = subprocess.run(lint, cwd=copy, env=environment, capture_output=True)
    return (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("linter", FOUND_BY)
def test_lint_finds_the_offence_in_every_module(linter, found):
    assert set(re.findall(FOUND_BY[linter], found, re.MULTILINE)) == MODULES

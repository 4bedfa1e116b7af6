"""Rules for every file of the package, and the number of entries per folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import PACKAGE

FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES} - {PACKAGE})
LARGE = {"methods", "models", "cli"}  # one file per paper, model family or command
each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


def test_the_package_has_at_most_14_entries():
    assert len(entries(PACKAGE)) <= 14, entries(PACKAGE)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_folder_has_at_most_14_entries(folder):
    if folder.relative_to(PACKAGE).as_posix() not in LARGE:
        assert len(entries(folder)) <= 14, entries(folder)


@each_file
def test_every_file_begins_with_a_docstring(path):
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@each_file
def test_nothing_is_unpickled_from_a_checkpoint(path):
    for name, call in calls(path):
        if name == "torch.load" or name.endswith(".torch.load"):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("weights_only") == "True", f"line {call.lineno}"
        assert not name.startswith(("pickle.load", "pickle.Unpickler")), f"line {call.lineno}"


@each_file
def test_functions_that_load_pickles_are_not_imported_by_their_bare_names(path):
    # `from torch import load` would slip past the test above.
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in {"torch", "pickle"}:
            assert not {alias.name for alias in node.names} & {"load", "loads", "Unpickler"}

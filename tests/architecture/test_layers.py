"""The import contracts of pyproject.toml, and import rules that contracts cannot express."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import PACKAGE, ROOT
from importlinter.cli import lint_imports

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # import-linter's own, there

CONFIG = ROOT / "pyproject.toml"
SETTINGS = tomllib.loads(CONFIG.read_text())["tool"]["importlinter"]
CONTRACTS = {contract["type"]: contract for contract in SETTINGS["contracts"]}
FLOORS = [
    {room.strip() for room in floor.split("|")} for floor in CONTRACTS["layers"]["layers"]
]  # top to bottom


def test_every_contract_holds(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code = lint_imports(config_filename=str(CONFIG), no_cache=True)
    assert code == 0, capsys.readouterr().out


def test_hidden_imports_count_too():
    # Imports in function bodies always count; those under TYPE_CHECKING unless excluded.
    assert SETTINGS["exclude_type_checking_imports"] is False
    assert CONTRACTS["layers"]["exhaustive"] is True
    assert "ignore_imports" not in CONTRACTS["layers"]
    assert "ignore_imports" not in CONTRACTS["acyclic_siblings"]


def test_there_are_at_most_nine_layers():
    assert len(FLOORS) <= 9


def _room(module: str) -> str:
    return module.split(".")[1]


def _floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _modules_named_in_strings(path: Path) -> Iterator[str]:
    """Every string of a file that is the dotted name of a module or of a module's attribute."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.replace(":", ".")
            if not re.fullmatch(r"kd_bench(\.\w+)+", name):
                continue
            if _is_module(name) or _is_module(name.rpartition(".")[0]):
                yield name


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_string_has_the_name_of_a_module_in_a_higher_layer(path):
    # import_module("kd_bench.…") or `python -m kd_bench.…` would bypass the contract.
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for name in _modules_named_in_strings(path):
        other = _room(name)
        assert other == room or _floor(other) > _floor(room), f"{room} must not know {name}"

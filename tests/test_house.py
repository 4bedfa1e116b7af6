"""The house itself: which file may import which, and who may know Hydra."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kd_bench"
FILES = sorted(PACKAGE.rglob("*.py"))

# Imports point down only: a file may import from floors below its own, and from its own floor
# where both are listed as one of the pairs below.
FLOORS = [
    {
        "errors",
        "schema",
        "environment",
        "forks",
        "seeds",
        "words",
        "failures",
        "interfaces",
        "distances",
        "__init__",
    },
    {
        "taps",
        "adapters",
        "records",
        "reading",
        "slots",
        "slurm_slots",
        "ray_slots",
        "labels",
        "intervals",
        "data",
        "models",
        "execution",
        "capture",
    },
    {"methods", "method", "cells", "checkpoint", "events", "teacher", "optim", "frozen"},
    {"step", "training", "view_table", "table", "figure", "blocks", "states"},
    {"epoch", "train", "choice", "build", "estimate"},
    {"run", "display"},
    {"sweep", "plan", "answers", "speed", "compose", "explain"},
    {"launchers"},
    {"application"},
    {"commands"},
    {"cli", "__main__"},
]
# Inside a floor, only these.
NEIGHBOURS = {
    ("interfaces", "errors"),
    ("schema", "errors"),
    ("execution", "taps"),
    ("train", "epoch"),
    ("choice", "epoch"),
    ("reading", "records"),
    ("labels", "records"),
    ("cells", "intervals"),
    ("data", "data"),
    ("plan", "answers"),
    ("speed", "speed"),
    ("launchers", "launchers"),
    ("commands", "commands"),
    ("__main__", "cli"),
}


def part(path: Path) -> str:
    """The name of the file, or of the folder that it is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if name in names)


def imported(path: Path) -> set[str]:
    """Every module that a file imports when it is imported itself, by its full name."""
    found = set()
    for node in _run_at_import(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _run_at_import(node: ast.AST):
    for child in ast.iter_child_nodes(node):
        is_for_type_checkers = (
            isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        )
        if not is_for_type_checkers and not isinstance(child, ast.FunctionDef):
            yield child
            yield from _run_at_import(child)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = part(path)
    for name in imported(path):
        pieces = name.split(".")
        if pieces[0] != "kd_bench" or len(pieces) < 2:
            continue
        other = pieces[1] if (PACKAGE / pieces[1]).exists() or _is_file(pieces[1]) else "__init__"
        allowed = floor(other) < floor(own) or (own, other) in NEIGHBOURS
        assert allowed, f"{own} must not import {other}"


def _is_file(name: str) -> bool:
    return (PACKAGE / f"{name}.py").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_hydra_is_known_to_the_command_line_alone(path):
    if part(path) not in {"application", "compose", "explain", "launchers"}:
        assert not {name.split(".")[0] for name in imported(path)} & {"hydra", "omegaconf"}


COMMANDS = [f"commands/{path.stem}" for path in (PACKAGE / "commands").glob("*.py")]
TORCH_FREE = ["cli", "application", "compose", "schema", "records", "launchers/local", *COMMANDS]


@pytest.mark.parametrize("name", TORCH_FREE)
def test_what_help_and_completion_and_commands_load_is_free_of_torch(name):
    seen, todo = set(), [PACKAGE / f"{name}.py"]
    while todo:
        path = todo.pop()
        seen.add(path)
        names = imported(path)
        assert "torch" not in {module.split(".")[0] for module in names}, path
        inside = (PACKAGE / f"{'/'.join(n.split('.')[1:3])}.py" for n in names if "kd_bench." in n)
        outer = (PACKAGE / f"{n.split('.')[1]}.py" for n in names if "kd_bench." in n)
        todo += [p for p in (*inside, *outer) if p.exists() and p not in seen]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_says_first_what_it_is(path):
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_nothing_is_unpickled_from_a_checkpoint():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("weights_only") == "True", path
            is_call = isinstance(node, ast.Call)
            assert not (is_call and ast.unparse(node.func).startswith("pickle.load")), path

"""kd-bench new: writes template files for your own method, model or dataset."""

from __future__ import annotations

import importlib.util
import keyword
from collections.abc import Sequence
from pathlib import Path
from string import Template

from kd_bench.cli.common.parser import Parser
from kd_bench.cli.table import write_file
from kd_bench.utils.errors import require
from kd_bench.utils.own_modules import search_current_folder
from kd_bench.utils.text.output import print_lines

DESCRIPTION = """\
Writes a template of a method, model or dataset to the current folder: NAME.py, its YAML file in
my_conf/, and test_NAME.py. It works unchanged; replace the formula, the layers or the images.

  kd-bench new method cosine
"""
OWN_CONFIG_DIR = "my_conf"
TRY = {  # the arguments to train with it
    "method": "method={} recipe=quickstart",
    "model": "model={} method=baseline recipe=quickstart",
    "dataset": "dataset={} method=baseline recipe=quickstart",
}
# Without '_': classes imported by the templates, the weight of cross entropy, a file of pytest, and
# words that YAML does not read as text.
TAKEN = {
    "batch",
    "description",
    "loss",
    "losscontext",
    "output",
    "split",
    "stageshapes",
    "usererror",
}
TAKEN |= {"ce", "conftest", "null", "true", "false", "yes", "no", "on", "off"}


def main(words: Sequence[str]) -> int:
    """Write the files."""
    parser = Parser("new", DESCRIPTION)
    parser.add_argument("kind", choices=list(TRY), help="what to write")
    parser.add_argument("name", metavar="NAME", help="its name, as in method=NAME")
    args = parser.parse(words)
    _check_name(args.kind, args.name)
    paths = {
        "py": Path(f"{args.name}.py"),
        "yaml": Path(OWN_CONFIG_DIR, args.kind, f"{args.name}.yaml"),
        "test.py": Path(f"test_{args.name}.py"),
    }
    for path in paths.values():
        require(not path.exists(), f"{path} already exists; choose another name")
    for ending, path in paths.items():
        write_file(path, _filled(f"{args.kind}.{ending}.txt", args.name))
    print_lines(
        f"wrote {', '.join(map(str, paths.values()))}; try it:",
        f"  pytest {paths['test.py']}",
        f"  kd-bench --config-dir {OWN_CONFIG_DIR} {TRY[args.kind].format(args.name)}",
    )
    return 0


def _filled(template: str, name: str) -> str:
    text = Path(__file__).with_name(template).read_text()
    return Template(text).substitute(name=name, Name=_class_name(name))


def _class_name(name: str) -> str:
    """MyLoss for my_loss."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _check_name(kind: str, name: str) -> None:
    """Refuse a name that is not valid for a module, or that is already taken."""
    require(
        name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and name[0] != "_",
        "NAME becomes the name of a Python module: a letter, then letters, digits and '_', and not"
        f" a Python keyword; got '{name}'",
    )
    require(
        _class_name(name).lower() not in TAKEN,
        f"'{name}' already has a meaning in these files; choose another name",
    )
    from kd_bench.config.compose import CONFIG_DIR  # with Hydra, which takes half a second

    is_shipped = Path(CONFIG_DIR, kind, f"{name}.yaml").exists()
    require(not is_shipped, f"kd-bench has a {kind} '{name}' already; choose another name")
    search_current_folder()
    found = importlib.util.find_spec(name)
    is_own = found is None or Path(found.origin or "").parent == Path.cwd()
    require(
        is_own,
        f"an installed module '{name}' would be imported instead of yours; choose another name",
    )

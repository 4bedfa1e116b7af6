"""python tools/methods.py: the tables of methods, plug-ins and rules, from conf/ and the code.

python tools/methods.py              print the table of methods
python tools/methods.py --plugins    print the table of plug-ins
python tools/methods.py --rules      print the table of rules
python tools/methods.py --write      write all of them to docs/methods.md
python tools/methods.py --check      exit 1 if docs/methods.md is stale
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import torch
from documentation import blocks, catalogue

from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import atomic_write

PAGE = Path(__file__).resolve().parents[1] / "docs/methods.md"
TABLES = {
    "python tools/methods.py": catalogue.table,
    "python tools/methods.py --plugins": catalogue.plugin_table,
    "python tools/methods.py --rules": catalogue.rule_table,
}


def with_tables(text: str) -> str:
    """The page with regenerated tables."""
    commands = [block.command for block in blocks.find_blocks(text)]
    for command in TABLES:
        require(command in commands, f"{PAGE} has no block for '{command}'")
    return blocks.regenerate(
        text, lambda each: f"\n{TABLES[each.command]()}\n" if each.command in TABLES else each.body
    )


def main(argv: list[str]) -> int:
    """Run the command line; the exit status."""
    require(argv in ([], ["--plugins"], ["--rules"], ["--write"], ["--check"]), __doc__)
    torch.set_num_threads(1)  # the training steps are tiny
    command = " ".join(["python tools/methods.py", *argv])
    if command in TABLES:
        print(TABLES[command](), end="")
        return 0
    there = PAGE.read_text(encoding="utf-8")
    made = with_tables(there)
    if argv == ["--write"]:
        atomic_write(PAGE, made)
        return 0
    if made != there:
        print(f"{PAGE.name} is stale; run python tools/methods.py --write:")
        changes = difflib.unified_diff(there.splitlines(), made.splitlines(), lineterm="", n=0)
        print(*(line for line in changes if line.startswith(("+|", "-|"))), sep="\n")
    return int(made != there)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))

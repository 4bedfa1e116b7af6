"""python tools/methods.py: the table of all methods, read from conf/method and the code.

python tools/methods.py            print it
python tools/methods.py --write    put it into docs/methods.md
python tools/methods.py --check    exit 1 where docs/methods.md has another one
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from documentation import blocks, catalogue

from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import atomic_write

PAGE = Path(__file__).resolve().parents[1] / "docs/methods.md"
COMMAND = "python tools/methods.py"


def with_table(text: str) -> str:
    """The page with its table of methods made anew."""
    commands = [block.command for block in blocks.find_blocks(text)]
    require(COMMAND in commands, f"{PAGE} has no block that '{COMMAND}' makes")
    body = f"\n{catalogue.table()}\n"
    return blocks.regenerate(text, lambda each: body if each.command == COMMAND else each.body)


def main(argv: list[str]) -> int:
    """Run the command line; the exit status."""
    require(argv in ([], ["--write"], ["--check"]), __doc__)
    torch.set_num_threads(1)  # the steps are tiny
    if not argv:
        print(catalogue.table(), end="")
        return 0
    there = PAGE.read_text(encoding="utf-8")
    made = with_table(there)
    if argv == ["--write"]:
        atomic_write(PAGE, made)
        return 0
    rows = [line for line in made.splitlines() if line not in there.splitlines()]
    rows += [line for line in there.splitlines() if line not in made.splitlines()]
    if made != there:
        print(f"{PAGE.name} is stale; run {COMMAND} --write:", *rows[:6], sep="\n")
    return int(made != there)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))

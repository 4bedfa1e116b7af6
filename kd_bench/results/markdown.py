"""Tables that live in Markdown files, each between two comments of which the first makes it.

<!-- table: python tools/table.py --from results --dataset digits -->
...
<!-- /table -->
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from kd_bench.utils.errors import require

START, END = "<!-- table: ", "<!-- /table -->"
_BLOCK = re.compile(rf"^{START}(?P<command>.*) -->\n(?P<body>(?:.*\n)*?){END}$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A table as it stands in a file."""

    line: int  # where it starts, counted from 1
    command: str  # that makes it
    body: str


def blocks(text: str) -> list[Block]:
    """The table blocks of a Markdown text, from top to bottom.

    Raises:
        UserError: a block that does not end before the next one starts.
    """
    started = len(re.findall(f"^{START}", text, re.MULTILINE))
    found = list(_BLOCK.finditer(text))
    require(
        len(found) == started,
        f"{started} table blocks start with '{START}... -->', {len(found)} end with '{END}'",
    )
    lines = [text.count("\n", 0, match.start()) + 1 for match in found]
    return [Block(line, m["command"], m["body"]) for line, m in zip(lines, found, strict=True)]


def regenerate(text: str, make: Callable[[str], str]) -> str:
    """The text with every table block made anew.

    Args:
        text: of a Markdown file.
        make: from a block's command to its table in Markdown.
    """
    made = iter([make(block.command) for block in blocks(text)])
    return _BLOCK.sub(lambda m: f"{START}{m['command']} -->\n\n{next(made)}\n{END}", text)


def arguments(command: str, script: str) -> list[str]:
    """The arguments of a block's command, which must call `script`."""
    words = shlex.split(command)
    require(
        words[:2] == ["python", script],
        f"the command of a table block must be 'python {script} ...', got '{command}'",
    )
    return words[2:]

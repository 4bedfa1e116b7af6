"""Tables in Markdown files, between two comments; the first contains the command that generates it.

<!-- table: python tools/table.py --from results --dataset digits -->
...
<!-- /table -->
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kd_bench.results.figures.svg import data_hash
from kd_bench.utils.errors import UserError, require

START, END = "<!-- table: ", "<!-- /table -->"
_BLOCK = re.compile(rf"^{START}(?P<command>.*) -->\n(?P<body>(?:.*\n)*?){END}$", re.MULTILINE)
DIFF_LINES = 12

Files = dict[Path, str]  # contents by path
# (command of a block, file that contains it) -> its table in Markdown, and other files that the
# command writes
Make = Callable[[str, Path], tuple[str, Files]]


@dataclass(frozen=True)
class Block:
    """A table in a file."""

    line: int  # of its first comment, counted from 1
    command: str
    body: str


def blocks(text: str) -> list[Block]:
    """The table blocks of a Markdown text, from top to bottom.

    Raises:
        UserError: a block does not end before the next one starts.
    """
    started = len(re.findall(f"^{START}", text, re.MULTILINE))
    matches = list(_BLOCK.finditer(text))
    require(
        len(matches) == started,
        f"{started} table blocks start with '{START}... -->', {len(matches)} end with '{END}'",
    )
    lines = [text.count("\n", 0, match.start()) + 1 for match in matches]
    return [Block(line, m["command"], m["body"]) for line, m in zip(lines, matches, strict=True)]


def regenerate(text: str, make: Callable[[str], str]) -> str:
    """The text with all table blocks regenerated.

    Args:
        text: of a Markdown file.
        make: maps the command of a block to its table in Markdown.
    """
    tables = iter([make(block.command) for block in blocks(text)])
    return _BLOCK.sub(lambda m: f"{START}{m['command']} -->\n\n{next(tables)}\n{END}", text)


def arguments(command: str, script: str) -> list[str]:
    """The arguments of a block's command.

    Raises:
        UserError: the command does not run `script`.
    """
    words = shlex.split(command)
    require(
        words[:2] == ["python", script],
        f"the command of a table block must be 'python {script} ...', got '{command}'",
    )
    return words[2:]


def regenerated_files(path: Path, make: Make) -> Files:
    """A Markdown file with all blocks regenerated, and the other files of its blocks.

    Raises:
        UserError: the file does not exist or has an invalid block; the message names the file.
    """
    require(path.is_file(), f"there is no file {path}")
    files: Files = {}

    def make_body(command: str) -> str:
        body, others = make(command, path)
        files.update(others)
        return body

    try:
        text = regenerate(path.read_text(encoding="utf-8"), make_body)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return {path: text, **files}


def is_fresh(path: Path, text: str) -> bool:
    """Whether a file has this content or, for a figure, was drawn from the same numbers."""
    current = path.read_text(encoding="utf-8") if path.exists() else ""
    if path.suffix == ".svg":
        return data_hash(current) == data_hash(text)
    return current == text


def stale_parts(path: Path, make: Make) -> list[str]:
    """What regenerating a file's blocks would change: a text for each changed block and file."""
    files = regenerated_files(path, make)
    current = path.read_text(encoding="utf-8")
    pairs = zip(blocks(current), blocks(files.pop(path)), strict=True)
    texts = [
        f"{path}:{old.line}: stale, {old.command}\n{_first_changes(old.body, new.body)}"
        for old, new in pairs
        if old.body != new.body
    ]
    for file, text in files.items():
        if not is_fresh(file, text):
            old_text = file.read_text(encoding="utf-8") if file.exists() else ""
            changes = "" if file.suffix == ".svg" else f"\n{_first_changes(old_text, text)}"
            texts.append(f"{file}: stale, made by a block in {path}{changes}")
    return texts


def _first_changes(old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    return "\n".join(list(lines)[2 : 2 + DIFF_LINES])

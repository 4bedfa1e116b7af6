"""The commands, examples and links in README.md and docs/*.md."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from documentation.blocks import find_blocks

from helpers.paths import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
METHOD_PAGES = tuple(sorted((ROOT / "docs/methods").glob("*.md")))
PROGRAMS = (
    "kd-bench", "python", "pip", "pytest", "tensorboard", "make", "ray", "nvidia-cuda-mps-control",
    ".ci/slurm", ".ci/ray",
)  # fmt: skip
SHELL = ("bash", "sh", "shell", "console")  # languages of blocks in which every line is a command
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<mark>`{3,}|~{3,})(?P<language>[\w-]*)[^\n]*\n"
    r"(?P<text>.*?)^(?P=indent)(?P=mark)$",
    re.MULTILINE | re.DOTALL,
)
_ANY_PROGRAM = "|".join(map(re.escape, PROGRAMS))
_INLINE = re.compile(rf"(?<!`)`((?:{_ANY_PROGRAM}) [^`\n]+)`(?!`)")
_INDENTED = re.compile(rf"^ {{4,}}(?:\$ )?((?:{_ANY_PROGRAM}) .*)$", re.MULTILINE)
_TABLE = re.compile(r"^<!-- table: .*?^<!-- /table -->$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Fence:
    """A block of code."""

    page: Path
    line: int  # of its first line of code
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that it shows: a comment in its first line, or in the line below @package."""
        match = re.match(r"(?:# @package .*\n)?# (\S+\.(?:py|yaml))\n", self.text)
        return match and match[1]


@dataclass(frozen=True)
class Command:
    """A command as written in a page."""

    page: Path
    line: int
    text: str
    in_block: bool = True

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}: {self.text}"


def fences(page: Path) -> list[Fence]:
    text = page.read_text(encoding="utf-8")
    return [
        Fence(
            page,
            text.count("\n", 0, m.start("text")) + 1,
            m["language"],
            _dedented(m["text"], m["indent"]),
        )
        for m in _FENCE.finditer(text)
    ]


def _dedented(text: str, indent: str) -> str:
    return re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def examples(page: Path) -> dict[str, str]:
    """The files that a page shows, by name."""
    return {fence.file: fence.text for fence in fences(page) if fence.file}


def commands(page: Path) -> list[Command]:
    """Every command of a page: in blocks of any language or none, indented, and in running text.

    Blocks that show a command's output are left out: checking them runs the command.
    """
    return [*_in_fences(page), *_in_text(page)]


def _in_fences(page: Path) -> Iterator[Command]:
    made = {
        block.line + n
        for block in find_blocks(page.read_text(encoding="utf-8"))
        for n in range(block.body.count("\n") + 1)
    }
    for fence in fences(page):
        if fence.file or fence.line in made:
            continue
        for number, line in enumerate(fence.text.replace("\\\n", "  ").splitlines()):
            line = re.sub(r"(^|\s+)#\s.*", "", line.strip().removeprefix("$ "))
            for part in re.split(r"\s&&\s|;\s", line):
                is_command = fence.language in SHELL or _program(part) in PROGRAMS
                if is_command and part.strip():
                    yield Command(page, fence.line + number, _unwrapped(part))


def _in_text(page: Path) -> Iterator[Command]:
    text = page.read_text(encoding="utf-8")
    # Blank out code blocks and generated tables, keeping the line numbers.
    for pattern in (_TABLE, _FENCE):
        text = pattern.sub(lambda m: "\n" * m[0].count("\n"), text)
    for match in (*_INLINE.finditer(text), *_INDENTED.finditer(text)):
        yield Command(page, text.count("\n", 0, match.start()) + 1, match[1], False)


def _unwrapped(text: str) -> str:
    """The command inside eval "$(...)"; any other command without variables set before it."""
    if match := re.match(r'eval "\$\((.*)\)"', text):
        return match[1]
    return re.sub(r"^(?:[A-Z_]+=\S+ )+", "", text)


def _program(text: str) -> str:
    return (_unwrapped(text).split() or [""])[0]


def links(page: Path) -> list[str]:
    """The targets of a page's links and images, except URLs."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [unquote(target) for target in found if not re.match(r"https?:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub generates them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

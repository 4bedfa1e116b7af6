"""Blocks of Markdown files that are the output of a command, each between two comments.

<!-- output: kd-bench plan sweep=quickstart -->
...
<!-- /output -->

The blocks of a file run from top to bottom in one scratch folder, so that later ones see the runs
of earlier ones. The output of `python tools/...` is Markdown and is inserted as it is; that of
`kd-bench` is inserted in a code fence, below its command. `while` runs another command in the
background, and `until` is a text to wait for in the output:

<!-- output: kd-bench status | while: kd-bench sweep=quickstart | until: images/s -->
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kd_bench.utils.errors import require

ROOT = Path(__file__).resolve().parents[2]
START, END = "<!-- output: ", "<!-- /output -->"
_BLOCK = re.compile(rf"^{START}(?P<head>.*) -->\n(?P<body>(?:.*\n)*?){END}$", re.MULTILINE)
PATIENCE = 120.0  # seconds to wait for a text
POLL_SECONDS = 0.2

# Parts that differ between runs or machines, and what replaces them in comparisons.
_PROGRESS = re.compile(r"^.*: epoch \d+/\d+ \S+ % [\d,]+ images/s\n", re.MULTILINE)
_MASKS = (
    (r"process \d+ on \S+", "PROCESS"),
    (r"\S*kd-bench-rerun-\S+", "FOLDER"),
    (r"(\d+(\.\d+)? (d|h|min|s)\b ?)+|under 1 s", "TIME "),
    (r"\b\d+(\.\d+)? [kMGT]?B\b", "SIZE"),
    (r"\bepoch \d+/", "epoch N/"),
    (r"\b[0-9a-f]{8}\b", "DIGEST"),
    (r"\b\d+\.\d+\.\d+[\w+.]*", "VERSION"),
    (r"[\d,]+ images/s", "RATE images/s"),
    (r"[\d,]+ to (?=RATE)", "RATE to "),
    (r"[+-]?\d+\.\d+", "NUMBER"),
    (r"\d+ places?\b", "PLACES"),
    (r"─+", ""),
)


@dataclass(frozen=True)
class Block:
    """A command, and its output as a file shows it."""

    line: int  # of its start, from 1
    command: str
    body: str
    meanwhile: str | None = None  # a command that runs in the background
    until: str = ""  # a text that the output must then contain

    @property
    def is_markdown(self) -> bool:
        """Whether the output is Markdown, which is the same in every run."""
        return self.command.startswith("python ")


def find_blocks(text: str) -> list[Block]:
    """The blocks of a Markdown text, from top to bottom.

    Raises:
        UserError: a block does not end before the next one starts.
    """
    found = list(_BLOCK.finditer(text))
    started = len(re.findall(f"^{START}", text, re.MULTILINE))
    require(
        len(found) == started,
        f"{started} blocks start with '{START}... -->', {len(found)} end with '{END}'",
    )
    return [_block(text.count("\n", 0, m.start()) + 1, m["head"], m["body"]) for m in found]


def _block(line: int, head: str, body: str) -> Block:
    command, *options = head.split(" | ")
    named = dict(option.split(": ", 1) for option in options)
    unknown = named.keys() - {"while", "until"}
    require(not unknown, f"unknown option of a block: {', '.join(sorted(unknown))}")
    return Block(line, command, body, named.get("while"), named.get("until", ""))


def regenerate(text: str, make: Callable[[Block], str]) -> str:
    """The text with the body of every block regenerated."""
    made = iter([make(block) for block in find_blocks(text)])
    return _BLOCK.sub(lambda m: f"{START}{m['head']} -->\n{next(made)}{END}", text)


def masked(body: str) -> Counter[str]:
    """The words of a body without times, sizes, rates and accuracies, in any order.

    Jobs end in any order, a slow job has more progress lines, and the line breaks of a paragraph
    depend on its numbers.
    """
    body = " ".join(_PROGRESS.sub("", body).split())
    for pattern, word in _MASKS:
        body = re.sub(pattern, word, body)
    return Counter(body.split())


class Shell:
    """Runs commands in a scratch folder, with `kd-bench` and `python` of this checkout."""

    def __init__(self, folder: Path):
        self.folder = folder / "work"
        self.folder.mkdir()
        programs = folder / "bin"
        programs.mkdir()
        for name, words in (("kd-bench", ["-m", "kd_bench"]), ("python", [])):
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *words])} "$@"\n')
            script.chmod(0o755)
        self.variables = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "100",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",  # so that a machine with a GPU runs the same jobs
            "HYDRA_FULL_ERROR": "0",
        }

    def output(self, command: str, at: Path | None = None) -> str:
        """The standard output and standard error of a command.

        Raises:
            UserError: it ends with a traceback, or it is one of tools/ and fails.
        """
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=at or self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        is_broken = "Traceback (most recent call last)" in done.stdout
        is_broken |= command.startswith("python ") and done.returncode != 0
        require(not is_broken, f"'{command}' failed:\n{done.stdout}")
        return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())

    @contextmanager
    def background(self, command: str) -> Iterator[None]:
        """Run a command in the background; it is interrupted at the end."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=PATIENCE)

    def run(self, block: Block, is_right: Callable[[str], bool] = lambda body: True) -> str:
        """The new body of a block, from its command.

        Args:
            block: the block.
            is_right: for a block with a background command, a condition to wait for besides
                `block.until`; if it is never met, the last output is returned.
        """
        if block.is_markdown:
            return f"\n{self.output(block.command, at=ROOT).strip()}\n\n"
        if block.meanwhile is None:
            return fenced(block.command, self.output(block.command))
        with self.background(block.meanwhile):
            end = time.monotonic() + PATIENCE
            while True:
                printed = self.output(block.command)
                body = fenced(block.command, printed)
                if time.monotonic() > end or (block.until in printed and is_right(body)):
                    return body
                time.sleep(POLL_SECONDS)


def fenced(command: str, printed: str) -> str:
    """A command and its output, as in a terminal."""
    return f"```\n$ {command}\n{printed.rstrip()}\n```\n"


@contextmanager
def scratch_shell() -> Iterator[Shell]:
    """A shell in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="kd-bench-docs-") as folder:
        yield Shell(Path(folder))


def fresh(text: str, quick: bool = False) -> str:
    """A Markdown text with regenerated stale blocks; `quick`: only those that print Markdown."""
    bodies = {block.line: now for block, now in stale(text, quick)}
    return regenerate(text, lambda block: bodies.get(block.line, block.body))


def _is_same_masked(expected: Counter[str], body: str) -> bool:
    """Whether a body equals the expected one after masking."""
    return masked(body) == expected


def stale(text: str, quick: bool = False) -> list[tuple[Block, str]]:
    """The blocks that differ from the output of their commands, each with its new body."""
    found = []
    with scratch_shell() as shell:
        for block in find_blocks(text):
            if quick and not block.is_markdown:
                continue
            now = shell.run(block, partial(_is_same_masked, masked(block.body)))
            same = now == block.body if block.is_markdown else masked(now) == masked(block.body)
            if not same:
                found.append((block, now))
    return found

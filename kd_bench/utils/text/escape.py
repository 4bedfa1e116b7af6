"""Escapes text for where it is written: a function for each format.

Names and reasons may come from records and logs of other people. They are shown as they are, and
are never markup, terminal commands or formulas.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote


def printable(text: str) -> str:
    """A line for a terminal: what cannot be printed is spelled out, such as \\x1b for Escape.

    Among that are line breaks, and the marks that reverse the direction of writing.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def markdown(text: str) -> str:
    """Text for a line of GitHub's Markdown, or a cell of a table: neither HTML nor formatting."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"[\\`*|\[\]~$]", r"\\\g<0>", text)
    return re.sub(r"\b_|_\b", r"\\_", text)  # within a word, it is no formatting


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"$\dagger$",
}


def latex(text: str) -> str:
    """Text for LaTeX, with minus signs before numbers."""
    escaped = "".join(_LATEX.get(character, character) for character in printable(text))
    return escaped.replace(" -", " $-$")


def csv(text: str) -> str:
    """Text for a cell of CSV that no spreadsheet takes for a formula; quotes are the writer's."""
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def link(path: Path, start: Path) -> str:
    """A relative link to a file from one in the folder `start`: a colon makes it no scheme."""
    return quote(Path(os.path.relpath(path, start)).as_posix())

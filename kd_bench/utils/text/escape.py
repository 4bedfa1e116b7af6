"""Escapes text for an output format: one function per format.

Names and error messages may come from other people's records and logs. They are shown literally,
never interpreted as markup, terminal control sequences or formulas.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote


def printable(text: str) -> str:
    """A line for a terminal, with unprintable characters escaped, such as \\x1b for Escape.

    These include line breaks and the marks that reverse the direction of writing.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def markdown(text: str) -> str:
    """Text for a line or table cell of GitHub's Markdown, without HTML or formatting."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"[\\`*|\[\]~$]", r"\\\g<0>", text)
    return re.sub(r"\b_|_\b", r"\\_", text)  # inside a word, _ does not format


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
    """Text for a CSV cell that no spreadsheet interprets as a formula; the writer adds quotes."""
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def link(path: Path, start: Path) -> str:
    """A relative link from a file in `start` to `path`, quoted so that a colon is not a scheme."""
    return quote(Path(os.path.relpath(path, start)).as_posix())

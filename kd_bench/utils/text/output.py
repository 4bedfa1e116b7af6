"""Prints lines without terminal control sequences, and handles closed standard streams."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from kd_bench.utils.text.escape import printable


def print_lines(*lines: str, file: TextIO | None = None) -> None:
    """Print lines to standard output, or to `file`."""
    print("\n".join(map(printable, lines)), file=file)


def replace_closed_streams() -> None:
    """Open /dev/null in place of standard streams that are closed (`>&-`).

    Otherwise the next file to be opened would get their descriptor, and the output with it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # for good

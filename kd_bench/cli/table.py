"""kd-bench table: the results table of your own runs, or of any folder with records."""

from __future__ import annotations

from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    """Print a table."""
    raise NotImplementedError

"""Breaks kd-bench on purpose, to see that the harness reports it."""

from __future__ import annotations

from pathlib import Path

from faults.states import States


def check(states: States, scratch: Path) -> int:
    """..."""
    return 0

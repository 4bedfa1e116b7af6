"""Training speed of kd-bench and of plain PyTorch loops; used by `tools/speed.py`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_TOOLS = str(Path(__file__).resolve().parents[1])


def environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`variables` for a process of `python -m throughput.<module>`, started from any folder."""
    paths = [_TOOLS, *filter(None, [variables.get("PYTHONPATH")])]
    return {**variables, "PYTHONPATH": os.pathsep.join(paths)}

"""How faults ended, as a file and as a table in Markdown."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

import kd_bench
from faults.harness import Result
from faults.oracle import Outcome
from kd_bench.utils.files import write_json
from kd_bench.utils.text.formatting import format_duration


def write(path: Path, results: Sequence[Result], of: int, seconds: float) -> None:
    """Write how many cases of each row ended how.

    Args:
        path: of the file.
        results: of the cases that were tried.
        of: how many cases there are.
        seconds: that it took.
    """
    rows = {result.row: Counter[str]() for result in results}
    for result in results:
        rows[result.row][result.outcome.value] += 1
    about = {
        "kd_bench": kd_bench.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cases": len(results),
        "of": of,
        "cores": len(os.sched_getaffinity(0)),
        "seconds": round(seconds),
    }
    write_json(path, {"rows": rows, "about": about})


def show(path: Path) -> str:
    """The table of a file that `write` has written."""
    values = json.loads(path.read_text())
    outcomes = [outcome.value for outcome in Outcome]
    lines = [["fault", "tried", *outcomes], [":--", *["--:"] * (len(outcomes) + 1)]]
    total = sum((Counter(counts) for counts in values["rows"].values()), Counter[str]())
    for row, counts in [*values["rows"].items(), ("**all**", total)]:
        numbers = [sum(counts.values()), *(counts.get(outcome, 0) for outcome in outcomes)]
        lines.append([row, *(f"{number:,}" for number in numbers)])
    about = values["about"]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    some = f"{about['cases']:,} of {about['of']:,} faults"
    versions = f"kd_bench {about['kd_bench']}, Python {about['python']}, torch {about['torch']}"
    took = f"{about['cores']} cores, in {format_duration(about['seconds'])}"
    return f"{table}\n\n{some}; {versions}, {took}."

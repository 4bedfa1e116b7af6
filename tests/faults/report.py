"""The results of faults, as a JSON file and as a Markdown table."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import kd_bench
from faults.harness import Result
from faults.oracle import Outcome
from kd_bench.utils.files import write_json
from kd_bench.utils.text.formatting import format_duration

OUTCOMES = [outcome.value for outcome in Outcome]


def write(path: Path, results: Sequence[Result], of: Mapping[str, int], seconds: float) -> None:
    """Write the number of cases per row and outcome; rows without a tried case are kept.

    Args:
        path: of the file.
        results: of the cases that were tried.
        of: row -> its total number of cases.
        seconds: the duration of the run.
    """
    earlier = json.loads(path.read_text()) if path.exists() else {"rows": {}, "seconds": 0}
    rows: dict[str, dict[str, int]] = {
        row: dict.fromkeys(OUTCOMES, 0) | {"of": of[row]}
        for row in dict.fromkeys(result.row for result in results)
    }
    for result in results:
        rows[result.row][result.outcome.value] += 1
    merged = earlier["rows"] | rows
    values = {
        "rows": {row: merged[row] for row in [*of, *merged] if row in merged},
        "seconds": earlier["seconds"] + round(seconds),
        "kd_bench": kd_bench.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": len(os.sched_getaffinity(0)),
    }
    write_json(path, values)


def show(path: Path) -> str:
    """The Markdown table of a file written by `write`."""
    values = json.loads(path.read_text())
    lines = [["fault", "of", "tried", *OUTCOMES], [":--", *["--:"] * (len(OUTCOMES) + 2)]]
    total = sum((Counter(counts) for counts in values["rows"].values()), Counter[str]())
    for row, counts in [*values["rows"].items(), ("**all**", total)]:
        ended = [counts[outcome] for outcome in OUTCOMES]
        lines.append([row, *(f"{number:,}" for number in [counts["of"], sum(ended), *ended])])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    versions = f"kd_bench {values['kd_bench']}, Python {values['python']}, torch {values['torch']}"
    took = f"{values['cores']} cores, in {format_duration(values['seconds'])}"
    return f"{table}\n\n{versions}, {took}."

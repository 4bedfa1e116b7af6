"""Classifies how a fault ended, by comparing all files with those of an undisturbed run."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

from kd_bench.results.run_folder import CONSOLE, ERROR, TIMING

TRACEBACK = "Traceback (most recent call last)"
TIMES = {  # fields of records and of teacher caches that differ from run to run
    "finished", "seconds", "seconds_of_process", "seconds_of_warm_up", "images_per_second",
    "peak_memory_mb", "commit", "dirty", "checksum",
}  # fmt: skip


class Outcome(Enum):
    """How a fault ended, from best to worst; only the first two are allowed."""

    RECOVERED = "recovered"
    REFUSED = "refused clearly"
    UNCLEAR = "refused unclearly"
    WRONG = "silently wrong"
    DOUBLED = "doubled"
    LOST = "lost"
    TRACEBACK = "traceback"


ALLOWED = (Outcome.RECOVERED, Outcome.REFUSED)


class Found(Exception):  # noqa: N818  # an outcome, not an error
    """A fault ended with an outcome that is not allowed; the message describes it."""

    def __init__(self, outcome: Outcome, text: str):
        super().__init__(text)
        self.outcome = outcome


# Files


def check_files(found: Path, expected: Path) -> None:
    """Compare all files of two folders.

    Raises:
        Found: the worst difference.
    """
    names, wanted = _names(found), _names(expected)
    differences = [Found(Outcome.LOST, f"{name} is missing") for name in wanted - names]
    differences += [Found(Outcome.WRONG, f"{name} is left over") for name in names - wanted]
    for name in sorted(names & wanted):
        try:
            _check_file(found / name, expected / name)
        except Found as difference:
            differences.append(difference)
    if differences:
        ranks = list(Outcome)
        raise max(differences, key=lambda each: ranks.index(each.outcome))


def _names(folder: Path) -> set[str]:
    """The files and empty folders below a folder."""
    below = list(folder.rglob("*"))
    full = {path.parent for path in below}
    return {path.relative_to(folder).as_posix() for path in below if path not in full}


def _check_file(found: Path, expected: Path) -> None:
    """Compare two files: JSON without times, timing.csv by its epochs, others by their bytes."""
    if expected.suffix == ".csv":
        _check_epochs(found, expected)
    if expected.name == TIMING or not expected.is_file():
        return
    if expected.suffix == ".json":
        there, wanted = _timeless(found), _timeless(expected)
        differing = [key for key in there | wanted if there.get(key) != wanted.get(key)]
    else:
        differing = ["content"] * (found.read_bytes() != expected.read_bytes())
    if differing:
        text = f"{found.name} in {found.parent} has another {', '.join(differing)}"
        raise Found(Outcome.WRONG, text)


def _timeless(path: Path) -> dict[str, Any]:
    """The values of a JSON file without times."""
    try:
        values = json.loads(path.read_bytes(), object_hook=_without_times)
    except ValueError as error:
        raise Found(Outcome.WRONG, f"{path.name} is not JSON: {error}") from None
    return values if isinstance(values, dict) else {"": values}


def _without_times(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in TIMES}


def _check_epochs(found: Path, expected: Path) -> None:
    there, wanted = _epochs(found), _epochs(expected)
    for outcome, wrong in ((Outcome.LOST, wanted - there), (Outcome.DOUBLED, there - wanted)):
        if wrong:
            numbers = ", ".join(map(str, wrong))
            raise Found(outcome, f"{found.name} in {found.parent}: epoch {numbers}")


def _epochs(path: Path) -> Counter[str]:
    with open(path, newline="", errors="replace") as file:
        return Counter(row.get("epoch", "") for row in csv.DictReader(file))


# Output


def check_no_traceback(work: Path, outputs: Sequence[str]) -> None:
    """Check that neither the output of commands nor the logs of their jobs have a traceback.

    Raises:
        Found: there is one.
    """
    shown = {"output": "\n".join(outputs)} | _logs(work)
    for where, text in shown.items():
        if TRACEBACK in text:
            raise Found(Outcome.TRACEBACK, f"{where}: {text.strip().splitlines()[-1]}")


def _logs(work: Path) -> dict[str, str]:
    """The error and console files of jobs, which may still be running."""
    texts = {}
    for folder, _, names in os.walk(work):
        for name in {ERROR, CONSOLE}.intersection(names):
            with suppress(FileNotFoundError):
                texts[f"{folder}/{name}"] = Path(folder, name).read_text(errors="replace")
    return texts


def refusal(output: str, damaged: Path | None, work: Path) -> str:
    """The single line in which a command reports why it refused.

    Args:
        output: of the command.
        damaged: the file that must be in the line; None accepts any reason.
        work: the folder in which the command ran.

    Raises:
        Found: there is not exactly one such line, or the file is not in it.
    """
    lines = [line for line in output.splitlines() if line.startswith("kd-bench: ")]
    if len(lines) != 1:
        raise Found(Outcome.UNCLEAR, f"{len(lines)} lines give a reason: {output[-300:]!r}")
    if damaged is not None and damaged.relative_to(work).as_posix() not in lines[0]:
        raise Found(Outcome.UNCLEAR, f"it does not name {damaged.name}: {lines[0]}")
    return lines[0]


def to_delete(line: str, work: Path) -> Path:
    """The file or folder to delete according to a refusal: the path after "delete", or before it.

    Raises:
        Found: the refusal has none.
    """
    before, *rest = re.split(r"\b(?:delete|remove)\b", line)
    named = [*_paths(" ".join(rest), work), *reversed(_paths(before, work))]
    if not rest or not named:
        raise Found(Outcome.UNCLEAR, f"no remedy in: {line}")
    return named[0]


def _paths(text: str, work: Path) -> list[Path]:
    """The existing files and folders whose paths are in a text."""
    words = (word.strip("'\":;,.()") for word in text.split())
    return [work / word for word in words if "/" in word and os.path.lexists(work / word)]

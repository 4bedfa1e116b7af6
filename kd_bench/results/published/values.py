"""Reads and checks published accuracies, each with its source, epoch and number of runs."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from kd_bench.utils.errors import UserError, require

FOLDER = Path(__file__).parent
RULES = {
    "last": "last epoch",
    "best": "best test epoch",
    "unknown": "unknown epoch",
}


@dataclass(frozen=True)
class Source:
    """Where a number is published, and what it is a mean of."""

    name: str  # with authors and year
    place: str  # within the source: a table, a README
    url: str
    rule: str  # one of `RULES`: which epoch is reported
    runs: int | None  # None if not reported

    def __str__(self) -> str:
        """In one line: "CRD (Tian et al., 2020), table 1: last epoch, 5 runs, https://..."."""
        runs = {None: "unknown number of runs", 1: "1 run"}.get(self.runs, f"{self.runs} runs")
        return f"{self.name}, {self.place}: {RULES[self.rule]}, {runs}, {self.url}"


@dataclass(frozen=True)
class Published:
    """The accuracy of a method on a pair, as published."""

    dataset: str
    teacher: str
    student: str
    method: str  # kd-bench's name, with its plug-ins
    accuracy: float  # percent of the test images
    sd: float | None  # sample SD over the runs, if the source has it or all runs
    source: Source

    @property
    def pair(self) -> str:
        """The name of the pair in the columns of a table."""
        return f"{self.teacher}-{self.student}"


COLUMNS = (
    *("dataset", "teacher", "student", "method", "accuracy", "sd"),
    *("runs", "rule", "source", "place", "url"),
)


def read_published(folder: Path = FOLDER) -> list[Published]:
    """All published accuracies, by file and line.

    Args:
        folder: with CSV files that have `COLUMNS`; by default, those of the package.

    Raises:
        UserError: a line is invalid, or a file has two lines for the same pair and method; the
            message names file and line.
    """
    return [value for path in sorted(folder.glob("*.csv")) for value in _read(path)]


def _read(path: Path) -> list[Published]:
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file, strict=True)
        require(
            tuple(lines.fieldnames or ()) == COLUMNS,
            f"{path}: the columns must be {', '.join(COLUMNS)}",
        )
        found: dict[tuple[str, ...], Published] = {}
        for line in lines:
            value = _value(line, f"{path}:{lines.line_num}")
            key = (value.dataset, value.pair, value.method)
            require(key not in found, f"{path}:{lines.line_num}: {' '.join(key)} occurs twice")
            found[key] = value
    return list(found.values())


def _value(line: dict[str, str], where: str) -> Published:
    require(None not in line, f"{where}: more values than columns")
    empty = [name for name in COLUMNS if not line[name] and name not in ("sd", "runs")]
    require(not empty, f"{where}: {', '.join(empty)} is missing")
    try:
        accuracy = float(line["accuracy"])
        sd = float(line["sd"]) if line["sd"] else None
        runs = int(line["runs"]) if line["runs"] else None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    require(0 <= accuracy <= 100, f"{where}: accuracy must be in percent, got {accuracy}")
    require(sd is None or sd >= 0, f"{where}: sd must be 0 or more, got {sd}")
    require(runs is None or runs > 0, f"{where}: runs must be above 0, got {runs}")
    require(
        line["rule"] in RULES,
        f"{where}: unknown rule '{line['rule']}'; choose from {', '.join(RULES)}",
    )
    require(
        line["url"].startswith("https://"),
        f"{where}: url must begin with https://, got '{line['url']}'",
    )
    source = Source(line["source"], line["place"], line["url"], line["rule"], runs)
    return Published(
        dataset=line["dataset"],
        teacher=line["teacher"],
        student=line["student"],
        method=line["method"],
        accuracy=accuracy,
        sd=sd,
        source=source,
    )

"""A finished run in the form for experiment trackers: group, configuration, metrics, curves."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kd_bench.config.convert import to_plain
from kd_bench.config.identity import flatten
from kd_bench.results.labels import method_label
from kd_bench.results.options import METRIC
from kd_bench.results.record import Record
from kd_bench.results.run_folder import HISTORY
from kd_bench.utils.errors import DamagedError
from kd_bench.utils.files import json_hash

FINAL = "final/"  # prefix of metrics that do not belong to an epoch


@dataclass(frozen=True)
class TrackedRun:
    """The data of a run to push."""

    name: str  # <dataset>/<pair>/<method>/<digest>/seed<k>, unique
    group: str  # the same for all seeds: <dataset>/<pair>/<method and its changed values>
    labels: dict[str, str]  # dataset, pair, method, recipe and seed
    config: dict[str, Any]  # by dotted key
    metrics: dict[str, float]  # of the whole run, by name
    curves: list[tuple[int, dict[str, float]]]  # epochs, and their values by name
    finished: float  # seconds since 1970
    seconds: float  # of training

    @property
    def content(self) -> str:
        """A hash of all fields, to detect runs that a tracker already has."""
        return json_hash(asdict(self), 16)


def tracked(folder: Path, record: Record) -> TrackedRun:
    """The run in a folder, from its record and history.

    Raises:
        DamagedError: the history is damaged.
    """
    dataset, pair, method = record.folder.split("/")[:3]
    return TrackedRun(
        name=record.folder,
        group=f"{dataset}/{pair}/{method_label(record.config, record.changed)}",
        labels={
            "dataset": dataset,
            "pair": pair,
            "method": method,
            "recipe": record.config.recipe.name,
            "seed": str(record.seed),
        },
        config=flatten(to_plain(record.config)),
        metrics=_metrics(record),
        curves=_curves(folder / HISTORY),
        finished=datetime.fromisoformat(record.finished).timestamp(),
        seconds=record.seconds,
    )


def _metrics(record: Record) -> dict[str, float]:
    """All metrics of the record that a table can show, including each corruption and probe."""
    names = [*METRIC, *(f"probe:{name}" for name in record.probes)]
    if record.corrupted is not None:
        names += [
            f"corrupted:{each}" for each in record.corrupted.accuracy | record.corrupted.extra
        ]
    values = {name: METRIC[name].value(record) for name in names}
    return {
        FINAL + name.replace(":", "/"): float(value)
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    }


def _curves(path: Path) -> list[tuple[int, dict[str, float]]]:
    """The epochs of a history; empty if there is no file."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [(int(row["epoch"]), _numbers(row)) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DamagedError(f"cannot read {path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        raise DamagedError(f"{path} is damaged") from None


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    texts = {name: text for name, text in row.items() if name not in ("epoch", "stage") and text}
    return {name: float(text) for name, text in texts.items()}

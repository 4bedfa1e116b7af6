"""The content of the page as plain values: the table's cells, their runs, and learning curves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kd_bench
from kd_bench.config.schema import BASELINE
from kd_bench.results.analysis.groups import HEADINGS
from kd_bench.results.analysis.statistics import half_width
from kd_bench.results.options import METRIC, Metric
from kd_bench.results.record import Failure, Record
from kd_bench.results.rendering.caption import caption_sentences, caveats
from kd_bench.results.rendering.report.curves import Curve, read_curve
from kd_bench.results.rendering.tables import cell_score, difference
from kd_bench.results.run_folder import RESULT
from kd_bench.results.table import Cell, Column, Table
from kd_bench.utils.errors import DamagedError, warn
from kd_bench.utils.text import escape

METHODS = "methods"  # the heading for rows without a heading in a table
Plain = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished job, the folder of its record, and its curve."""

    record: Record
    folder: Path
    curve: Curve | None


def with_curves(found: Iterable[tuple[Path, Record]]) -> list[Run]:
    """Runs with their curves, from folders and records; warns about damaged curves."""
    return [Run(record, folder, _curve(folder)) for folder, record in found]


def _curve(folder: Path) -> Curve | None:
    try:
        return read_curve(folder)
    except DamagedError as error:
        warn(f"left out: {error}")
        return None


def content(
    table: Table, runs: Iterable[Run], failures: Iterable[Failure], source: str, page: Path
) -> Plain:
    """The values displayed by the page's script.

    Args:
        table: of these runs and failures.
        runs: as from `with_curves`.
        failures: as from `store.read_failures`.
        source: the folder that they were read from.
        page: path of the page; links to records are relative to it.
    """
    epochs: dict[tuple[int, ...], int] = {}  # the distinct epochs of curves, numbered
    plain = {run.record.folder: _run(run, page.parent, epochs) for run in runs}
    plain |= {failure.folder: _failure(failure) for failure in failures}
    shown = sorted(set(table.runs["folder"]))
    places = {folder: place for place, folder in enumerate(shown)}
    return {
        "source": source,
        "command": table.command,
        "version": kd_bench.__version__,
        "baseline": BASELINE,
        "better": METRIC[table.metric].better,
        "caption": caption_sentences(table),
        "caveats": caveats(table),
        "kinds": list(dict.fromkeys(_kind(table, row) for row in table.rows)),
        "columns": [_column(column, METRIC[table.metric]) for column in table.columns],
        "rows": [
            {"label": row, "kind": _kind(table, row), "group": str(table.groups[row])}
            for row in table.rows
        ],
        "cells": _cells(table, places),
        "runs": [plain[folder] for folder in shown],
        "epochs": list(epochs),
    }


def _kind(table: Table, row: str) -> str:
    return HEADINGS.get(table.groups[row].kind, METHODS)


def _column(column: Column, metric: Metric) -> Plain:
    """A column; `spread` * sqrt(2 / n) is half the interval of a difference over n seeds."""
    deviation = column.deviation
    teachers = column.teachers if metric.is_accuracy else ()
    return {
        "label": column.label,
        "dataset": column.dataset,
        "pair": column.pair,
        "recipe": column.recipe,
        "digits": column.digits,
        "teachers": [round(accuracy, 2) for accuracy in teachers],
        "spread": deviation and half_width(deviation, 2, 2),
    }


def _cells(table: Table, places: Mapping[str, int]) -> list[list[Plain | None]]:
    """The cells, row by row; None for a missing cell."""
    in_cell = defaultdict(list)
    keys = zip(table.runs["row"], table.runs["column"], strict=True)
    for key, seed, folder in zip(keys, table.runs["seed"], table.runs["folder"], strict=True):
        in_cell[key].append((int(seed), places[folder]))
    return [
        [
            _cell(
                table.cells[key],
                column.digits,
                [place for _, place in sorted(in_cell[key])],
                is_unlike=row in column.unlike,
            )
            if (key := (row, column.label)) in table.cells
            else None
            for column in table.columns
        ]
        for row in table.rows
    ]


def _cell(cell: Cell, digits: int, runs: list[int], *, is_unlike: bool) -> Plain:
    delta = cell.delta
    return {
        "score": cell_score(cell, digits),
        "difference": difference(cell, digits),
        "mean": cell.mean,
        "values": cell.values,
        "half": delta and delta.half_width,
        "effect": cell.effect,
        "bold": cell.bold,
        "unproven": cell.unproven,
        "unlike": is_unlike,  # varies more than the column's pooled deviation
        "failed": cell.failed,
        "runs": runs,
    }


def _run(run: Run, start: Path, epochs: dict[tuple[int, ...], int]) -> Plain:
    record, curve = run.record, run.curve
    teacher = record.teacher
    return {
        "seed": record.seed,
        "last": record.accuracy.last,
        "best": record.accuracy.best,
        "best_epoch": record.accuracy.best_epoch,
        "teacher": ", ".join(teacher.folders) if teacher else "",
        "teacher_accuracy": teacher and teacher.accuracy,
        "seconds": round(record.seconds, 1),
        "folder": record.folder,
        "link": escape.link(run.folder / RESULT, start),
        "epochs": None if curve is None else epochs.setdefault(curve.epochs, len(epochs)),
        "curve": [] if curve is None else [round(value, 2) for value in curve.accuracies],
    }


def _failure(failure: Failure) -> Plain:
    seed = int(failure.folder.rpartition("/seed")[2])
    return {"seed": seed, "folder": failure.folder, "reason": failure.reason, "curve": []}

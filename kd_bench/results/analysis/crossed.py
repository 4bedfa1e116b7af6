"""Crossed seeds of student and teacher: columns that differ only in the teacher's seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from kd_bench.results.analysis.statistics import Variances, crossed_variances


@dataclass(frozen=True)
class Crossed:
    """Columns with the same student seeds and different teacher seeds."""

    label: str  # of the first column
    rows: list[str]  # whose runs are crossed
    sizes: list[tuple[int, int]]  # numbers of student and teacher seeds, of each row
    variances: Variances


def crossed_columns(runs: pd.DataFrame) -> list[Crossed]:
    """The sets of columns in which a row has at least two seeds of both student and teacher.

    Args:
        runs: as from `select_runs`, sorted by folder.
    """
    done = runs[~runs["failed"]]
    identities = done["identity_key"].map(json.loads)
    teachers = identities.map(lambda identity: identity.get("teacher", {}))
    # Ensembles of neighbouring seeds share teachers, and later jobs of a chain vary with its first.
    is_taught_once = teachers.map(lambda teacher: "seed" in teacher) & ~identities.map(
        lambda identity: "taught_by" in identity
    )
    taught = done.assign(
        teacher_seed=teachers.map(lambda teacher: teacher.get("seed")),
        teacher_but_seed=teachers.map(_without_seed),
    )[is_taught_once]
    found = []
    for _, alike in taught.groupby(["setting_key", "teacher_but_seed", "pair"]):
        if alike["teacher_seed"].nunique() < 2:  # the usual case; pandas takes 5 ms per table
            continue
        tables = {row: _table(same) for row, same in alike.groupby("row")}
        tables = {row: table for row, table in tables.items() if min(table.shape) > 1}
        variances = crossed_variances([table.to_numpy().tolist() for table in tables.values()])
        if variances:
            sizes = [(len(table), len(table.columns)) for table in tables.values()]
            found.append(Crossed(min(alike["column"]), list(tables), sizes, variances))
    return found


def _without_seed(teacher: Mapping[str, object]) -> str:
    return json.dumps({key: value for key, value in teacher.items() if key != "seed"})


def _table(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by seed of the student and the teacher, for student seeds that all teachers have."""
    return runs.pivot_table("accuracy", "seed", "teacher_seed").dropna()

"""Labels of rows: a method, and the values in which its rows of one table differ."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kd_bench.config.convert import to_plain
from kd_bench.config.identity import flatten
from kd_bench.results.labels import format_value, method_label

SECTION = "method"


def with_row_labels(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the label of their row as "row", and the values in it, by path, as "named".

    A method's rows all name the values that any of them changes. So the row of its file has a
    label like those beside it: "st (temperature=4)" next to "st (temperature=8)".

    Args:
        runs: all runs of a table, with their "method", "config" and "changed".
    """
    named: dict[Any, dict[str, Any]] = {}
    for _, same in runs.groupby("method"):
        changes = [_of_method(changed) for changed in same["changed"]]
        of_file = _values_of_file(same, sorted(set().union(*changes)))
        for index, own in zip(same.index, changes, strict=True):
            named[index] = of_file | own
    labels = {i: method_label(runs.at[i, "config"], values) for i, values in named.items()}
    return runs.assign(row=pd.Series(labels), named=pd.Series(named, dtype=object))


def _of_method(changed: dict[str, Any]) -> dict[str, Any]:
    """The changed values of the method."""
    paths = [path for path in changed if path.startswith(f"{SECTION}.")]
    return {path: changed[path] for path in paths if path != f"{SECTION}.name"}


def _values_of_file(runs: pd.DataFrame, paths: list[str]) -> dict[str, Any]:
    """The values at some paths in those runs of a method that did not change them.

    A value that is not the same in all of them, such as a weight that a dataset sets, is left out:
    the row of the method's file spans all datasets.
    """
    values = {}
    for path in paths:
        configs = [
            c
            for c, changed in zip(runs["config"], runs["changed"], strict=True)
            if path not in changed
        ]
        found = [flatten({SECTION: to_plain(config.method)}).get(path) for config in configs]
        if len({format_value(value) for value in found}) == 1 and found[0] is not None:
            values[path] = found[0]
    return values

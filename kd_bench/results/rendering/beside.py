"""Published accuracies next to a table's columns, as text that does not affect its statistics."""

from __future__ import annotations

from collections.abc import Sequence

from kd_bench.config.schema import BASELINE
from kd_bench.results.published.values import Published, Source
from kd_bench.results.table import Column, Table

HEADING = "published"


def published_for(
    table: Table, values: Sequence[Published], methods: Sequence[str] = ()
) -> list[Published]:
    """The values for the table's datasets and pairs.

    Args:
        table: the table.
        values: as from `read_published`.
        methods: only these, with any plug-ins, and the baseline; all if empty.
    """
    pairs = {(column.dataset, column.pair) for column in table.columns}
    return [
        value
        for value in values
        if (value.dataset, value.pair) in pairs
        and (not methods or value.method.split(" + ")[0] in (BASELINE, *methods))
    ]


def sources(table: Table) -> list[Source]:
    """The sources of the table's published values, in the order of their numbers, from 1."""
    return list(dict.fromkeys(value.source for value in table.published))


def row_of(table: Table, method: str) -> str | None:
    """The row of a method's published value; None if the value gets a row of its own.

    It also does if the table has several versions of the method, since none of them is the match.
    """
    rows = [row for row, name in table.rows.items() if name == method]
    return rows[0] if len(rows) == 1 else None


def rows_of_their_own(table: Table) -> list[str]:
    """The methods with published values that do not match exactly one row of the table."""
    methods = dict.fromkeys(value.method for value in table.published)
    return [method for method in methods if row_of(table, method) is None]


def has_published(table: Table, column: Column) -> bool:
    """Whether published values follow a column: once for a pair, after the last of its columns."""
    alike = [c for c in table.columns if (c.dataset, c.pair) == (column.dataset, column.pair)]
    return column is alike[-1] and bool(_of_column(table, column))


def published_texts(table: Table, column: Column) -> dict[str, str]:
    """By method: `74.92 [1]`, `91.96 ± 0.11 [2]`; several sources are separated by commas."""
    numbers = {source: number for number, source in enumerate(sources(table), start=1)}
    texts: dict[str, list[str]] = {}
    for value in _of_column(table, column):
        sd = "" if value.sd is None else f" ± {value.sd:.2f}"
        text = f"{value.accuracy:.2f}{sd} [{numbers[value.source]}]"
        texts.setdefault(value.method, []).append(text)
    return {method: ", ".join(of_method) for method, of_method in texts.items()}


def _of_column(table: Table, column: Column) -> list[Published]:
    pair = (column.dataset, column.pair)
    return [value for value in table.published if (value.dataset, value.pair) == pair]


def sentence(table: Table) -> str:
    """A sentence for the caption about the published values; empty without any."""
    if not table.published:
        return ""
    named = "; ".join(f"[{number}] {text}" for number, text in enumerate(sources(table), start=1))
    return (
        "Published values come from their sources' own data, recipes and teachers, and do not enter"
        f" any mean, difference, rank or mark here: {named}."
    )

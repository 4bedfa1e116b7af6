"""The caption of a table: the protocol of its numbers in sentences, and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

import pandas as pd

from kd_bench.config.schema import BASELINE
from kd_bench.results.budget import RECIPE
from kd_bench.results.table import Cell, Column, Table
from kd_bench.utils.text.formatting import format_duration, pluralize

EPOCH = {
    "last": "at the last epoch",
    "best": "at the best test epoch (test-selected, hence biased upwards)",
    "best-val": "at the best epoch on the validation images",
}
SHORT_EPOCH = {
    "last": "last epoch",
    "best": "best test epoch",
    "best-val": "best validation epoch",
}
METRIC_NAME = {"last": "last", "best": "best (test-selected)", "best-val": "best-val"}
MANY = 3  # entries of a list that a caption shows; the rest is counted


def _listed(names: Iterable[str], most: int | None = None) -> str:
    names = list(names)
    shown = names[:most]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def _distinct(runs: pd.DataFrame, key: str) -> str:
    return _listed(sorted({str(value) for value in runs[key].dropna()}))


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{edge(values):.{digits}f}" for edge in (min, max))
    return low if low == high else f"{low} to {high}"


def _images(columns: Iterable[Column]) -> str:
    """The datasets and their sizes: "digits (1,297 test images, 500 for training)"."""
    texts = []
    for column in columns:
        if column.images:
            count = column.images.validation
            validation = f", {count:,} for validation" if count else ""
            texts.append(
                f"{column.dataset} ({pluralize(column.images.test, 'test image')},"
                f" {column.images.train:,} for training{validation})"
            )
    return ", ".join(dict.fromkeys(texts))


def _protocol(table: Table) -> str:
    done = table.runs[~table.runs["failed"]]
    seeds = [str(seed) for seed in sorted(set(done["seed"]))]
    modes = " and ".join(sorted(set(done["speed"])))
    return (
        f"Accuracy in percent of all test images {EPOCH[table.metric]}, mean ± sample SD (n runs;"
        f" seed{'s' * (len(seeds) > 1)} {_listed(seeds)}). Data {_images(table.columns)};"
        f" recipe {_distinct(done, 'recipe_text')};"
        f" speed mode {modes}; device {_distinct(done, 'device')};"
        f" kd_bench {_distinct(done, 'kd_bench')}, torch {_distinct(done, 'torch')}."
    )


def _cost(table: Table) -> str:
    """The training time of the runs in the table, without their teachers."""
    runs = table.runs[~table.runs["failed"]].drop_duplicates("folder")
    low, high = (f"{edge(runs['images_per_second']):,.0f}" for edge in (min, max))
    rate = low if low == high else f"{low} to {high}"
    total = format_duration(runs["seconds"].sum())
    which = "these runs" if len(runs) > 1 else "this run"
    return f"Total training time of {which}: {total}, at {rate} images/s per run."


def _has_deltas(table: Table) -> bool:
    return any(cell.delta for cell in table.cells.values())


def _interval(table: Table) -> str:
    """Half the width of the 95 % interval of a typical difference, by column: "1.4 to 2.1"."""
    by_column = [_half_widths(table.under(column).values()) for column in table.columns]
    medians = [median(widths) for widths in by_column if widths]
    return _range(medians, min(column.digits for column in table.columns)) if medians else ""


def _deltas(table: Table) -> str:
    """What a signed number means, and its uncertainty."""
    if not _has_deltas(table):
        return ""
    text = "A signed number is the mean difference from the baseline in points, paired by seed"
    if not (interval := _interval(table)):
        return f"{text}; with one seed per cell, its uncertainty is unknown."
    digits = min(column.digits for column in table.columns)
    pools = [column.deviation for column in table.columns if column.deviation]
    return (
        f"{text}; its 95 % interval is about ± {interval} (SD of runs pooled over a"
        f" column: {_range([pool.sd for pool in pools], digits)},"
        f" {_degrees([pool.df for pool in pools])} of freedom; runs treated as independent)."
    )


def _degrees(numbers: Sequence[int]) -> str:
    text = _range(numbers, 0)
    return f"{text} degree{'s' * (text != '1')}"


def _half_widths(cells: Iterable[Cell]) -> list[float]:
    deltas = [cell.delta for cell in cells if cell.delta]
    return [delta.half_width for delta in deltas if delta.half_width is not None]


def _boldness(table: Table) -> str:
    """What bold means, and which columns have none."""
    compared = [column for column in table.columns if len(table.under(column)) > 1]
    plain = [c.label for c in compared if not any(cell.bold for cell in table.under(c).values())]
    if not compared:
        return ""
    if len(plain) == len(compared):
        return (
            "No method is marked as best: the seeds show no significant differences from the best."
        )
    among = "a column and budget" if len(set(table.budgets.values())) > 1 else "a column"
    text = (
        f"Bold: the best of {among} and every method not significantly different from it"
        " (95 % interval of the difference, same SD, not corrected for the number of methods)."
    )
    if not plain:
        return text
    labels = _listed(plain, MANY)
    return f"{text} The seeds show no significant differences from the best in {labels}."


def _budgets(table: Table) -> str:
    """What it means to be below the name of another training budget than the recipe's."""
    if set(table.budgets.values()) == {RECIPE}:
        return ""
    return (
        "Below the name of another training budget are methods that show the student several views"
        " of each image in a step, or that have an init phase, which adds epochs. They are ranked"
        " only among themselves, and their differences from the baseline include the effect of the"
        " budget."
    )


def _threads(table: Table) -> str:
    """Where runs of different numbers of threads are."""
    done = table.runs[~table.runs["failed"]]
    if done["threads"].nunique() < 2:
        return ""
    return "The number of threads changes results bitwise, so each has columns of its own."


def _teacher_sentence(table: Table) -> str:
    if not any(column.teachers for column in table.columns):
        return ""
    return "Each column uses one teacher (one seed): its variance is not in the ±."


def _added_parameters(table: Table) -> str:
    """Whose students are larger at inference than their model."""
    done = table.runs[~table.runs["failed"]]
    larger = done[done["added_parameters"] > 0].groupby("row", sort=False)["added_parameters"]
    texts = [f"{row} (+{_range(sizes, 0)})" for row, sizes in larger]
    return f"Parameters at inference beyond the model's: {_listed(texts)}." if texts else ""


def caption_sentences(table: Table) -> list[str]:
    """The protocol of the numbers, in sentences."""
    sentences = [
        _protocol(table),
        _cost(table),
        _threads(table),
        _deltas(table),
        _boldness(table),
        _budgets(table),
        _teacher_sentence(table),
        _added_parameters(table),
        table.note,
    ]
    return [sentence for sentence in sentences if sentence]


def short_caption(table: Table, mark: str) -> str:
    """What the numbers are, for two lines of a terminal, and how to get the whole caption.

    Args:
        table: the table.
        mark: of the best scores.
    """
    text = f"Test accuracy in % ({SHORT_EPOCH[table.metric]}), mean ± SD (runs)"
    if _has_deltas(table):
        interval = _interval(table)
        uncertainty = f" (95 %: ± {interval})" if interval else ""
        text += f", points over the baseline{uncertainty}"
    if any(cell.bold for cell in table.cells.values()):
        text += f", best or close: {mark}"
    return f"{text}. More: kd-bench table --format markdown"


def _mixed(runs: pd.DataFrame, key: str) -> list[str]:
    """The cells whose runs differ in a key: "st in digits a-b (abc1234, def5678)"."""
    texts = []
    for (row, column), cell in runs.groupby(["row", "column"]):
        values = sorted(set(cell[key]))
        if len(values) > 1:
            texts.append(f"{row} in {column} ({', '.join(value[:12] for value in values)})")
    return texts


def _without_baseline(table: Table) -> list[str]:
    cells = {column.label: table.under(column) for column in table.columns}
    return [
        label
        for label, under in cells.items()
        if any(cell.n for cell in under.values()) and not (BASELINE in under and under[BASELINE].n)
    ]


def caveats(table: Table) -> list[str]:
    """Warnings for the reader of the numbers, in sentences."""
    done = table.runs[~table.runs["failed"]]
    changed = done[done["dirty"].astype(bool)]
    dirty = dict.fromkeys(f"{row} in {column}" for row, column in changed[["row", "column"]].values)
    several = [f"{c.label} ({len(c.teachers)})" for c in table.columns if len(c.teachers) > 1]
    failed = [f"{failure.folder} ({failure.reason})" for failure in table.unplaced]
    warnings = {
        "runs of several commits in one cell": _mixed(done, "commit"),
        "runs of several versions of kd_bench in one cell": _mixed(done, "kd_bench"),
        "runs of several versions of torch in one cell": _mixed(done, "torch"),
        "runs of several numbers of threads in one cell": _mixed(done, "threads"),
        "runs with uncommitted changes of the code": list(dirty),
        "several teachers in one column": several,
        "no finished baseline, hence no differences from it": _without_baseline(table),
        "failed, and in no cell": failed,
    }
    return [f"{text}: {_listed(names, MANY)}." for text, names in warnings.items() if names]

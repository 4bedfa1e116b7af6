"""The caption of a table: the protocol behind its numbers in sentences, and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median, median_low

import pandas as pd

from kd_bench.config.schema import BASELINE
from kd_bench.results.analysis.budget import RECIPE
from kd_bench.results.analysis.crossed import Crossed
from kd_bench.results.analysis.groups import HEADINGS, Kind
from kd_bench.results.analysis.statistics import detectable
from kd_bench.results.options import METRIC
from kd_bench.results.rendering import beside
from kd_bench.results.select import METHOD
from kd_bench.results.study import Study
from kd_bench.results.table import Cell, Column, Table
from kd_bench.utils.text.formatting import format_duration, pluralize

EFFECT_MARKS = {1: "↑", -1: "↓", 0: ""}  # for significant differences from the baseline
UNPROVEN_MARK = "†"
MANY = 3  # entries of a list that a caption shows; it counts the rest


def listed(names: Iterable[str], most: int | None = None) -> str:
    """The first `most` names, and the number of others."""
    names = list(names)
    shown = names[:most]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def _distinct(runs: pd.DataFrame, key: str) -> str:
    return listed(sorted({str(value) for value in runs[key].dropna()}))


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
        f"{METRIC[table.metric].text}, mean ± sample SD (n runs;"
        f" seed{'s' * (len(seeds) > 1)} {listed(seeds)}). Data {_images(table.columns)};"
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
    """The meaning of signed numbers, and their uncertainty."""
    if not _has_deltas(table):
        return ""
    metric = METRIC[table.metric]
    text = f"A signed number is the mean difference from the baseline in {metric.unit}"
    text += ", paired by seed"
    if not metric.better:
        return f"{text}."
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


def _effects(table: Table) -> str:
    """The meaning of arrows, and which true differences get one."""
    if not _interval(table):
        return ""
    count = max(map(len, _compared(table).values()))
    of_column = " of a column" if len(table.columns) > 1 else ""
    together = f"all {count} rows{of_column}"
    corrected = f" (5 % for {together} together, Holm)" if count > 1 else " (5 %)"
    return (
        f"{EFFECT_MARKS[1]} and {EFFECT_MARKS[-1]} mark significant differences{corrected}; the"
        f" smallest true difference detected with 80 % power is {_detectable(table, count)}"
        " (noncentral t)."
    )


def _compared(table: Table) -> dict[str, list[Cell]]:
    """By column, the cells that are compared with its baseline."""
    return {
        column.label: [
            cell
            for row, cell in table.under(column).items()
            if cell.delta and row not in column.unlike
        ]
        for column in table.columns
    }


def _detectable(table: Table, count: int) -> str:
    """The smallest differences: "0.75 points for one method chosen beforehand, ..."."""
    alone, among = [], []
    for column in table.columns:
        cells = _compared(table)[column.label]
        if cells and column.deviation:
            pairs = median_low(cell.delta.pairs for cell in cells if cell.delta)
            alone.append(detectable(column.deviation, pairs, pairs))
            among.append(detectable(column.deviation, pairs, pairs, len(cells)))
    unit = METRIC[table.metric].unit
    digits = min(column.digits for column in table.columns)
    if count == 1:
        return f"{_range(alone, digits)} {unit}"
    return (
        f"{_range(alone, digits)} {unit} for one method chosen beforehand, and"
        f" {_range(among, digits)} for any of them"
    )


def _unlike(table: Table) -> str:
    """The rows that are neither pooled nor tested."""
    rows = list(dict.fromkeys(row for c in table.columns for row in table.rows if row in c.unlike))
    if not rows:
        return ""
    it, vary = ("it is", "varies") if len(rows) == 1 else ("they are", "vary")
    return (
        f"{listed(rows)} {vary} more over the seeds than the other rows (largest variance, F test,"
        f" 1 %), so {it} neither pooled nor tested."
    )


def _boldness(table: Table) -> str:
    """The meaning of bold, and which columns have none."""
    compared = [column for column in table.columns if len(table.under(column)) > 1]
    plain = [c.label for c in compared if not any(cell.bold for cell in table.under(c).values())]
    if not compared or not _has_deviation(table):
        return ""
    has_baseline = _has_deltas(table)
    if len(plain) == len(compared):
        return f"No method is marked as best: {_why_none_is_best(table, has_baseline)}."
    ranked = {group for group in table.groups.values() if group.kind is not Kind.CONTROL}
    among = "a column and group" if len(ranked) > 1 else "a column"
    text = (
        f"Bold: the best of {among}, if it is significantly better than the baseline, and every"
        " method that is not significantly different from it (5 % for all their pairs together,"
        " Holm)."
        if has_baseline
        else f"Bold: the best of {among} and every method that is not significantly different from"
        " it, if some method is (5 % for all their pairs together, Holm)."
    )
    return f"{text} Nothing is bold in {listed(plain, MANY)}." if plain else text


def _why_none_is_best(table: Table, has_baseline: bool) -> str:
    if not has_baseline:
        return "no method differs significantly from the best"
    if any(cell.effect == 1 for cell in table.cells.values()):
        return (
            "those that are significantly better than the baseline have failed seeds, or are not"
            " ranked with another one"
        )
    return "none is significantly better than the baseline"


def _has_deviation(table: Table) -> bool:
    return any(column.deviation for column in table.columns)


def _budgets(table: Table) -> str:
    """The meaning of headings of training budgets other than the recipe's."""
    if {group.budget for group in table.groups.values()} == {RECIPE}:
        return ""
    return (
        "Methods under the heading of another training budget run the student on several views of"
        " each image per step, or have an init phase, which adds epochs. They are ranked only among"
        " themselves, and their differences from the baseline include the effect of the budget."
    )


def _kinds(table: Table) -> str:
    """The meaning of the headings "no labels", "no teacher" and "controls"."""
    kinds = {group.kind for group in table.groups.values()}
    apart = [f"'{HEADINGS[kind]}'" for kind in sorted(kinds - {Kind.METHOD, Kind.CONTROL})]
    sentences = []
    if apart:
        sentences.append(
            f"Methods under {listed(apart)} train without these and are ranked only among"
            " themselves."
        )
    if Kind.CONTROL in kinds:
        sentences.append("Controls are not methods: they set the bar that a method has to beat.")
    if any(cell.unproven for cell in table.cells.values()):
        sentences.append(
            f"{UNPROVEN_MARK}: not significantly better than the best control of the column (5 %"
            " for all methods together, Holm)."
        )
    return " ".join(sentences)


def _tuned(table: Table) -> str:
    """How the values of tuned rows were chosen: trials, knobs and their ranges."""
    runs = table.runs.dropna(subset="study")
    if not len(runs):
        return ""
    trials = _distinct(runs.assign(trials=[len(s.trials) for s in runs["study"]]), "trials")
    images = _distinct(runs.assign(images=[s.validation for s in runs["study"]]), "images")
    knobs = {
        row: listed(dict.fromkeys(_knobs(study) for study in same))
        for row, same in runs.groupby("row", sort=False)["study"]
    }
    texts = [f"{row}: {knobs[row]}" for row in table.rows if row in knobs]
    return (
        f"The values of tuned rows are chosen by accuracy on {images} validation images, with a"
        f" separate study for each seed: the best of {trials} trials (scrambled Sobol points),"
        " which train without these images; the runs in the table train with them. Compare tuned"
        f" rows with the tuned baseline. Ranges: {'; '.join(texts)}."
    )


def _knobs(study: Study) -> str:
    """The knobs of a study: "losses.st.temperature 1 to 10 and weights.st 0.1 to 10"."""
    return " and ".join(
        f"{path.removeprefix(METHOD)} {each.low:g} to {each.high:g}"
        for path, each in study.space.items()
    )


def _threads(table: Table) -> str:
    """How runs with different numbers of threads are separated."""
    done = table.runs[~table.runs["failed"]]
    if done["threads"].nunique() < 2:
        return ""
    return "The number of threads changes results bitwise, so each number has its own columns."


def _teacher_sentence(table: Table) -> str:
    """The number of teachers behind a column, and behind the rows with teachers of their own."""
    if not any(column.teachers for column in table.columns):
        return ""
    done = table.runs[~table.runs["failed"]]
    own = done[done["has_own_teachers"].astype(bool)].groupby("row", sort=False)["taught_by"]
    rows = [f"{row} ({pluralize(max(map(len, taught)), 'teacher')})" for row, taught in own]
    if not rows:
        return "Each column uses one teacher (one seed): its variance is not in the ±."
    return (
        "Each column uses one teacher (one seed), except for rows with teachers of their own:"
        f" {listed(rows)}, the same ones for all seeds. Their variance is not in the ±."
    )


def _crossed(table: Table) -> str:
    """The variances of columns whose seeds of student and teacher are crossed."""
    digits = min(column.digits for column in table.columns)
    texts = [_crossed_text(crossed, digits) for crossed in table.crossed]
    if not texts:
        return ""
    negative = [v for c in table.crossed for v in (c.variances.student, c.variances.teacher)]
    note = "; an estimated variance below 0 is set to 0" if min(negative) < 0 else ""
    return (
        "Seeds of student and teacher are crossed in"
        f" {listed(texts)} (two-way analysis of variance with random effects{note})."
    )


def _crossed_text(crossed: Crossed, digits: int) -> str:
    sizes = listed(sorted({f"{students} × {teachers}" for students, teachers in crossed.sizes}))
    student, teacher, both = (
        f"{max(0.0, variance) ** 0.5:.{digits}f}"
        for variance in (
            crossed.variances.student,
            crossed.variances.teacher,
            crossed.variances.both,
        )
    )
    return (
        f"{crossed.label} ({sizes} seeds of {listed(crossed.rows, MANY)}): SD {student} between"
        f" seeds of the student, {teacher} between seeds of the teacher, {both} of the combination"
    )


def _added_parameters(table: Table) -> str:
    """The rows whose students have more parameters at inference than their model."""
    done = table.runs[~table.runs["failed"]]
    larger = done[done["added_parameters"] > 0].groupby("row", sort=False)["added_parameters"]
    texts = [f"{row} (+{_range(sizes, 0)})" for row, sizes in larger]
    return f"Parameters at inference beyond the model's: {listed(texts)}." if texts else ""


def caption_sentences(table: Table) -> list[str]:
    """The protocol behind the numbers, in sentences."""
    sentences = [
        _protocol(table),
        _cost(table),
        _threads(table),
        _deltas(table),
        _effects(table),
        _unlike(table),
        _boldness(table),
        _budgets(table),
        _kinds(table),
        _tuned(table),
        _teacher_sentence(table),
        _crossed(table),
        _added_parameters(table),
        beside.sentence(table),
        table.note,
    ]
    return [sentence for sentence in sentences if sentence]


def short_caption(table: Table, mark: str) -> str:
    """What the numbers are, in two lines for a terminal, and how to get the whole caption.

    Args:
        table: the table.
        mark: marks the best scores.
    """
    metric = METRIC[table.metric]
    text = f"{metric.short}, mean ± SD (runs)"
    if _has_deltas(table):
        interval = _interval(table)
        marks = "".join(EFFECT_MARKS.values())
        marked = f"; {marks} significant" if any(c.effect for c in table.cells.values()) else ""
        uncertainty = f" (95 %: ± {interval}{marked})" if interval else ""
        text += f", {metric.unit} over baseline{uncertainty}"
    if any(cell.bold for cell in table.cells.values()):
        text += f", best: {mark}"
    if any(cell.unproven for cell in table.cells.values()):
        text += f", not above controls: {UNPROVEN_MARK}"
    if table.published:
        text += ", [n]: source of a published value"
    return f"{text}. More: {table.command or 'kd-bench table'} --format markdown"


def _mixed(runs: pd.DataFrame, key: str) -> list[str]:
    """The cells whose runs differ in a key: "st in digits a-b (abc1234, def5678)"."""
    if runs[key].nunique() < 2:  # the usual case; grouping the runs of a large table is slow
        return []
    by_cell = runs.groupby(["row", "column"])[key].unique()
    return [
        f"{row} in {column} ({', '.join(value[:12] for value in sorted(values))})"
        for (row, column), values in by_cell.items()
        if len(values) > 1
    ]


def _without_baseline(table: Table) -> list[str]:
    if METRIC[table.metric].needs_teacher:
        return []
    cells = {column.label: table.under(column) for column in table.columns}
    return [
        label
        for label, under in cells.items()
        if any(cell.n for cell in under.values()) and not (BASELINE in under and under[BASELINE].n)
    ]


def caveats(table: Table) -> list[str]:
    """Warnings about the numbers, in sentences."""
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
        "runs with uncommitted code changes": list(dirty),
        "several teachers in one column": several,
        f"left out, without {table.metric} ({METRIC[table.metric].why_none})": table.lacking,
        "no finished baseline, so no differences from it": _without_baseline(table),
        "failed, and not in any cell": failed,
    }
    return [f"{text}: {listed(names, MANY)}." for text, names in warnings.items() if names]

"""Assigns runs to the columns and rows of a table.

A column compares methods under equal conditions. Each run has three keys, which are JSON of parts
of its identity:

- `setting_key`: everything except method, teacher and seed: dataset, student, recipe, execution;
- `teacher_model_key`: the teacher's model; "" for a run without a teacher;
- `teacher_key`: the whole teacher, with its recipe and seed or its checkpoint; "" for a run
  without a teacher, or whose teacher is trained together with the student.

A run with a `teacher_key` belongs to the column of its setting and teacher. A run whose teacher is
trained together with the student belongs to all columns with its setting and teacher model. A run
without a teacher (a baseline) belongs to all columns with its setting. A run without such a column
gets its own, unless that column would contain only runs that were needed as teachers.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from kd_bench.config.convert import to_plain
from kd_bench.config.identity import EXECUTION_KEYS, execution_text, flatten
from kd_bench.config.schema import BASELINE
from kd_bench.results.analysis.budget import budget_of
from kd_bench.results.analysis.groups import Group, kind_of
from kd_bench.results.labels import (
    differences,
    format_value,
    in_brackets,
    method_label,
    method_name,
    natural_key,
    non_method_changes,
)
from kd_bench.results.options import METRIC, METRICS, check_metric
from kd_bench.results.record import Failure, Record
from kd_bench.utils.errors import require
from kd_bench.utils.text.formatting import pluralize

SETTING = ("dataset", "model", "recipe", *EXECUTION_KEYS)  # the parts of an identity
TUNED = "tuned"  # marks rows whose values were chosen on validation images
METHOD = "method."  # prefix of the paths of a method's values
COLUMN_KEYS = ["setting_key", "teacher_model_key", "teacher_key", "pair"]

Line = dict[Hashable, Any]  # a run, as a row of the data frame


def _key(part: object) -> str:
    return json.dumps(part, sort_keys=True)


def _describe(job: Record | Failure) -> Line:
    """Everything about a job that determines its row and column."""
    config, identity, changed = job.config, job.identity, job.changed
    if config is None or identity is None or changed is None:
        raise TypeError(f"the job of {job.folder} is unknown")
    study = job.study
    if study is not None:  # the run goes into the column of runs with the published values
        identity, changed = study.identity, study.without_knobs(changed)
    teacher = identity.get("teacher", {})
    is_pretrained = "seed" in teacher or "checkpoint" in teacher
    return {
        "folder": job.folder,
        "dataset": config.dataset.name,
        "student": config.model.name,
        "pair": job.folder.split("/")[1],
        "recipe": config.recipe.name,
        "recipe_text": f"{config.recipe.name} ({pluralize(config.recipe.epochs, 'epoch')})",
        "speed": execution_text(identity),
        "method": config.method.name,
        # With its plug-ins; tuned and published values are separate rows
        "variant": in_brackets(method_name(config.method), [TUNED] if study else []),
        "config": config,
        "setting_changes": non_method_changes(config, changed, identity),
        "changed": changed,
        "study": study,
        "group": Group(kind_of(config.method, identity), budget_of(config.method, None)),
        "seed": config.seed,
        "identity_key": _key(identity | ({"study": study.budget} if study else {})),
        "setting_key": _key({name: identity.get(name) for name in SETTING}),
        "teacher_model_key": _key(teacher["model"]) if teacher else "",
        "teacher_key": _key(teacher) if is_pretrained else "",
    }


def _line(record: Record, metric: str) -> Line:
    line = _describe(record)
    has_own_teachers = "taught_by" in record.identity  # not only the teacher of its column
    teacher = record.teacher if line["teacher_key"] and not has_own_teachers else None
    return line | {
        "failed": False,
        "group": replace(line["group"], budget=record.budget),
        "accuracy": METRIC[metric].value(record),
        "taught_by": record.teacher.folders if record.teacher else [],
        "has_own_teachers": has_own_teachers,
        "teacher_folder": teacher and teacher.folder,
        "teacher_accuracy": teacher and teacher.accuracy,
        "images": record.images,
        "seconds": record.seconds,
        "images_per_second": record.images_per_second,
        "added_parameters": record.parameters["inference"] - record.parameters["student"],
        "data_fingerprint": record.data_fingerprint,
        "device": record.device_name if record.device == "cuda" else record.device,
        "kd_bench": record.versions["kd_bench"],
        "torch": record.versions["torch"],
        "threads": str(record.threads),
        "commit": record.commit or "unknown",
        "dirty": record.dirty,
    }


def with_metric(
    records: Iterable[Record], metric: str
) -> tuple[Sequence[Record], Sequence[Record]]:
    """The records that have a metric, and those that could have it but do not.

    Args:
        records: as from `store.read_records`.
        metric: a name accepted by `options.check_metric`.

    Raises:
        UserError: an unknown metric, or no record has it.
    """
    check_metric(metric)
    chosen = METRIC[metric]
    records = [each for each in records if each.teacher or not chosen.needs_teacher]
    require(len(records) > 0, f"no run has a teacher, which {metric} requires")
    having = [record for record in records if chosen.value(record) is not None]
    require(len(having) > 0, f"no run has {metric}; {chosen.why_none}")
    return having, [record for record in records if chosen.value(record) is None]


def to_frame(records: Iterable[Record], metric: str = METRICS[0]) -> pd.DataFrame:
    """One line per run: its keys and labels, and its value of the metric as "accuracy".

    Args:
        records: as from `with_metric`.
        metric: a name accepted by `options.check_metric`.
    """
    return pd.DataFrame([_line(record, metric) for record in records])


def failed_line(failure: Failure, lines: Sequence[Line]) -> Line | None:
    """A line for a failed job; None if its row and column are unknown.

    They are known if the failure includes its job, or if another seed of the job finished.
    """
    job, _, seed = failure.folder.rpartition("/seed")
    result = {"folder": failure.folder, "seed": int(seed), "failed": True, "accuracy": None}
    if failure.identity is not None:
        return _describe(failure) | result
    sibling = next((line for line in lines if line["folder"].startswith(f"{job}/")), None)
    return None if sibling is None else sibling | result


def assign_columns(runs: pd.DataFrame, teachers: Iterable[str] = ()) -> pd.DataFrame:
    """The runs with their final column keys, one line for each column that a run belongs to.

    Args:
        runs: as from `to_frame`.
        teachers: folders of the runs that were needed as teachers.
    """
    has_teacher = runs["teacher_model_key"] != ""
    is_pretrained = runs["teacher_key"] != ""
    columns = runs[is_pretrained & ~_only_taught(runs, set(teachers))]
    columns = _add_to_columns(
        columns, runs[has_teacher & ~is_pretrained], ["setting_key", "teacher_model_key"]
    )
    assigned = _add_to_columns(columns, runs[~has_teacher], ["setting_key"])
    is_alone = assigned["teacher_model_key"] == ""
    is_wanted = is_alone & ~assigned["folder"].isin(set(teachers))
    wanted_settings = assigned.loc[is_wanted, "setting_key"]
    return assigned[~is_alone | assigned["setting_key"].isin(wanted_settings)]


def _only_taught(runs: pd.DataFrame, teachers: set[str]) -> pd.Series:
    """Whether all runs of a run's setting and teacher were only needed as teachers."""
    is_teacher = runs["folder"].isin(teachers)
    return is_teacher.groupby([runs["setting_key"], runs["teacher_key"]]).transform("all")


def _add_to_columns(assigned: pd.DataFrame, runs: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Add runs to `assigned`, each to all columns with its key, or else to a column of its own."""
    columns = assigned[COLUMN_KEYS].drop_duplicates()
    own = [name for name in COLUMN_KEYS if name not in key]
    shared = runs.drop(columns=own).merge(columns, on=key)
    alone = runs[~runs["folder"].isin(shared["folder"])]
    return pd.concat([assigned, shared, alone], ignore_index=True)


def _with_column_labels(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the label of their column as "column"."""
    labels = _column_labels(runs)
    keys = zip(runs["setting_key"], runs["teacher_key"], runs["pair"], strict=True)
    return runs.assign(column=[labels[key] for key in keys])


def _column_labels(runs: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """A label for each (setting_key, teacher_key, pair), with details only if needed."""
    varying = [kind for kind in ("recipe", "speed") if runs[kind].nunique() > 1]
    names, details = {}, {}
    for key, group in runs.groupby(["setting_key", "teacher_key", "pair"]):
        first = group.iloc[0]
        names[key] = f"{first['dataset']} {first['pair'].removeprefix('none-')}"
        changes = sorted(set().union(*group["setting_changes"]))
        details[key] = [first[kind] for kind in varying] + changes
    labels = {key: in_brackets(names[key], details[key]) for key in names}
    for label in set(labels.values()):
        alike = [key for key in names if labels[key] == label]
        differing = differences([_column_identity(key) for key in alike])
        for key, texts in zip(alike, differing, strict=True):
            details[key] += [text for text in texts if text not in details[key]]
    return {key: in_brackets(names[key], details[key]) for key in names}


def _column_identity(key: tuple[str, ...]) -> dict[str, Any]:
    setting_key, teacher_key, _ = key
    return json.loads(setting_key) | {"teacher": json.loads(teacher_key or "{}")}


def _with_row_labels(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the label of their row as "row", and the values in it, by path, as "named".

    The labels of all rows of a method with the same plug-ins include the values that any of them
    changes. So the unchanged method gets a label like the others: "st (temperature=4)" next to "st
    (temperature=8)".

    Args:
        runs: all runs of a table, with their "variant", "config" and "changed".
    """
    named: dict[Any, dict[str, Any]] = {}
    for _, same in runs.groupby("variant"):
        changes = [_of_method(changed) for changed in same["changed"]]
        of_file = _values_of_file(same, sorted(set().union(*changes)))
        for index, own in zip(same.index, changes, strict=True):
            named[index] = of_file | own
    tuned = _tuned(runs["study"].dropna())
    labels = {
        i: method_label(runs.at[i, "config"], values, tuned.get(i, ()))
        for i, values in named.items()
    }
    return runs.assign(row=pd.Series(labels), named=pd.Series(named, dtype=object))


def _tuned(studies: pd.Series) -> dict[Hashable, list[str]]:
    """What the labels of tuned runs add, including the number of trials if that differs."""
    trials = {index: len(study.trials) for index, study in studies.items()}
    several = len(set(trials.values())) > 1
    return {
        index: [TUNED, pluralize(number, "trial")] if several else [TUNED]
        for index, number in trials.items()
    }


def _of_method(changed: dict[str, Any]) -> dict[str, Any]:
    """The changed values of the method."""
    paths = [path for path in changed if path.startswith(METHOD)]
    return {path: changed[path] for path in paths if path != f"{METHOD}name"}


def _values_of_file(runs: pd.DataFrame, paths: list[str]) -> dict[str, Any]:
    """The values at some paths in the runs of a method that do not change them.

    A value that differs between them, such as a weight set by a dataset, is left out, since the
    row of the unchanged method spans all datasets.
    """
    values = {}
    for path in paths:
        configs = [
            c
            for c, changed in zip(runs["config"], runs["changed"], strict=True)
            if path not in changed
        ]
        found = [flatten({"method": to_plain(config.method)}).get(path) for config in configs]
        if len({format_value(value) for value in found}) == 1 and found[0] is not None:
            values[path] = found[0]
    return values


def select_runs(runs: pd.DataFrame, choice: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The chosen runs, assigned to columns, with the labels of their column and row.

    Args:
        runs: as from `to_frame`.
        choice: any of `options.FILTERS` -> names. The baseline is always kept, since differences
            are relative to it. A chosen pair or student is shown even if its runs are only
            teachers.

    Raises:
        UserError: no run has a chosen name, or no runs are left.
    """
    choice = {kind: list(names) for kind, names in choice.items() if names}
    shows_teachers = "pair" in choice or "student" in choice
    teachers = set() if shows_teachers else set().union(*runs["taught_by"].dropna())
    for kind in [kind for kind in choice if kind != "pair"]:
        names = _check_names(kind, choice[kind], runs)
        runs = runs[runs[kind].isin([*names, BASELINE] if kind == "method" else names)]
    runs = assign_columns(runs, teachers)
    if "pair" in choice:  # a baseline has the pair of its column, which is known only now
        runs = runs[runs["pair"].isin(_check_names("pair", choice["pair"], runs))]
    filters = ", ".join(f"{kind} {' or '.join(names)}" for kind, names in choice.items())
    require(len(runs) > 0, f"no records of {filters}")
    return _with_row_labels(_with_column_labels(runs.reset_index(drop=True)))


def _check_names(kind: str, names: Sequence[str], runs: pd.DataFrame) -> Sequence[str]:
    known = sorted(set(runs[kind]), key=natural_key)
    for name in names:
        require(name in known, f"no records of {kind} '{name}'; choose from {', '.join(known)}")
    return names

"""Records to lines, one for each run, and lines to the columns that they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from kd_bench.config.identity import EXECUTION_KEYS, execution_text
from kd_bench.results.labels import (
    differences,
    in_brackets,
    method_label,
    natural_key,
    non_method_changes,
)
from kd_bench.results.record import Failure, Record
from kd_bench.utils.errors import require
from kd_bench.utils.formatting import pluralize

BASELINE = "baseline"  # the row that deltas are taken against


METRICS = ("last", "best", "best-val")


FILTERS = ("dataset", "pair", "method", "recipe", "student")


def _key(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _job(job: Record | Failure) -> dict:
    """What a table must know of a job, whether it ended well or not."""
    config, identity, changed = job.config, job.identity, job.changed
    if config is None or identity is None or changed is None:
        raise TypeError(f"the job of {job.folder} is not known")
    teacher = identity.get("teacher", {})
    is_finished = "seed" in teacher or "checkpoint" in teacher  # else it learns along, or is none
    return {
        "folder": job.folder,
        "dataset": config.dataset.name,
        "student": config.model.name,
        "pair": job.folder.split("/")[1],
        "recipe": config.recipe.name,
        "trained": f"{config.recipe.name} ({pluralize(config.recipe.epochs, 'epoch')})",
        "speed": execution_text(identity),
        "method": config.method.name,
        "row": method_label(config, changed),
        "setting": non_method_changes(config, changed, identity),
        "changed": changed,
        "seed": config.seed,
        "job": _key(identity),
        "where": _key(
            {k: identity.get(k) for k in ("dataset", "model", "recipe", *EXECUTION_KEYS)}
        ),
        "beside": _key(teacher["model"]) if teacher else "",
        "behind": _key(teacher) if is_finished else "",
    }


def _accuracy(record: Record, metric: str) -> float:
    value = getattr(record.accuracy, metric.replace("-", "_"))
    require(
        value is not None,
        f"{record.folder} has no {metric}, for it held out no validation images;"
        " choose last, or train with dataset.validation=N",
    )
    return value


def _line(record: Record, metric: str) -> dict:
    job = _job(record)
    teacher = record.teacher if job["behind"] else None
    return job | {
        "failed": False,
        "accuracy": _accuracy(record, metric),
        "teacher_folder": teacher and teacher.folder,
        "teacher_accuracy": teacher and teacher.accuracy,
        "images": record.images,
        "seconds": record.seconds,
        "pace": record.images_per_second,
        "data": record.data_fingerprint,
        "device": record.device_name if record.device == "cuda" else record.device,
        "kd_bench": record.versions["kd_bench"],
        "torch": record.versions["torch"],
        "commit": record.commit or "unknown",
        "dirty": record.dirty,
    }


def to_frame(records: Iterable[Record], metric: str = "last") -> pd.DataFrame:
    """One line per run: what it was, and its accuracy by the metric.

    Args:
        records: as from `reading.read_records`.
        metric: "last", "best" (over test epochs) or "best-val".

    Raises:
        UserError: an unknown metric, or "best-val" of a run without validation images.
    """
    require(metric in METRICS, f"no metric '{metric}'; there are {', '.join(METRICS)}")
    return pd.DataFrame([_line(record, metric) for record in records])


def _failed_line(failure: Failure, lines: Sequence[dict]) -> dict | None:
    """A failed job's line; None where its row and column cannot be told.

    They can where the failure carries its job, or where another seed of the job ended well.
    """
    job, _, seed = failure.folder.rpartition("/seed")
    failed = {"folder": failure.folder, "seed": int(seed), "failed": True, "accuracy": None}
    if failure.identity is not None:
        return _job(failure) | failed
    twin = next((line for line in lines if line["folder"].startswith(f"{job}/")), None)
    return None if twin is None else twin | failed


def assign_columns(runs: pd.DataFrame, teachers: Iterable[str] = ()) -> pd.DataFrame:
    """The runs where they stand: a baseline once for every pair of models it belongs to.

    A run with a finished teacher makes its column. A run whose teacher learns along belongs to all
    columns of its pair, a run without a teacher to all columns of its student, of equal dataset and
    recipe; where there are none they make a column, but not if all that would stand in it are
    `teachers` of others.

    Args:
        runs: as from `tidy`.
        teachers: folders of the runs that are there because somebody needed a teacher.
    """
    finished = runs["behind"] != ""
    learns = ~finished & (runs["beside"] != "")
    placed = _spread(runs[learns], runs[finished], ["where", "beside"])
    free = _spread(runs[runs["beside"] == ""], placed, ["where"])
    alone = free[free["beside"] == ""]
    wanted = alone.loc[~alone["folder"].isin(set(teachers)), "where"]
    return free[(free["beside"] != "") | free["where"].isin(wanted)]


def _spread(runs: pd.DataFrame, placed: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """What is `placed`, and the runs: each in all columns of its key, by itself where are none."""
    columns = placed[["where", "beside", "behind", "pair"]].drop_duplicates()
    shared = runs.drop(columns=[name for name in columns if name not in key]).merge(columns, on=key)
    alone = runs[~runs["folder"].isin(shared["folder"])]
    return pd.concat([placed, shared, alone], ignore_index=True)


def _labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with their column's label as "column"."""
    labels = _column_labels(runs)
    keys = zip(runs["where"], runs["behind"], runs["pair"], strict=True)
    return runs.assign(column=[labels[key] for key in keys])


def _column_labels(runs: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """A label for each (where, behind, pair): dataset, pair, in brackets what tells it apart."""
    several = [kind for kind in ("recipe", "speed") if runs[kind].nunique() > 1]
    names, details = {}, {}
    for key, group in runs.groupby(["where", "behind", "pair"]):
        first = group.iloc[0]
        names[key] = f"{first['dataset']} {first['pair'].removeprefix('none-')}"
        details[key] = [first[kind] for kind in several] + sorted(set().union(*group["setting"]))
    labels = {key: in_brackets(names[key], details[key]) for key in names}
    for label in set(labels.values()):
        alike = [key for key in names if labels[key] == label]
        for key, differing in zip(alike, differences([_parts(key) for key in alike]), strict=True):
            details[key] += [text for text in differing if text not in details[key]]
    return {key: in_brackets(names[key], details[key]) for key in names}


def _parts(key: tuple[str, ...]) -> dict:
    where, behind, _ = key
    return json.loads(where) | {"teacher": json.loads(behind or "{}")}


def select_runs(runs: pd.DataFrame, choice: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The chosen runs, where they stand, with the label of their column as "column".

    Args:
        runs: as from `tidy`.
        choice: any of dataset, pair, method, recipe, student -> names. The baseline is kept
            whatever the method, for deltas are taken against it. A pair or student that is asked
            for shows runs that are otherwise left out as being mere teachers.

    Raises:
        UserError: a name that no run has, or nothing left.
    """
    choice = {kind: list(names) for kind, names in choice.items() if names}
    asked = "pair" in choice or "student" in choice
    teachers = set() if asked else set(runs["teacher_folder"])
    for kind in [kind for kind in choice if kind != "pair"]:
        kept = _known(kind, choice[kind], runs)
        runs = runs[runs[kind].isin([*kept, BASELINE] if kind == "method" else kept)]
    runs = assign_columns(runs, teachers)
    if "pair" in choice:  # a baseline's pair is that of its column, known only now
        runs = runs[runs["pair"].isin(_known("pair", choice["pair"], runs))]
    told = ", ".join(f"{kind} {' or '.join(names)}" for kind, names in choice.items())
    require(len(runs) > 0, f"no records of {told}")
    return _labelled(runs)


def _known(kind: str, names: Sequence[str], runs: pd.DataFrame) -> Sequence[str]:
    there = sorted(set(runs[kind]), key=natural_key)
    for name in names:
        require(name in there, f"no records of {kind} '{name}'; there are {', '.join(there)}")
    return names

"""Jobs before they run: checked, twins merged, teachers put first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kd_bench.config.identity import folder_name
from kd_bench.jobs import resolve
from kd_bench.jobs.job import Job
from kd_bench.jobs.resolve import teacher_changes, teacher_job
from kd_bench.jobs.runner import label
from kd_bench.jobs.validate import validate_jobs
from kd_bench.results.labels import differences, in_brackets


def prepare_jobs(composed: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[Job]:
    """Check all jobs, merge twins, and put before each job the job that makes its teacher.

    Args:
        composed: configurations, each with what was changed in it.

    Raises:
        UserError: for the first job that does not fit, before anything is trained.
    """
    validate_jobs(config for config, _ in composed)
    jobs: dict[str, Job] = {}
    for config, changed in composed:
        after = None
        if (teacher := teacher_job(config)) is not None:
            made = _job(teacher, teacher_changes(changed))
            after = jobs.setdefault(made.folder, made).folder
        asked = _job(config, changed, after)
        jobs.setdefault(asked.folder, asked).asked = True
    for job in jobs.values():
        if not job.asked:  # its recipe may be another than that of a student of the same name
            job.label += " (teacher)"
    _tell_apart(jobs.values())
    # A stable sort: teachers first, for others wait for them; else as they were asked for.
    waited_for = {job.after for job in jobs.values()}
    return sorted(jobs.values(), key=lambda job: job.folder not in waited_for)


def _tell_apart(jobs: Iterable[Job]) -> None:
    """Have jobs that would be called the same say where they differ, as in -m recipe.epochs=1,2.

    By the names of their recipes, which stand for many values, and where that does not do by
    those values.
    """
    for told in (_recipes, lambda same: differences([job.identity for job in same])):
        by_label: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            by_label[job.label].append(job)
        for same in by_label.values():
            for job, details in zip(same, told(same), strict=True):
                job.label = in_brackets(job.label, details)


def _recipes(jobs: Sequence[Job]) -> list[list[str]]:
    """For each of several jobs its recipes, of the student and the teacher, where they differ."""
    both = {"recipe": [job.config["recipe"]["name"] for job in jobs]}
    if all(job.after for job in jobs):
        both["teacher.recipe"] = [job.config["teacher"]["recipe"]["name"] for job in jobs]
    differing = {key: names for key, names in both.items() if len(set(names)) > 1}
    return [[f"{key}={names[i]}" for key, names in differing.items()] for i in range(len(jobs))]


def _job(config: Mapping[str, Any], changed: Mapping[str, Any], after: str | None = None) -> Job:
    identity = resolve.identity(config)
    folder = folder_name(identity, config["seed"])
    name = label(config, changed)
    return Job(dict(config), dict(changed), identity, folder, name, after, asked=False)

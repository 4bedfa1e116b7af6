"""Prepares the jobs of a sweep: resolved, checked, duplicates merged, teachers first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from kd_bench.config.compose import Composed
from kd_bench.jobs.job import Job
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.validate import validate_jobs
from kd_bench.results.labels import differences, in_brackets


def prepare_jobs(composed: Sequence[Composed]) -> list[Job]:
    """The jobs of a sweep, each once, and before all others those that make teachers.

    Args:
        composed: configurations, each with what was changed in it.

    Raises:
        UserError: for the first job that does not fit, before anything is trained. Jobs that are
            done already are not checked.
    """
    resolved = [resolve_job(config, changed) for config, changed in composed]
    validate_jobs(job for job in resolved if not job.is_done)
    teachers = [job.teacher for job in resolved if job.teacher is not None]
    jobs = {teacher.folder: replace(teacher, is_requested=False) for teacher in teachers}
    for job in resolved:
        jobs[job.folder] = replace(jobs.get(job.folder, job), is_requested=True)
    labels, made = _labels(list(jobs.values())), {teacher.folder for teacher in teachers}
    jobs = {folder: replace(job, label=labels[folder]) for folder, job in jobs.items()}
    return [
        replace(job, teacher=jobs[job.teacher.folder]) if job.teacher else job
        for job in sorted(jobs.values(), key=lambda job: job.folder not in made)
    ]


def _labels(jobs: Sequence[Job]) -> dict[str, str]:
    """A label of its own for each job, by folder.

    Jobs that would be called the same, as in -m recipe.epochs=1,2, get the names of their recipes,
    which stand for many values, and where that is not enough the values that differ.
    """
    # The recipe of a teacher may differ from that of a student of the same name.
    labels = {job.folder: job.label + " (teacher)" * (not job.is_requested) for job in jobs}
    details: Sequence[Callable[[Sequence[Job]], list[list[str]]]]
    details = (_recipes, lambda same: differences([job.identity for job in same]))
    for detail in details:
        by_label: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            by_label[labels[job.folder]].append(job)
        for same in by_label.values():
            for job, added in zip(same, detail(same), strict=True):
                labels[job.folder] = in_brackets(labels[job.folder], added)
    return labels


def _recipes(jobs: Sequence[Job]) -> list[list[str]]:
    """For each of several jobs its recipes, of the student and the teacher, where they differ."""
    recipes = {"recipe": [job.config.recipe.name for job in jobs]}
    if all(job.teacher for job in jobs):
        recipes["teacher.recipe"] = [job.config.teacher.recipe.name for job in jobs]
    differing = {key: names for key, names in recipes.items() if len(set(names)) > 1}
    return [[f"{key}={names[i]}" for key, names in differing.items()] for i in range(len(jobs))]

"""Prepares the jobs of a sweep: resolves and checks them, merges duplicates, adds teachers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from kd_bench.config.compose import Composed
from kd_bench.jobs.job import Job
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.validate import validate_jobs
from kd_bench.results.labels import differences, in_brackets


def prepare_jobs(composed: Sequence[Composed]) -> list[Job]:
    """The jobs of a sweep without duplicates, teachers first.

    An unfinished teacher is left out if all of its students are finished.

    Args:
        composed: configurations, each with its changed values.

    Raises:
        UserError: for the first invalid job, before any training. Finished jobs are not checked.
    """
    resolved = [resolve_job(config, changed) for config, changed in composed]
    done = {job.folder for job in resolved if job.is_done}
    validate_jobs(job for job in resolved if job.folder not in done)
    teachers = {teacher.folder: teacher for job in resolved for teacher in _needed(job)}
    jobs = dict(teachers)
    for job in resolved:
        if job.folder not in jobs or not jobs[job.folder].is_requested:
            jobs[job.folder] = job
    labels = _labels(list(jobs.values()))
    prepared: dict[str, Job] = {}
    for job in sorted(jobs.values(), key=lambda job: job.folder not in teachers):
        same = tuple(prepared.get(teacher.folder, teacher) for teacher in job.teachers)
        prepared[job.folder] = replace(job, label=labels[job.folder], teachers=same)
    return list(prepared.values())


def _needed(job: Job) -> Iterator[Job]:
    """The direct and indirect teachers of a job, teachers before their students.

    A finished job needs no teachers, but finished teachers are listed anyway.
    """
    is_done = job.is_done
    for teacher in job.teachers:
        if teacher.is_done or not is_done:
            yield from _needed(teacher)
            yield teacher


def _labels(jobs: Sequence[Job]) -> dict[str, str]:
    """A unique label for each job, by folder.

    Jobs with equal labels, as in -m recipe.epochs=1,2, get the names of their recipes, each of
    which implies many values; if that is not enough, they get the values that differ.
    """
    labels = {job.folder: job.label for job in jobs}
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
    """For each of several jobs, its recipe and its teacher's recipe, if the jobs differ in them."""
    recipes = {"recipe": [job.config.recipe.name for job in jobs]}
    if all(job.teacher for job in jobs):
        recipes["teacher.recipe"] = [job.config.teacher.recipe.name for job in jobs]
    differing = {key: names for key, names in recipes.items() if len(set(names)) > 1}
    return [[f"{key}={names[i]}" for key, names in differing.items()] for i in range(len(jobs))]

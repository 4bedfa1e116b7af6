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
    """The jobs of a sweep, each once; those that train teachers come first.

    A teacher whose students are all done is not among them, unless it is done, too.

    Args:
        composed: configurations, each with its changed values.

    Raises:
        UserError: for the first invalid job, before anything is trained. Jobs that are done already
            are not checked.
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
    """The jobs that teach a job, directly or not, teachers before their students.

    A job that is done needs none; those that are done, too, are listed all the same.
    """
    is_done = job.is_done
    for teacher in job.teachers:
        if teacher.is_done or not is_done:
            yield from _needed(teacher)
            yield teacher


def _labels(jobs: Sequence[Job]) -> dict[str, str]:
    """A unique label for each job, by folder.

    To jobs with equal labels, as in -m recipe.epochs=1,2, it adds the names of their recipes, each
    of which stands for many values; if that is not enough, it adds the values that differ.
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
    """For each of several jobs, its recipes and its teacher's, as far as they differ."""
    recipes = {"recipe": [job.config.recipe.name for job in jobs]}
    if all(job.teacher for job in jobs):
        recipes["teacher.recipe"] = [job.config.teacher.recipe.name for job in jobs]
    differing = {key: names for key, names in recipes.items() if len(set(names)) > 1}
    return [[f"{key}={names[i]}" for key, names in differing.items()] for i in range(len(jobs))]

"""Counts the images passed through the teachers of jobs: at every step, or once for a cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from kd_bench.config.chain import teaching_model
from kd_bench.config.identity import EXECUTION_KEYS
from kd_bench.config.schema import TeacherSource
from kd_bench.jobs.instantiate import describe_dataset
from kd_bench.jobs.job import Job
from kd_bench.jobs.validate import cache_shape
from kd_bench.training.teachers.cache import FLOAT
from kd_bench.utils.text.formatting import format_bytes, pluralize


@dataclass(frozen=True)
class TeacherCost:
    """Forward passes of the teacher of jobs that could share a cache, without and with it."""

    teacher: str
    methods: tuple[str, ...]
    jobs: int
    online: int  # images
    cache: int  # images: all views of all training images
    size: int  # bytes of the cache
    is_cached: bool  # the configuration has teacher.source=table

    @property
    def line(self) -> str:
        """Both counts, and which value of teacher.source is cheaper."""
        current = "table" if self.is_cached else "online"
        cheaper = "table" if self.cache < self.online else "online"
        return (
            f"teacher {self.teacher} of {', '.join(self.methods)}: {pluralize(self.jobs, 'job')}"
            f" would pass about {self.online:,} images through it online, or about {self.cache:,}"
            f" once to fill a cache of {format_bytes(self.size)}; teacher.source={cheaper}"
            f" {'is' if cheaper == current else 'would be'} cheaper"
        )


def teacher_costs(jobs: Sequence[Job]) -> list[TeacherCost]:
    """The cost of teachers, one entry per group of jobs that could share a cache.

    Args:
        jobs: the jobs to run; those whose method cannot use a cache are left out.
    """
    shapes: dict[str, tuple[int, int] | None] = {}  # by folder without the seed
    shared: dict[Hashable, list[Job]] = defaultdict(list)
    for job in jobs:
        if job.folder_without_seed not in shapes:
            shapes[job.folder_without_seed] = cache_shape(job)
        if (shape := shapes[job.folder_without_seed]) is not None:
            shared[_sharing_key(job, shape)].append(job)
    found = []
    for sharing in shared.values():
        rows, columns = shapes[sharing[0].folder_without_seed] or (0, 0)
        config = sharing[0].config
        size = config.method.ensemble.size  # number of networks that process each image
        found.append(
            TeacherCost(
                teacher=teaching_model(config).name,
                methods=tuple(dict.fromkeys(job.config.method.name for job in sharing)),
                jobs=len(sharing),
                online=sum(job.epochs for job in sharing)
                * describe_dataset(config.dataset).train_size
                * size,
                cache=rows * size,
                size=rows * columns * FLOAT,
                is_cached=config.teacher.source is TeacherSource.table,
            )
        )
    return found


def _sharing_key(job: Job, shape: tuple[int, int]) -> Hashable:
    teacher = job.config.teacher
    which = tuple(each.folder for each in job.teachers) or teacher.checkpoint
    mean = job.config.method.ensemble.mean
    execution = tuple(getattr(job.config, name) for name in EXECUTION_KEYS)
    return job.config.dataset.name, which, mean, shape, teacher.source, teacher.precision, execution

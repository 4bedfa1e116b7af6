"""How often jobs ask their teacher: online at every step, or for a table of all views once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from kd_bench.config.identity import EXECUTION_KEYS
from kd_bench.config.schema import TeacherSource
from kd_bench.jobs import instantiate
from kd_bench.jobs.job import Job
from kd_bench.jobs.validate import cache_shape
from kd_bench.training.teacher_cache import FLOAT
from kd_bench.utils import formatting


@dataclass(frozen=True)
class TeacherCost:
    """What jobs that could share a view table ask of their teacher, by either source."""

    teacher: str
    methods: tuple[str, ...]
    jobs: int
    online: int  # images
    table: int  # images, which are all views of those for training
    size: int  # bytes of the table
    is_table: bool  # which of the two was chosen

    @property
    def line(self) -> str:
        """Both counts, and which value of teacher.source asks less."""
        online, table = self.online, self.table
        chosen, other = ("table", "online") if self.is_table else ("online", "table")
        less = TeacherSource.table if table < online else TeacherSource.online
        verdict = "asks less" if less.value == chosen else f"asks more than {other} would"
        jobs = formatting.pluralize(self.jobs, "job")
        return (
            f"teacher {self.teacher} of {', '.join(self.methods)}: {jobs} would ask about"
            f" {online:,} images online, a view table of {formatting.format_bytes(self.size)} about {table:,}"
            f" once; teacher.source={chosen} {verdict}"
        )


def teacher_costs(jobs: Sequence[Job]) -> list[TeacherCost]:
    """What jobs ask of teachers, one entry for all that could share a table.

    Args:
        jobs: that are to run. Those that need more of a teacher than a table holds are left out.
    """
    shared: dict[tuple, list[Job]] = defaultdict(list)
    shapes = {}
    for job in jobs:
        settings = job.folder.rsplit("/", 1)[0]  # seeds share them
        if settings not in shapes:
            shapes[settings] = cache_shape(job.config)
        if (shape := shapes[settings]) is not None:
            teacher = job.config["teacher"]
            data = job.folder.split("/", 1)[0]
            which = job.after or teacher["checkpoint"]
            how = (teacher["precision"], *(job.config[name] for name in EXECUTION_KEYS))
            shared[data, which, shape, teacher["source"], how].append(job)
    found = []
    for (_, _, (rows, columns), source, _), sharing in shared.items():
        config = sharing[0].config
        images = instantiate.describe_dataset(config["dataset"]).train_size
        found.append(
            TeacherCost(
                config["teacher"]["model"]["name"],
                tuple(dict.fromkeys(job.config["method"]["name"] for job in sharing)),
                len(sharing),
                sum(job.epochs for job in sharing) * images,
                rows,
                rows * columns * FLOAT,
                source == TeacherSource.table.value,
            )
        )
    return found

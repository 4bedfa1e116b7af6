"""Readable names of jobs in TensorBoard: a link to each job's event files.

TensorBoard calls a run by the path of its folder, and a job's has a digest in it. The links below
<runs_dir>/tensorboard tell runs apart by what was changed in them instead.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from kd_bench.config.identity import digest, execution_text
from kd_bench.config.schema import Speed
from kd_bench.jobs.job import Job
from kd_bench.results.labels import in_brackets, method_label, non_method_changes
from kd_bench.results.run_folder import TENSORBOARD

LONGEST = 200  # bytes of a label; file systems take names of 255


def link_events(job: Job) -> Path:
    """Link a job's event files under its name; a resumed job finds its link again.

    The names are those of the job's column and row in a table: the folder "digits resnet20-resnet8
    (quickstart, epochs=10)", and in it "st (temperature=8) seed 0".

    Returns:
        The link. If another job has the same name, it has this job's digest in it.

    Raises:
        OSError: links cannot be made there.
    """
    row, seed = _safe(method_label(job.config, job.changed)), f"seed {job.config.seed}"
    folder = Path(job.config.runs_dir) / TENSORBOARD / _safe(_column(job))
    folder.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(job.path / TENSORBOARD, folder)  # valid also after runs_dir moved
    link = folder / f"{row} {seed}"
    if not _link(link, target):
        link = folder / f"{row} {digest(job.identity)} {seed}"
        if not _link(link, target):
            raise FileExistsError(f"{link} is there and is no link to {target}")
    return link


def _column(job: Job) -> str:
    """What a job has in common with those of other methods and seeds that it is compared with."""
    config, pair = job.config, job.folder.split("/")[1].removeprefix("none-")
    details = [config.recipe.name]
    if job.teacher is not None and job.teacher.config.recipe.name != config.recipe.name:
        details.append(f"teacher.recipe={job.teacher.config.recipe.name}")
    if (execution := execution_text(job.identity)) != Speed.repro.value:
        details.append(execution)
    details += non_method_changes(config, job.changed, job.identity)
    return in_brackets(f"{config.dataset.name} {pair}", details)


def _safe(label: str) -> str:
    """A label as part of a file's name."""
    text = re.sub(r"[/\x00-\x1f\x7f]", "_", label)
    return text.encode()[:LONGEST].decode(errors="ignore")


def _link(link: Path, target: str) -> bool:
    """Make a link; whether it is there and leads to the target."""
    try:
        link.symlink_to(target)
    except FileExistsError:
        return link.is_symlink() and os.readlink(link) == target
    return True

"""Writes TensorBoard events: each column of a job's history as a scalar, and its settings.

TensorBoard calls a run by the path of its folder, and a job's has a digest in it. Links to the
events, below <runs_dir>/tensorboard, tell runs apart by what was changed in them instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from kd_bench.config.identity import digest, execution_text
from kd_bench.config.schema import Speed
from kd_bench.jobs.job import Job
from kd_bench.results.labels import in_brackets, method_label, non_method_changes
from kd_bench.results.run_folder import TENSORBOARD
from kd_bench.utils.text.escape import printable

LONGEST = 200  # bytes of a label; file systems take names of 255


class TensorBoardWriter:
    """Writes the event file of one job; a resumed job starts it over, so no epoch is in it twice.

    TensorBoard's own writer is used rather than `torch.utils.tensorboard`, whose import takes a
    second in every job.

    Args:
        folder: of the event file.
    """

    def __init__(self, folder: Path):
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = EventFileWriter(str(folder))

    def add(self, row: Mapping[str, Any]) -> None:
        """Add an epoch: each column as a scalar of its name."""
        numbers = {k: v for k, v in row.items() if k != "epoch" and not isinstance(v, str)}
        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in numbers.items()]
        self._write(Summary(value=values), row["epoch"])

    def close(self, settings: Mapping[str, Any], accuracy: float, epoch: int) -> None:
        """Add the settings with the job's accuracy, for TensorBoard's table, and close the file."""
        self._write(hparams_pb(dict(settings)), epoch)
        value = Summary.Value(tag="accuracy/last", simple_value=accuracy)
        self._write(Summary(value=[value]), epoch)
        self._writer.close()

    def _write(self, summary: Summary, step: int) -> None:
        self._writer.add_event(Event(summary=summary, step=step))


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
    # Valid also after runs_dir moved, and where the folder of links is itself a link.
    target = os.path.relpath(job.path.resolve() / TENSORBOARD, folder.resolve())
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
    if job.teachers and config.teacher.recipe.name != config.recipe.name:
        details.append(f"teacher.recipe={config.teacher.recipe.name}")
    if (execution := execution_text(job.identity)) != Speed.repro.value:
        details.append(execution)
    details += non_method_changes(config, job.changed, job.identity)
    return in_brackets(f"{config.dataset.name} {pair}", details)


def _safe(label: str) -> str:
    """A label as part of a file's name."""
    text = printable(label).replace("/", "_")
    return text.encode()[:LONGEST].decode(errors="ignore")


def _link(link: Path, target: str) -> bool:
    """Make a link; whether it is there and leads to the target."""
    try:
        link.symlink_to(target)
    except FileExistsError:
        return link.is_symlink() and os.readlink(link) == target
    return True

"""Writes TensorBoard events: the columns of a job's history as scalars, its settings and results.

TensorBoard shows the path of a run's folder, and a job's path contains a digest. Links to the
events in <runs_dir>/tensorboard have readable names instead, with the values that were changed.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch import Tensor
from torch.nn import functional

from kd_bench.config.convert import to_plain
from kd_bench.config.identity import digest, execution_text, flatten
from kd_bench.config.schema import Speed
from kd_bench.jobs.job import Job
from kd_bench.results.labels import in_brackets, method_label, method_name, non_method_changes
from kd_bench.results.options import METRIC
from kd_bench.results.record import Record
from kd_bench.results.run_folder import TENSORBOARD
from kd_bench.utils.text.escape import printable

LONGEST = 200  # bytes of a label; file systems allow names of 255
EXAMPLES = 8  # images


class TensorBoardWriter:
    """Writes the event file of one job; a resumed job rewrites it, so no epoch is in it twice.

    This uses TensorBoard's own writer rather than `torch.utils.tensorboard`, whose import takes a
    second in every job.

    Args:
        folder: of the event file.
    """

    def __init__(self, folder: Path):
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = EventFileWriter(str(folder))

    def add(self, row: Mapping[str, Any]) -> None:
        """Add an epoch, with each column as a scalar of that name."""
        numbers = {k: v for k, v in row.items() if k != "epoch" and not isinstance(v, str)}
        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in numbers.items()]
        self._write(Summary(value=values), row["epoch"])

    def add_images(self, images: Tensor) -> None:
        """Add uint8 images [N, H, W, 3] side by side as one picture at step 0."""
        row = torch.cat(list(functional.pad(images, (0, 0, 0, 1))), dim=1)  # black lines between
        file = io.BytesIO()
        Image.fromarray(row.numpy()).save(file, format="png")
        height, width, _ = row.shape
        picture = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=file.getvalue()
        )
        self._write(Summary(value=[Summary.Value(tag="images/augmented", image=picture)]), 0)

    def close(self, record: Record, epoch: int) -> None:
        """Add a finished job's settings and results for the HPARAMS tab, and close the file.

        The tab has a column for each setting, so a setting must have the same name in all runs.
        """
        self._write(hparams_pb(settings(record)), epoch)
        values = [
            Summary.Value(tag=f"result/{name}", simple_value=value)
            for name, metric in METRIC.items()
            if (value := metric.value(record)) is not None
        ]
        self._write(Summary(value=values), epoch)
        self._writer.close()

    def _write(self, summary: Summary, step: int) -> None:
        self._writer.add_event(Event(summary=summary, step=step))


def settings(record: Record) -> dict[str, Any]:
    """The settings to compare runs by: data, models, seed, all values of recipe and method."""
    config = record.config
    values = flatten(
        {
            "recipe": to_plain(config.recipe),
            "method": to_plain(config.method),
            "teacher": record.identity.get("teacher", {}),
        }
    )
    shown = {
        name: value
        for name, value in values.items()
        if value not in (None, "[]") and name.split(".")[-1] not in ("name", "_target_")
    }
    names = {
        "dataset": config.dataset.name,
        "student": config.model.name,
        "teacher": config.teacher.model.name if record.teacher else "",
        "method": method_name(config.method),
        "recipe": config.recipe.name,
        "seed": record.seed,
    }
    return names | shown


def link_events(job: Job) -> Path:
    """Link a job's event files under a readable name; a resumed job reuses its link.

    The names are those in tables, one folder level each: "digits/resnet20-resnet8 (quickstart,
    epochs=10)/st (temperature=8)/seed 0", for TensorBoard's filter by name.

    Returns:
        The link. If another job has the same name, the link contains this job's digest.

    Raises:
        OSError: links cannot be created there.
    """
    labels = job.config.dataset.name, _conditions(job), method_label(job.config, job.changed)
    folder = Path(job.config.runs_dir).joinpath(TENSORBOARD, *map(_safe, labels))
    folder.mkdir(parents=True, exist_ok=True)
    # Stays valid if runs_dir is moved, or if the folder of links is itself a link.
    target = os.path.relpath(job.path.resolve() / TENSORBOARD, folder.resolve())
    link = folder / f"seed {job.config.seed}"
    if not _link(link, target):
        link = folder / f"seed {job.config.seed} {digest(job.identity)}"
        if not _link(link, target):
            raise FileExistsError(f"{link} exists and is not a link to {target}")
    return link


def _conditions(job: Job) -> str:
    """The teacher-student pair with all settings that compared jobs share, except the method."""
    config, pair = job.config, job.folder.split("/")[1].removeprefix("none-")
    details = [config.recipe.name]
    if job.teachers and config.teacher.recipe.name != config.recipe.name:
        details.append(f"teacher.recipe={config.teacher.recipe.name}")
    if (execution := execution_text(job.identity)) != Speed.repro.value:
        details.append(execution)
    details += non_method_changes(config, job.changed, job.identity)
    return in_brackets(pair, details)


def _safe(label: str) -> str:
    """A label that can be part of a path."""
    text = printable(label).replace("/", "_")
    return text.encode()[:LONGEST].decode(errors="ignore")


def _link(link: Path, target: str) -> bool:
    """Create a link; return whether it now exists with this target."""
    try:
        link.symlink_to(target)
    except FileExistsError:
        return link.is_symlink() and os.readlink(link) == target
    return True

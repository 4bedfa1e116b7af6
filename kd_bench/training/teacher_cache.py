"""Teacher outputs for every augmented view of every training image, computed once for all jobs.

Crop and flip allow few views per image: 162 on CIFAR, 9 on the digits. If a method only needs
logits and pooled features, the teacher's outputs for all of them fit in a table: the same numbers
as running it at every step, and cheaper if epochs times jobs exceed the number of views.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_bench.data.dataset import Data
from kd_bench.interfaces import Batch, Loss, Output, StageShapes
from kd_bench.models.features import FeatureExtractor
from kd_bench.results.run_folder import wait_while_locked
from kd_bench.training.execution import Execution, inference_batch_size
from kd_bench.training.teacher import Teacher
from kd_bench.utils import formatting
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import ensure_writable_dir, write_json
from kd_bench.utils.lock import Lock, Locked

STAGES = ("pooled",)  # small enough to store for every view
ROWS, ABOUT = "rows.f32", "table.json"  # the second is written last
FLOAT = 4  # bytes


def why_uncacheable(loss: type[Loss]) -> str | None:
    """Why no cache can serve a loss, as the end of a sentence; None where one can.

    What stages it reads is known only once it is built: see `maps_read`.
    """
    reasons = {
        "trains the teacher": loss.teacher_learns,
        "differentiates the teacher": loss.needs_input_gradients,
        "shows the teacher views of its own": loss.extra_views is not Loss.extra_views,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def maps_read(stages: Iterable[str]) -> list[str]:
    """Those of some stages that are too large to be cached for every view."""
    return [stage for stage in stages if stage not in STAGES]


def check_cacheable(uncacheable: Mapping[str, str], stages: Iterable[str]) -> None:
    """Refuse a method that needs more of its teacher than a cache holds.

    Args:
        uncacheable: loss -> why no cache can serve it.
        stages: all stages that the method reads.

    Raises:
        UserError: naming the loss and the alternative.
    """
    advice = "use teacher.source=online"
    require(
        not (maps := maps_read(stages)),
        "teacher.source=table holds logits and pooled features, and the method reads"
        f" {', '.join(maps)}; {advice}",
    )
    for name, reason in uncacheable.items():
        raise UserError(f"teacher.source=table: '{name}' {reason}; {advice}")


class CachedTeacher(Teacher):
    """A teacher whose outputs for training images are looked up; for other images the network runs.

    Args:
        network: the network.
        table: [images * views, numbers] float on the device, as from `load_cached_teacher`.
        views: number of views of each image.
        shapes: of the network's stages.
        about: what the record says about the table.
    """

    def __init__(
        self,
        network: FeatureExtractor,
        table: Tensor,
        views: int,
        shapes: StageShapes,
        about: dict[str, Any],
    ):
        super().__init__(network)
        self.record_fields = {"table": about}
        self._table, self._views = table, views
        self._shapes = {stage: shapes[stage] for stage in network.stages}

    def with_execution(self, settings: Execution) -> CachedTeacher:
        """Itself: the table has been computed already."""
        return self

    def forward(self, batch: Batch, views: Mapping[str, Tensor]) -> Output:
        """Output of the teacher for the augmented views of a batch's images."""
        assert batch.view is not None  # set by every training step
        row = self._table.index_select(0, batch.index * self._views + batch.view)
        sizes = [torch.Size(shape).numel() for shape in self._shapes.values()]
        logits, *flat = row.split([row.shape[1] - sum(sizes), *sizes], dim=1)
        features = {
            stage: part.unflatten(1, shape)
            for (stage, shape), part in zip(self._shapes.items(), flat, strict=True)
        }
        return Output(logits, features)


def cache_key(*facts: Any) -> str:
    """Name of a table: a hash of everything that determines its numbers, as plain values."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row_width(shapes: StageShapes, stages: Iterable[str], num_classes: int) -> int:
    """Numbers per row: logits and the stages read."""
    return num_classes + sum(torch.Size(shapes[stage]).numel() for stage in stages)


def load_cached_teacher(
    folder: Path, teacher: Teacher, shapes: StageShapes, data: Data, message: Callable[[str], None]
) -> CachedTeacher:
    """A teacher's table, computed if it does not exist yet, by one process at a time.

    Args:
        folder: the table's own, named by `cache_key`.
        teacher: computes the table, with the execution settings it would have online.
        shapes: of the teacher's stages.
        data: the training images and their views.
        message: called with progress messages.
    """
    width = row_width(shapes, teacher.network.stages, data.num_classes)
    ensure_writable_dir(folder)
    while not (folder / ABOUT).exists():
        try:
            with Lock(folder):
                if not (folder / ABOUT).exists():
                    _fill(folder, teacher, data, width, message)
        except Locked as owner:
            message(f"waiting for the teacher's cache, filled by {owner}")
            wait_while_locked(folder, ABOUT)
    about = json.loads((folder / ABOUT).read_text())
    shape = (data.train_size * data.view_count, width)
    # Memory-mapped, so that the jobs of a machine share its pages.
    table = torch.from_file(str(folder / ROWS), size=shape[0] * shape[1], dtype=torch.float32)
    table = table.view(shape).to(data.train.target.device)
    return CachedTeacher(teacher.network, table, data.view_count, shapes, about)


def _fill(
    folder: Path, teacher: Teacher, data: Data, width: int, message: Callable[[str], None]
) -> None:
    """Compute every row; resumes from the rows that a killed process has written."""
    rows, batch = data.train_size * data.view_count, inference_batch_size(data)
    size, part = rows * width * FLOAT, folder / f"{ROWS}.part"
    what = f"{data.view_count} views of {formatting.pluralize(data.train_size, 'image')}"
    message(f"filling the teacher's cache: {what}, {formatting.format_bytes(size)}")
    started = time.perf_counter()
    with open(part, "ab") as file:
        written = file.tell() // (batch * width * FLOAT) * batch  # rows, in whole batches
        file.truncate(written * width * FLOAT)
        for start in range(written, rows, batch):
            file.write(_rows(teacher, data, start, rows, batch).cpu().numpy().tobytes())
            if start == written + batch:  # the first batch is slower than the others
                left = (time.perf_counter() - started) / 2 * (rows - start) / batch
                message(f"time left to fill the cache: {formatting.format_duration(left)}")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / ROWS)
    seconds = round(time.perf_counter() - started, 3)
    message(f"time taken to fill the cache: {formatting.format_duration(seconds)}")
    about = {"images": data.train_size, "views": data.view_count, "bytes": size}
    write_json(folder / ABOUT, about | {"seconds": seconds})


@torch.no_grad()
def _rows(teacher: Teacher, data: Data, start: int, stop: int, batch: int) -> Tensor:
    """Rows start .. start+batch-1, at most up to stop-1: logits and features, [B, columns]."""
    row = torch.arange(start, start + batch, device=data.train.target.device)
    row = row.clamp(max=stop - 1)  # always a full batch, to avoid a second compilation
    teacher_out = teacher(data.augmented_batch(row // data.view_count, row % data.view_count))
    flat = [teacher_out.features[stage].flatten(1) for stage in teacher.network.stages]
    return torch.cat([teacher_out.logits, *flat], 1)[: stop - start]

"""Teacher outputs for every augmented view of every training image, computed once for all jobs.

Crop and flip allow few views per image: 162 on CIFAR, 9 on the digits. If a method only needs
logits and pooled features, the teacher's outputs for all of them fit in a table: the same numbers
as running it at every step, and cheaper if epochs times jobs exceed the number of views.

Every job verifies the hash of the table when it opens it, which takes one to two seconds per
gigabyte. A damaged table is recomputed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from kd_bench.data.resident import ResidentData
from kd_bench.interfaces import Batch, Loss, Output, StageShapes
from kd_bench.models.features import FeatureExtractor
from kd_bench.results.record import CHECKSUM
from kd_bench.results.run_folder import CACHE_RECORD, CACHED_ROWS, wait_while_locked
from kd_bench.training.execution import Execution, inference_batch_size
from kd_bench.training.teachers.teacher import Teacher
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import ensure_writable_dir, json_hash
from kd_bench.utils.lock import Locked
from kd_bench.utils.locked_folder import LockedFolder
from kd_bench.utils.text import formatting

STAGES = ("pooled",)  # small enough to store for every view
ROWS, ABOUT = CACHED_ROWS, CACHE_RECORD  # the second contains the first one's hash
# While the table is filled: its rows so far, and a line per batch with the hash of all rows so far.
PART, HASHES = f"{ROWS}.part", "rows.sha256.part"
FLOAT = 4  # bytes


def why_uncacheable(loss: type[Loss]) -> str | None:
    """Why a loss cannot use a cache, as the end of a sentence; None if it can.

    The stages that it reads are known only once it is built; for them, see `maps_read`.
    """
    reasons = {
        "trains the teacher": loss.teacher_learns,
        "differentiates the teacher": loss.needs_input_gradients,
        "passes additional views through the teacher": loss.extra_views is not Loss.extra_views,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def maps_read(stages: Iterable[str]) -> list[str]:
    """Those of the given stages that are too large to be cached for every view."""
    return [stage for stage in stages if stage not in STAGES]


def check_cacheable(uncacheable: Mapping[str, str], stages: Iterable[str]) -> None:
    """Refuse a method that needs more of its teacher than a cache holds.

    Args:
        uncacheable: loss -> why it cannot use a cache.
        stages: all stages that the method reads.

    Raises:
        UserError: names the loss and the alternative.
    """
    advice = "use teacher.source=online"
    require(
        not (maps := maps_read(stages)),
        "teacher.source=table holds only logits and pooled features, but the method reads"
        f" {', '.join(maps)}; {advice}",
    )
    for name, reason in uncacheable.items():
        raise UserError(f"teacher.source=table: '{name}' {reason}; {advice}")


class CachedTeacher(Teacher):
    """A teacher whose outputs for training images are looked up; other images run the network.

    Args:
        network: the network.
        table: [images * views, numbers] float on the device, as from `load_cached_teacher`.
        views: number of views of each image.
        shapes: of the network's stages.
        about: the record's entry on the table.
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
    """The name of a table: a hash of everything that determines its values."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row_width(shapes: StageShapes, stages: Iterable[str], num_classes: int) -> int:
    """Number of values per row: logits and the stages read."""
    return num_classes + sum(torch.Size(shapes[stage]).numel() for stage in stages)


def load_cached_teacher(
    folder: Path,
    teacher: Teacher,
    shapes: StageShapes,
    data: ResidentData,
    message: Callable[[str], None],
) -> CachedTeacher:
    """Load a teacher's table, which one process computes if it does not exist yet.

    Args:
        folder: the table's own folder, named by `cache_key`.
        teacher: computes the table, with the execution settings it would have online.
        shapes: of the teacher's stages.
        data: the training images and their views.
        message: called with progress messages.
    """
    width = row_width(shapes, teacher.network.stages, data.num_classes)
    shape = (data.train_size * data.view_count, width)
    ensure_writable_dir(folder)
    while (found := _read(folder, shape)) is None:
        try:
            with LockedFolder(folder) as locked:
                if _read(folder, shape) is None:
                    _fill(locked, teacher, data, shape, message)
        except Locked as owner:
            message(f"waiting for the teacher's cache, filled by {owner}")
            wait_while_locked(folder, ABOUT)
    table, about = found
    table = table.to(data.train.target.device)
    return CachedTeacher(teacher.network, table, data.view_count, shapes, about)


def _read(folder: Path, shape: tuple[int, int]) -> tuple[Tensor, dict[str, Any]] | None:
    """A table and its record; None if there is none, or, with a warning, if it is damaged.

    The table is memory-mapped, so that the jobs of a machine share its pages.
    """
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        size = (folder / ROWS).stat().st_size
        is_whole = about.pop(CHECKSUM) == json_hash(about, 16)
        if is_whole and size == shape[0] * shape[1] * FLOAT:
            table = torch.from_file(str(folder / ROWS), size=size // FLOAT, dtype=torch.float32)
            if hashlib.sha256(table.numpy().data).hexdigest() == about["sha256"]:
                return table.view(shape), about
    except FileNotFoundError:
        return None
    except (AttributeError, ValueError, TypeError, KeyError):  # the record is damaged
        pass
    warnings.warn(
        f"recomputing the teacher's cache in {folder}: it was damaged, or made by kd-bench 0.1",
        stacklevel=2,
    )
    return None


def _fill(
    folder: LockedFolder,
    teacher: Teacher,
    data: ResidentData,
    shape: tuple[int, int],
    message: Callable[[str], None],
) -> None:
    """Compute every row; resumes from the rows that a killed process has written."""
    (rows, width), batch = shape, inference_batch_size(data)
    size = rows * width * FLOAT
    views = formatting.pluralize(data.view_count, "view")
    what = f"{views} of {formatting.pluralize(data.train_size, 'image')}"
    message(f"filling the teacher's cache: {what}, {formatting.format_bytes(size)}")
    started = time.perf_counter()
    folder.remove(ABOUT)  # left by a damaged table
    with open(folder.path / PART, "a+b") as part, open(folder.path / HASHES, "a+b") as hashes:
        content, batches = _resume(part, hashes, batch * width * FLOAT, folder.check)
        written = batches * batch
        for start in range(written, rows, batch):
            made = _rows(teacher, data, start, rows, batch).cpu().numpy().tobytes()
            content.update(made)
            folder.check()
            for file, added in ((part, made), (hashes, _line(content))):
                file.write(added)
                file.flush()
            if start == written + batch:  # the first batch is slower than the others
                left = (time.perf_counter() - started) / 2 * (rows - start) / batch
                message(f"time left to fill the cache: {formatting.format_duration(left)}")
        os.fsync(part.fileno())
    folder.remove(HASHES)  # now: once the table is complete, no process would look for this file
    folder.rename(PART, ROWS)
    seconds = round(time.perf_counter() - started, 3)
    message(f"time taken to fill the cache: {formatting.format_duration(seconds)}")
    about = {
        "images": data.train_size,
        "views": data.view_count,
        "bytes": size,
        "seconds": seconds,
        "sha256": content.hexdigest(),
    }
    folder.write_json(ABOUT, about | {CHECKSUM: json_hash(about, 16)})


def _resume(
    part: BinaryIO, hashes: BinaryIO, size: int, check: Callable[[], None]
) -> tuple[hashlib._Hash, int]:
    """Truncate the files after the last intact batch.

    Args:
        part: rows in batches of `size` bytes.
        hashes: a line for each batch.
        size: of a batch, in bytes.
        check: called before truncating; if it raises, the files stay unchanged. Reading them takes
            a while, during which another process may have finished the table and mapped its rows.

    Returns:
        The hash of the intact rows, and the number of intact batches.
    """
    content, batches, end = hashlib.sha256(), 0, 0
    part.seek(0)
    hashes.seek(0)
    for line in hashes.readlines():
        added, after = part.read(size), content.copy()
        after.update(added)
        if _line(after) != line:
            break
        content, batches, end = after, batches + 1, end + len(added)
    check()
    part.truncate(end)
    hashes.truncate(batches * len(_line(content)))
    return content, batches


def _line(content: hashlib._Hash) -> bytes:
    return content.hexdigest().encode() + b"\n"


@torch.no_grad()
def _rows(teacher: Teacher, data: ResidentData, start: int, stop: int, batch: int) -> Tensor:
    """Rows start .. start+batch-1, at most up to stop-1: logits and features, [B, columns]."""
    row = torch.arange(start, start + batch, device=data.train.target.device)
    row = row.clamp(max=stop - 1)  # always a full batch, to avoid a second compilation
    teacher_out = teacher(data.augmented_batch(row // data.view_count, row % data.view_count))
    flat = [teacher_out.features[stage].flatten(1) for stage in teacher.network.stages]
    return torch.cat([teacher_out.logits, *flat], 1)[: stop - start]

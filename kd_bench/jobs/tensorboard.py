"""Writes TensorBoard events: each column of a job's history as a scalar, and its settings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter


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

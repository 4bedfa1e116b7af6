"""TensorBoard: every column of a job's history as a scalar, and its hyperparameters."""

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
    """The event file of one job, written anew when a job is resumed, so no epoch stands twice.

    TensorBoard's own writer is used rather than `torch.utils.tensorboard`, whose import costs a
    second in every job.
    """

    def __init__(self, folder: Path):
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._writer = EventFileWriter(str(folder / "tensorboard"))

    def add(self, row: Mapping[str, Any]) -> None:
        """One epoch's columns, each under its own name."""
        numbers = {k: v for k, v in row.items() if k != "epoch" and not isinstance(v, str)}
        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in numbers.items()]
        self._write(Summary(value=values), row["epoch"])

    def close(self, hyperparameters: Mapping[str, Any], accuracy: float, epoch: int) -> None:
        """The hyperparameters with the job's number, for TensorBoard's table, and the end."""
        self._write(hparams_pb(dict(hyperparameters)), epoch)
        value = Summary.Value(tag="accuracy/last", simple_value=accuracy)
        self._write(Summary(value=[value]), epoch)
        self._writer.close()

    def _write(self, summary: Summary, step: int) -> None:
        self._writer.add_event(Event(summary=summary, step=step))

"""The training loop: epochs, evaluation, history, checkpoints; independent of Hydra and jobs."""

from __future__ import annotations

import csv
import io
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from kd_bench.data.data import Labelled
from kd_bench.data.dataset import Data
from kd_bench.models.features import FeatureExtractor
from kd_bench.results.run_folder import HISTORY, TIMING
from kd_bench.training import checkpoint, cuda_graph
from kd_bench.training.checkpoint import AsyncCheckpointer
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.execution import inference_batch_size
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.training.teachers.teacher import training_outputs
from kd_bench.utils.errors import require
from kd_bench.utils.locked_folder import LockedFolder

Row = dict[str, Any]


@dataclass
class Progress:
    """The finished epochs, one row each."""

    history: list[Row] = field(default_factory=list)  # bitwise equal between identical runs
    timing: list[Row] = field(default_factory=list)  # seconds and images/s

    def epochs(self, phase: str) -> int:
        """The number of finished epochs of a phase."""
        return sum(row["stage"] == phase for row in self.history)

    @property
    def warm_up(self) -> float:
        """Extra seconds in the first epoch of each phase, for compiling and capturing."""
        seconds: dict[str, list[float]] = defaultdict(list)
        for row, timing in zip(self.history, self.timing, strict=True):
            seconds[row["stage"]].append(timing["train"])
        return sum(
            max(0.0, first - median(others)) for first, *others in seconds.values() if others
        )


# Called with each epoch's rows of history and timing; a resumed job reports earlier epochs again.
Report = Callable[[Row, Row], None]


def train(setup: TrainingSetup, folder: LockedFolder | None, report: Report) -> Progress:
    """Train the student, resuming after the last finished epoch in `folder`.

    With several processes, only the first has a folder and writes files.

    Returns:
        The whole history; the trained weights, or their average, are in `setup.student`.

    Raises:
        FloatingPointError: at the end of an epoch in which a term was not finite.
        UserError: the checkpoint in `folder` was trained on different images.
        Locked: another process took over the folder.
    """
    state = _load(setup, folder)
    progress = Progress(state["history"], state["timing"]) if state else Progress()
    if state is None:
        _prepare(setup)
    for row, timing in zip(progress.history, progress.timing, strict=True):
        report(row, timing)
    score = Evaluator(setup)
    with nullcontext() if folder is None else AsyncCheckpointer(folder, setup.job) as saver:
        for phase in phases(setup):
            done, runner = progress.epochs(phase.name), EpochRunner(setup, phase)
            if state is not None and 0 < done < phase.epochs:
                runner.optimizer.load_state_dict(state["optimizer"])
            if state is not None and done and runner.average is not None:
                runner.average.load_state(state["average"])
            for epoch in range(done + 1, phase.epochs + 1):
                row, timing = _epoch(runner, score, epoch)
                number = {"epoch": len(progress.history) + 1}
                progress.history.append(number | row)
                progress.timing.append(number | timing)
                if saver is not None:
                    saver.save(*_saved(runner, progress))
                report(progress.history[-1], progress.timing[-1])
            if runner.average is not None:
                runner.average.apply()
    # Flushed before the record, which refers to them, is written. A process that was killed right
    # after its last checkpoint has not written them at all.
    if folder is not None:
        _write_readable(folder, progress)
    return progress


def _prepare(setup: TrainingSetup) -> None:
    """Pass the teacher's outputs on the training set to the losses that need their statistics.

    Not needed in a resumed job, which has the statistics in its checkpoint.
    """
    if setup.method.needs_preparation:
        assert setup.teacher is not None  # checked by the method
        setup.method.prepare(partial(training_outputs, setup.teacher, setup.data))


def _epoch(runner: EpochRunner, score: Callable[[], Row], epoch: int) -> tuple[Row, Row]:
    """Train for one epoch and evaluate; returns the epoch's rows of history and timing."""
    started = time.perf_counter()
    row = {"stage": runner.phase.name, **runner.run(epoch)}
    trained = time.perf_counter()
    with runner.average.in_place_of_weights() if runner.average is not None else nullcontext():
        row |= score()
    seconds = {"train": trained - started, "evaluation": time.perf_counter() - trained}
    return row, {**seconds, "images_per_second": sum(runner.setup.step_sizes) / seconds["train"]}


class Evaluator:
    """Accuracy of a job's student on all test images (and validation images), in percent.

    Always in single precision, so that anyone who loads the weights gets the same accuracy.
    """

    def __init__(self, setup: TrainingSetup):
        splits = {"test_accuracy": setup.data.test, "validation_accuracy": setup.data.validation}
        self._splits = {name: split for name, split in splits.items() if split is not None}
        part = setup.ranks.part
        self._parts = {n: each.part(part(len(each.target))) for n, each in self._splits.items()}
        self._predict: dict[str, Callable[[], Tensor]] = {}
        self.setup = setup

    def __call__(self) -> Row:
        """The accuracy of each split, by column name."""
        return {name: self._accuracy(name) for name in self._splits}

    def _accuracy(self, name: str) -> float:
        """The accuracy on a split, of which each process predicts a part (empty if it is tiny)."""
        own = self._parts[name].target
        correct = (self._predictions(name) == own if len(own) else own).sum()
        total = self.setup.ranks.gather(correct[None]).sum().item()
        return 100.0 * total / len(self._splits[name].target)

    def _predictions(self, name: str) -> Tensor:
        if name not in self._predict:
            setup = self.setup
            predict = partial(predictions, setup.student, setup.data, self._parts[name])
            is_captured = setup.execution.captured and not setup.data.is_streamed
            self._predict[name] = cuda_graph.capture_graph(predict, ()) if is_captured else predict
        return self._predict[name]()


def evaluate(net: FeatureExtractor, data: Data, split: Labelled) -> float:
    """Percentage of all images of a split that `net` classifies correctly."""
    return accuracy(predictions(net, data, split), split.target)


def accuracy(one: Tensor, other: Tensor) -> float:
    """Percentage of positions at which two vectors of classes are equal."""
    return 100.0 * (one == other).sum().item() / len(one)


def predictions(net: FeatureExtractor, data: Data, split: Labelled) -> Tensor:
    """The class that `net` predicts, in eval mode, for each image of a split: [N] int64."""
    return _answers(net, data, split, lambda logits: logits.argmax(1))


def all_logits(net: FeatureExtractor, data: Data, split: Labelled) -> Tensor:
    """The logits of `net`, in eval mode, for all images of a split, on the CPU: [N, K]."""
    return _answers(net, data, split, lambda logits: logits.cpu())


@torch.no_grad()
def _answers(
    net: FeatureExtractor, data: Data, split: Labelled, read: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply `read` to the logits [B, K] of each batch of a split, and concatenate the results."""
    was_training = net.training
    net.eval()
    images = data.eval_batches(split, inference_batch_size(data))
    answers = torch.cat([read(net(image).logits) for image in images])
    net.train(was_training)
    return answers


def _saved(runner: EpochRunner, progress: Progress) -> tuple[dict[str, Any], dict]:
    """The state that training resumes from, and the human-readable files, by name."""
    setup = runner.setup
    state = {
        "learners": {name: module.state_dict() for name, module in setup.learners.items()},
        "optimizer": runner.optimizer.state_dict(),
        "history": progress.history,
        "timing": progress.timing,
        "data": setup.data.fingerprint,
    }
    if runner.average is not None:
        state["average"] = runner.average.state
    return state, _readable(progress)


def _write_readable(folder: LockedFolder, progress: Progress) -> None:
    for name, text in _readable(progress).items():
        folder.write(name, text)


def _readable(progress: Progress) -> dict[str, str]:
    """The human-readable files, by name; the checkpoint contains all their data, too."""
    return {HISTORY: as_csv(progress.history), TIMING: as_csv(progress.timing)}


def _load(setup: TrainingSetup, folder: LockedFolder | None) -> dict[str, Any] | None:
    """Restore the networks of an interrupted job; returns its state, or None for a new job."""
    state = setup.ranks.from_first(
        lambda: None if folder is None else checkpoint.load(folder, setup.job)
    )
    if state is None:
        return None
    require(
        state["data"] == setup.data.fingerprint,
        f"{setup.job} was started on different images; remove its folder to start over",
    )
    for name, module in setup.learners.items():
        module.load_state_dict(state["learners"][name])
    return state


def as_csv(rows: list[Row]) -> str:
    """Rows as CSV, with all digits of floats, so that equal text means equal bits.

    The columns are the union of those of all rows; a term that a phase lacks is left empty. The
    column `stage` holds the phase. It keeps its old name, although "stage" now means a layer
    elsewhere, so that histories stay comparable line by line.
    """
    columns = dict.fromkeys(key for row in rows for key in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

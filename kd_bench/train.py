"""The loop: epochs of steps, evaluation, history, checkpoints. Takes objects, knows no config."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_bench import checkpoint, optim
from kd_bench.data.dataset import Data
from kd_bench.data.source import Split
from kd_bench.interfaces import Batch
from kd_bench.method import Method
from kd_bench.records import write_whole
from kd_bench.schema import InitConfig, RecipeConfig, Speed
from kd_bench.seeds import stream
from kd_bench.step import Step, Tally
from kd_bench.taps import Tapped
from kd_bench.teacher import Teacher

EVALUATION_BATCH = 1000
Row = dict[str, Any]


@dataclass
class Training:
    """Everything that one job trains with."""

    student: Tapped
    teacher: Teacher | None
    method: Method
    data: Data
    recipe: RecipeConfig
    init: InitConfig
    seed: int
    speed: Speed = Speed.repro

    @property
    def learners(self) -> dict[str, nn.Module]:
        """All that is trained, by name."""
        peer = {"teacher": self.teacher.tapped} if self.teacher and self.teacher.learns else {}
        return {"student": self.student, "method": self.method} | peer


@dataclass(frozen=True)
class Phase:
    """A stage of training: "init" or "main", how long it lasts, and the rate of every step."""

    name: str
    epochs: int
    rates: Tensor  # [epochs, steps] float64


@dataclass
class Progress:
    """What a job has done so far: one row per finished epoch."""

    history: list[Row] = field(default_factory=list)  # equal bits between equal runs
    timing: list[Row] = field(default_factory=list)  # seconds and images/s

    def epochs(self, phase: str) -> int:
        """How many epochs of a phase are done."""
        return sum(row["stage"] == phase for row in self.history)


# Is given each epoch's rows of history and timing, those before a resume again.
Report = Callable[[Row, Row], None]


def phases(job: Training) -> list[Phase]:
    """The stages of a job's training, in their order."""
    steps = steps_per_epoch(job)
    rates = optim.learning_rates(job.recipe, steps).view(job.recipe.epochs, steps)
    main = Phase("main", job.recipe.epochs, rates)
    if not job.init.epochs:
        return [main]
    epochs = max(1, round(job.init.epochs * job.recipe.epochs))
    constant = torch.full((epochs, steps), job.init.lr * job.recipe.lr, dtype=torch.float64)
    return [Phase("init", epochs, constant), main]


def train(job: Training, folder: Path, report: Report) -> Progress:
    """Train the student, from the last finished epoch that `folder` holds to the last of all.

    Returns:
        The whole history; the trained weights are in `job.student`.

    Raises:
        FloatingPointError: at the end of an epoch in which a term was not finite.
    """
    state = _load(job, folder)
    progress = Progress(state["history"], state["timing"]) if state else Progress()
    for row, timing in zip(progress.history, progress.timing, strict=True):
        report(row, timing)
    for phase in phases(job):
        done = progress.epochs(phase.name)
        optimizer = _optimizer(job)
        if 0 < done < phase.epochs:
            optimizer.load_state_dict(state["optimizer"])
        for epoch in range(done + 1, phase.epochs + 1):
            row, timing = _epoch(job, optimizer, phase, epoch)
            number = {"epoch": len(progress.history) + 1}
            progress.history.append(number | row)
            progress.timing.append(number | timing)
            _save(job, optimizer, progress, folder)
            report(progress.history[-1], progress.timing[-1])
    return progress


def _optimizer(job: Training) -> torch.optim.Optimizer:
    """A fresh optimizer: each stage of training begins without momentum."""
    learning = [p for module in job.learners.values() for p in module.parameters()]
    return optim.sgd(learning, job.recipe, fused=job.speed is not Speed.reference)


def _epoch(
    job: Training, optimizer: torch.optim.Optimizer, phase: Phase, epoch: int
) -> tuple[Row, Row]:
    """One epoch of training and evaluation: its row of history, and of timing."""
    started = time.perf_counter()
    row = {"stage": phase.name, **_train_epoch(job, optimizer, phase, epoch)}
    trained = time.perf_counter()
    row |= evaluate(job)
    seconds = {"train": trained - started, "evaluation": time.perf_counter() - trained}
    images = min(job.data.train_size, steps_per_epoch(job) * job.recipe.batch_size)
    return row, {**seconds, "images_per_second": images / seconds["train"]}


def steps_per_epoch(job: Training) -> int:
    """Batches in an epoch; the last one may be smaller."""
    full, rest = divmod(job.data.train_size, job.recipe.batch_size)
    return full + (rest > 0 and not job.recipe.drop_last)


def batches(job: Training, phase: str, epoch: int) -> list[Tensor]:
    """The positions [B] of each batch's images in an epoch, a function of seed and epoch alone."""
    generator = torch.Generator().manual_seed(stream(job.seed, phase, "order", epoch))
    order = torch.randperm(job.data.train_size, generator=generator)
    order = order.to(job.data.train.target.device)
    return list(order.split(job.recipe.batch_size))[: steps_per_epoch(job)]


def _train_epoch(
    job: Training, optimizer: torch.optim.Optimizer, phase: Phase, epoch: int
) -> dict[str, float]:
    # Whatever a method draws while it trains follows from seed and epoch, so a resumed job
    # draws the same without any generator's state being kept.
    torch.manual_seed(stream(job.seed, phase.name, "method", epoch))
    for module in job.learners.values():
        module.train()
    job.method.begin(phase.name)
    step = Step(job.student, job.teacher, job.method, optimizer)
    target = job.data.train.target
    tally = Tally([*job.method.weights, "total"], target.device)
    epoch_tensor = torch.tensor(float(epoch), device=target.device)
    views_seed = stream(job.seed, phase.name, "views")
    rates = phase.rates[epoch - 1].tolist()
    for number, index in enumerate(batches(job, phase.name, epoch)):
        optim.set_rate(optimizer, rates[number])
        image = job.data.view(index, epoch, views_seed)
        batch = Batch(image, target.index_select(0, index), index, epoch_tensor)
        terms, correct = step(batch)
        tally.add(number + 1, terms, correct, len(index))
    return {"lr": rates[0], **tally.means(epoch)}


def evaluate(job: Training) -> dict[str, float]:
    """Accuracy of the student on all test images (and validation images), in percent."""
    row = {"test_accuracy": accuracy(job.student, job.data, job.data.test)}
    if job.data.validation is not None:
        row["validation_accuracy"] = accuracy(job.student, job.data, job.data.validation)
    return row


def accuracy(net: Tapped, data: Data, split: Split) -> float:
    """Percent of a split's images that `net` classifies rightly; every image is scored."""
    return percent_equal(predictions(net, data, split), split.target)


def percent_equal(one: Tensor, other: Tensor) -> float:
    """Percent of positions at which two vectors of classes are equal."""
    return 100.0 * (one == other).sum().item() / len(one)


@torch.no_grad()
def predictions(net: Tapped, data: Data, split: Split) -> Tensor:
    """The class that `net`, in eval mode, gives each image of a split: [N] int64."""
    was_training = net.training
    net.eval()
    starts = range(0, len(split.target), EVALUATION_BATCH)
    logits = (net(data.clean(split, at, at + EVALUATION_BATCH)).logits for at in starts)
    classes = torch.cat([batch.argmax(1) for batch in logits])
    net.train(was_training)
    return classes


def _save(
    job: Training, optimizer: torch.optim.Optimizer, progress: Progress, folder: Path
) -> None:
    state = {
        "learners": {name: module.state_dict() for name, module in job.learners.items()},
        "optimizer": optimizer.state_dict(),
        "history": progress.history,
        "timing": progress.timing,
        "data": job.data.fingerprint,
    }
    checkpoint.save(folder, state)
    write_whole(folder / "history.csv", as_csv(progress.history))
    write_whole(folder / "timing.csv", as_csv(progress.timing))


def _load(job: Training, folder: Path) -> dict[str, Any] | None:
    """What a job had reached before it was interrupted, put back into its networks."""
    state = checkpoint.load(folder, job.data.train.target.device)
    if state is None:
        return None
    if state["data"] != job.data.fingerprint:
        raise RuntimeError(f"{folder} was begun on other images; remove it to begin anew")
    for name, module in job.learners.items():
        module.load_state_dict(state["learners"][name])
    return state


def as_csv(rows: list[Row]) -> str:
    """Rows as CSV; floats with all their digits, so equal text is equal bits.

    The columns are those of any row: a term that a stage of training lacks is empty there.
    """
    columns = dict.fromkeys(key for row in rows for key in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

"""The timed loops: kd-bench's own steps, and loops as PyTorch users write them.

`plain` is the loop of RepDistiller and of most research code: a DataLoader with torchvision's
transforms on PIL images, eager single precision, the teacher run at every step, loss and accuracies
read at every step, SGD with its defaults. `tuned` follows PyTorch's tuning guide: mixed precision
on a GPU, channels_last, pinned memory, persistent workers, cuDNN's autotuning.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from kd_bench.data.dataset import Data
from kd_bench.interfaces import Batch, StageShapes
from kd_bench.jobs.assemble import assemble_setup
from kd_bench.jobs.job import Job
from kd_bench.training.device import choose_device, configure_process
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.training.step import networks_of
from kd_bench.training.teachers.cache import CachedTeacher, row_width
from kd_bench.utils.torchvision import import_torchvision

PLAIN, TUNED, OURS, OURS_CACHED = "plain", "tuned", "ours", "ours with a teacher cache"
TOP = 5  # such loops also report top-5 accuracy


class Loop(Protocol):
    """A training loop that can be run in several parts."""

    def train(self, seconds: float) -> tuple[int, float]:
        """Train for about `seconds`: the number of images, and the seconds that it took."""


def make_loop(kind: str, job: Job, loader_workers: int) -> Loop:
    """Make a loop that is ready to train.

    Args:
        kind: one of `PLAIN`, `TUNED`, `OURS` and `OURS_CACHED`.
        job: the job; the weights of its teacher must exist.
        loader_workers: number of DataLoader workers.
    """
    device = choose_device(job.config.device)
    if kind in (PLAIN, TUNED):  # PyTorch with its default settings
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)  # inherited from the parent process
        torch.set_num_threads(job.config.threads)
        setup = with_whole_batches(assemble_setup(job, device))
        return PlainLoop(setup, loader_workers, tuned=kind == TUNED)
    configure_process(job.config.threads)
    setup = with_whole_batches(assemble_setup(job, device))
    if kind == OURS_CACHED:
        setup = replace(setup, teacher=random_cache(setup))
    return OurLoop(setup)


def with_whole_batches(setup: TrainingSetup) -> TrainingSetup:
    """The same training without the last, smaller batch of each epoch."""
    return replace(setup, recipe=replace(setup.recipe, drop_last=True))


def random_cache(setup: TrainingSetup) -> CachedTeacher:
    """A teacher cache of random numbers: as fast as a real one, but without time to fill it."""
    data, teacher = setup.data, setup.teacher
    if teacher is None:
        raise ValueError("a job without a teacher has no teacher cache")
    output = teacher(data.eval_batch(data.test, 0, 2))
    shapes = StageShapes("teacher", {k: tuple(v.shape[1:]) for k, v in output.features.items()}, {})
    width = row_width(shapes, teacher.network.stages, data.num_classes)
    rows = torch.empty(data.train_size * data.view_count, width, device=setup.device).normal_()
    return CachedTeacher(teacher.network, rows, data.view_count, shapes, about={})


class OurLoop:
    """kd-bench's own steps, including the selection of images and the sums over an epoch."""

    def __init__(self, setup: TrainingSetup):
        self._device = setup.device
        self._steps = _endless_steps(EpochRunner(setup, phases(setup)[-1]))
        next(self._steps)  # compiles and captures
        self._chunk = 1  # steps between two clock readings, each of which synchronizes the device
        if self._device.type == "cuda":
            _, seconds = self.train(0.0)
            self._chunk = max(1, int(0.1 / seconds))

    def train(self, seconds: float) -> tuple[int, float]:
        """Train for about `seconds`: the number of images, and the seconds that it took."""
        _synchronize(self._device)
        started, images = time.perf_counter(), 0
        while True:
            images += sum(itertools.islice(self._steps, self._chunk))
            _synchronize(self._device)
            if (elapsed := time.perf_counter() - started) >= seconds:
                return images, elapsed


def _endless_steps(runner: EpochRunner) -> Iterator[int]:
    """Train epoch after epoch; yields the number of images of each step."""
    for epoch in itertools.cycle(range(1, runner.phase.epochs + 1)):
        yield from runner.steps(epoch)


class PlainLoop:
    """A typical PyTorch loop, with the same networks, losses and images."""

    def __init__(self, setup: TrainingSetup, loader_workers: int, *, tuned: bool):
        self._step = PlainStep(setup, tuned=tuned)
        is_cuda = setup.device.type == "cuda"
        torch.backends.cudnn.benchmark = tuned and is_cuda
        loader = DataLoader(
            PILDataset(setup.data),
            setup.recipe.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=loader_workers,
            pin_memory=tuned and is_cuda,
            persistent_workers=tuned and loader_workers > 0,
        )
        self._batches = _endless_batches(loader)
        image, target, index = next(self._batches)
        self._step(image, target, index)

    def train(self, seconds: float) -> tuple[int, float]:
        """Train for about `seconds`: the number of images, and the seconds that it took."""
        started, images = time.perf_counter(), 0
        for image, target, index in self._batches:
            self._step(image, target, index)
            images += len(target)
            if (elapsed := time.perf_counter() - started) >= seconds:
                return images, elapsed
        raise RuntimeError("the batches are endless")


def _endless_batches(loader: DataLoader) -> Iterator[list[Tensor]]:
    while True:
        yield from loader


@dataclass
class RunningSums:
    """The metrics that a plain loop reports during training."""

    loss: float = 0.0
    top1: float = 0.0
    top5: float = 0.0
    images: int = 0


class PlainStep:
    """One step of a plain loop, including the values that it reads back from the device."""

    def __init__(self, setup: TrainingSetup, *, tuned: bool):
        self.setup = setup
        self.sums = RunningSums()
        self._layout = torch.channels_last if tuned else torch.contiguous_format
        is_cuda = setup.device.type == "cuda"
        self._non_blocking = tuned and is_cuda
        # On most CPUs, bfloat16 is slower than single precision.
        self._is_mixed = tuned and is_cuda
        self._teacher = None if setup.teacher is None else setup.teacher.network
        for network in filter(None, (setup.student, self._teacher)):
            network.to(memory_format=self._layout)  # type: ignore[call-overload]  # not in the stubs
        setup.student.train()
        setup.method.on_epoch_start("main")
        recipe = setup.recipe
        self.optimizer = torch.optim.SGD(
            [*setup.student.parameters(), *setup.method.parameters()],
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )

    def __call__(self, image: Tensor, target: Tensor, index: Tensor, epoch: int = 1) -> float:
        """Train on a batch; returns its loss."""
        setup, device, non_blocking = self.setup, self.setup.device, self._non_blocking
        image = image.to(device, non_blocking=non_blocking, memory_format=self._layout)
        target = target.to(device, non_blocking=non_blocking)
        index = index.to(device, non_blocking=non_blocking)
        batch = Batch(image, target, index, torch.full((), float(epoch), device=device))
        with torch.autocast(device.type, torch.bfloat16, enabled=self._is_mixed):
            teacher_out = None
            if self._teacher is not None:
                with torch.no_grad():
                    teacher_out = self._teacher(image)
            student_out = setup.student(image)
            networks = networks_of(setup.student, setup.student, self._teacher, self._teacher)
            terms = setup.method(student_out, teacher_out, batch, networks)
            loss = setup.method.total(terms, batch.epoch)
        value = loss.item()
        self._add(value, student_out.logits, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return value

    def _add(self, loss: float, logits: Tensor, target: Tensor) -> None:
        correct = logits.topk(min(TOP, logits.shape[1])).indices == target[:, None]
        self.sums.loss += loss * len(target)
        self.sums.top1 += correct[:, :1].sum().item()
        self.sums.top5 += correct.sum().item()
        self.sums.images += len(target)


class PILDataset(torch.utils.data.Dataset):
    """The training images as PIL images, each converted and augmented on its own."""

    def __init__(self, data: Data):
        pad = data.pad
        height, width = data.image_size
        image = data.train.image[:, pad : pad + height, pad : pad + width]
        self._image: np.ndarray = image.cpu().numpy()
        self._target = data.train.target.tolist()
        self._transform = _transform(data)

    def __len__(self) -> int:
        return len(self._target)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image = Image.fromarray(self._image[index])
        return self._transform(image), self._target[index], index


def _transform(data: Data) -> Callable[[Image.Image], Tensor]:
    transforms = import_torchvision().transforms
    steps = [transforms.RandomCrop(data.image_size, padding=data.pad)]
    if data.flip:
        steps.append(transforms.RandomHorizontalFlip())
    normalise = transforms.Normalize(data.mean.tolist(), data.std.tolist())
    return transforms.Compose([*steps, transforms.ToTensor(), normalise])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

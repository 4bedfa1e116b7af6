"""What is timed: kd-bench's own steps, and the loops that PyTorch users write without it.

`plain` is the loop of RepDistiller and of most code for papers: a DataLoader with torchvision's
transforms on PIL images, eager single precision, the teacher asked at every step, accuracies and
the loss read at every step, SGD as it comes. `tuned` is the same by somebody who read PyTorch's
tuning guide: mixed precision where a GPU has it, channels_last, pinned memory, workers that stay,
cuDNN's autotuning.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from kd_bench.data.dataset import Data
from kd_bench.interfaces import Batch, StageShapes
from kd_bench.jobs import assemble
from kd_bench.training.device import choose_device, prepare_torch
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.training.teacher_cache import CachedTeacher, row_width

Config = Mapping[str, Any]
TOP = 5  # the second accuracy that such loops report


class Loop(Protocol):
    """Trains, for as long as it is asked to."""

    def train(self, seconds: float) -> tuple[int, float]:
        """Train for about so long: number of images, and the seconds that it took."""


def make(kind: str, config: Config, workers: int) -> Loop:
    """A loop: "ours", "ours with a table", "plain" or "tuned", ready to train.

    Args:
        kind: which.
        config: the job; its teacher's weights must be there.
        workers: processes that load images, for the DataLoader.
    """
    if kind in ("plain", "tuned"):  # PyTorch as it comes
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)  # of the process that started this one
        torch.set_num_threads(config["threads"])
        job = assemble.assemble_setup(config, choose_device(config["device"]))
        return Plain(job, workers, tuned=kind == "tuned")
    prepare_torch(config["threads"])
    job = assemble.assemble_setup(config, choose_device(config["device"]))
    if kind == "ours with a table":
        job.teacher = pretended_table(job)
    return Ours(job)


def pretended_table(job: TrainingSetup) -> CachedTeacher:
    """A teacher's view table with any numbers: looking up is as fast, and none need be made."""
    data, network = job.data, job.teacher.network
    said = job.teacher(data.eval_batch(data.test, 0, 2))
    shapes = StageShapes("teacher", {k: tuple(v.shape[1:]) for k, v in said.features.items()}, {})
    width = row_width(shapes, network.stages, data.num_classes)
    table = torch.empty(data.train_size * data.view_count, width, device=job.device).normal_()
    return CachedTeacher(network, table, data.view_count, shapes, about={})


class Ours:
    """kd-bench's own steps, from the positions of the images to the sums of the epoch."""

    def __init__(self, job: TrainingSetup):
        self._job = job
        self._rehearsal = EpochRunner(job, phases(job)[-1]).rehearsal()
        self._step = self._rehearsal.__enter__()
        self._step()  # compiles, records
        self._chunk = 1  # steps between two looks at the clock, which wait for the device
        if job.device.type == "cuda":
            _, seconds = self.train(0.0)
            self._chunk = max(1, int(0.1 / seconds))

    def train(self, seconds: float) -> tuple[int, float]:
        """Train for about so long: number of images, and the seconds that it took."""
        _wait(self._job.device)
        started, steps = time.perf_counter(), 0
        while True:
            for _ in range(self._chunk):
                self._step()
            steps += self._chunk
            _wait(self._job.device)
            if (passed := time.perf_counter() - started) >= seconds:
                return steps * self._job.step_sizes[0], passed


class Plain:
    """The loop that PyTorch users write, on the same networks, losses and images."""

    def __init__(self, job: TrainingSetup, workers: int, *, tuned: bool):
        self._step = PlainStep(job, tuned=tuned)
        is_cuda = job.device.type == "cuda"
        torch.backends.cudnn.benchmark = tuned and is_cuda
        loader = DataLoader(
            Photos(job.data),
            job.recipe.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            pin_memory=tuned and is_cuda,
            persistent_workers=tuned and workers > 0,
        )
        self._batches = _endless(loader)
        self._step(*next(self._batches))

    def train(self, seconds: float) -> tuple[int, float]:
        """Train for about so long: number of images, and the seconds that it took."""
        started, images = time.perf_counter(), 0
        for image, target, index in self._batches:
            self._step(image, target, index)
            images += len(target)
            if (passed := time.perf_counter() - started) >= seconds:
                return images, passed
        raise RuntimeError("the images are endless")


@dataclass
class Means:
    """What a plain loop shows while it trains."""

    loss: float = 0.0
    top1: float = 0.0
    top5: float = 0.0
    images: int = 0


class PlainStep:
    """One step of a plain loop, with everything that it reads back from the device."""

    def __init__(self, job: TrainingSetup, *, tuned: bool):
        self.job = job
        self.means = Means()
        self._layout = torch.channels_last if tuned else torch.contiguous_format
        self._non_blocking = tuned and job.device.type == "cuda"
        # On a CPU, bfloat16 loses but for those that multiply matrices of it in one instruction.
        self._is_mixed = tuned and job.device.type == "cuda"
        for network in (job.student, job.teacher and job.teacher.network):
            if network is not None:
                network.to(memory_format=self._layout)
        job.student.train()
        recipe = job.recipe
        learning = [*job.student.parameters(), *job.method.parameters()]
        self.optimizer = torch.optim.SGD(
            learning,
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )

    def __call__(self, image: Tensor, target: Tensor, index: Tensor) -> float:
        """Learn from a batch; its loss."""
        job, to = self.job, {"device": self.job.device, "non_blocking": self._non_blocking}
        image = image.to(memory_format=self._layout, **to)
        target, index = target.to(**to), index.to(**to)
        epoch = torch.ones((), device=job.device)
        with torch.autocast(job.device.type, torch.bfloat16, enabled=self._is_mixed):
            taught = None
            if job.teacher is not None:
                with torch.no_grad():
                    taught = job.teacher.network(image)
            said = job.student(image)
            terms = job.method(said, taught, Batch(image, target, index, epoch))
            loss = job.method.total(terms, epoch)
        shown = loss.item()
        self._count(shown, said.logits, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return shown

    def _count(self, loss: float, logits: Tensor, target: Tensor) -> None:
        best = logits.topk(min(TOP, logits.shape[1])).indices == target[:, None]
        self.means.loss += loss * len(target)
        self.means.top1 += best[:, :1].sum().item()
        self.means.top5 += best.sum().item()
        self.means.images += len(target)


class Photos(torch.utils.data.Dataset):
    """The training images as PIL has them, each decoded and changed by itself."""

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
    from kd_bench.data._torchvision import torchvision

    transforms = torchvision.transforms
    steps = [transforms.RandomCrop(data.image_size, padding=data.pad)]
    if data.flip:
        steps.append(transforms.RandomHorizontalFlip())
    normalise = transforms.Normalize(data.mean.tolist(), data.std.tolist())
    return transforms.Compose([*steps, transforms.ToTensor(), normalise])


def _endless(loader: DataLoader) -> Iterator[list[Tensor]]:
    for _ in itertools.count():
        yield from loader


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

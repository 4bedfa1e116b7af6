"""Checks that kd-bench and the plain loop have equal losses on equal batches."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kd_bench.data import augment
from kd_bench.data.dataset import Data
from kd_bench.jobs.assemble import assemble_setup
from kd_bench.jobs.job import Job
from kd_bench.training.device import choose_device, configure_process
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.utils.seeds import derive_seed
from kd_bench.utils.torchvision import import_torchvision
from throughput.loops import PlainStep, with_whole_batches

STEPS = 20
TOLERANCE = 1e-4  # relative, for the loss of each step


def losses(job: Job) -> tuple[list[float], list[float]]:
    """The total loss of the first steps of kd-bench and of the plain loop, in single precision.

    Both get the same images in the same order, cropped, flipped and normalised in the same way;
    the plain loop uses PIL and torchvision.
    """
    configure_process(job.config.threads)
    device = choose_device(job.config.device)
    ours, plain = (with_whole_batches(assemble_setup(job, device)) for _ in range(2))
    return _our_losses(ours), _plain_losses(plain)


def _our_losses(setup: TrainingSetup) -> list[float]:
    runner = EpochRunner(setup, phases(setup)[-1])
    values: list[float] = []
    for epoch in itertools.cycle(range(1, runner.phase.epochs + 1)):
        before = 0.0
        for number, _ in enumerate(runner.steps(epoch), start=1):
            total = number * runner.tally.means(epoch)["total"]  # of all steps of the epoch so far
            values.append(total - before)
            before = total
            if len(values) == STEPS:
                return values
    return values


def _plain_losses(setup: TrainingSetup) -> list[float]:
    step, phase = PlainStep(setup, tuned=False), phases(setup)[-1]
    data, views_seed = setup.data, derive_seed(setup.seed, phase.name, "views")
    values: list[float] = []
    for epoch in itertools.cycle(range(1, phase.epochs + 1)):
        order = setup.order(phase.name, epoch).to(setup.device).split(setup.recipe.batch_size)
        for number, index in enumerate(order[: len(setup.step_sizes)]):
            step.optimizer.param_groups[0]["lr"] = phase.rates[epoch - 1, number].item()
            view = data.sample_views(index, epoch, views_seed)
            image = augment_with_pil(data, index, view)
            values.append(step(image, data.train.target[index], index, epoch))
            if len(values) == STEPS:
                return values
    return values


def largest_difference(ours: list[float], plain: list[float]) -> float:
    """The largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, plain, strict=True))


def augment_with_pil(data: Data, index: Tensor, view: Tensor) -> Tensor:
    """Views [B] of training images [B], made by PIL and torchvision: [B, 3, H, W] on the CPU."""
    transforms = import_torchvision().transforms.functional
    height, width = data.image_size
    pad = data.pad
    top, left, flipped = augment.decode_view(view.cpu(), pad, data.flip)
    images = []
    for i, y, x, is_flipped in zip(
        index.tolist(), top.tolist(), left.tolist(), flipped.tolist(), strict=True
    ):
        original = data.train.image[i, pad : pad + height, pad : pad + width].cpu().numpy()
        image = ImageOps.expand(Image.fromarray(np.ascontiguousarray(original)), pad)
        image = image.crop((x, y, x + width, y + height))
        image = ImageOps.mirror(image) if is_flipped else image
        pixels = transforms.to_tensor(image)
        images.append(transforms.normalize(pixels, data.mean.tolist(), data.std.tolist()))
    return torch.stack(images)

"""Whether the loops that are compared learn the same: equal losses on equal batches."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kd_bench.data import augment
from kd_bench.data.dataset import Data
from kd_bench.jobs import assemble
from kd_bench.training.device import choose_device, prepare_torch
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.utils.seeds import derive_seed
from throughput.loops import PlainStep

STEPS = 20
TOLERANCE = 1e-4  # relative, of the loss of every one of the steps


def losses(config: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """The total loss of the first steps of kd-bench and of the plain loop, in single precision.

    The plain loop is given the same images in the same order, each cropped, mirrored and
    normalised by PIL and torchvision as the same view.
    """
    prepare_torch(config["threads"])
    device = choose_device(config["device"])
    ours, theirs = (assemble.assemble_setup(config, device) for _ in range(2))
    return _ours(ours), _plain(theirs)


def _ours(job: TrainingSetup) -> list[float]:
    epochs, totals = EpochRunner(job, phases(job)[-1]), [0.0]
    with epochs.rehearsal() as step:
        for number in range(1, STEPS + 1):
            step()
            totals.append(number * epochs.tally.means(epoch=1)["total"])
    return [after - before for before, after in pairwise(totals)]


def _plain(job: TrainingSetup) -> list[float]:
    step, phase = PlainStep(job, tuned=False), phases(job)[-1]
    size = job.step_sizes[0]
    batches = job.order(phase.name, 1).to(job.device).split(size)[: job.step_sizes.count(size)]
    shown = []
    for number in range(STEPS):
        index = batches[number % len(batches)]
        step.optimizer.param_groups[0]["lr"] = phase.rates[0, number % len(batches)].item()
        view = job.data.sample_views(index, 1, derive_seed(job.seed, phase.name, "views"))
        image = as_a_loader_would(job.data, index, view)
        shown.append(step(image, job.data.train.target[index], index))
    return shown


def worst(mine: list[float], other: list[float]) -> float:
    """The largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(mine, other, strict=True))


def as_a_loader_would(data: Data, index: Tensor, view: Tensor) -> Tensor:
    """Views [B] of training images [B], made by PIL and torchvision: [B, 3, H, W] on the CPU."""
    from kd_bench.data._torchvision import torchvision

    change = torchvision.transforms.functional
    height, width = data.image_size
    pad = data.pad
    top, left, mirrored = augment.decode_view(view.cpu(), pad, data.flip)
    made = []
    for i, y, x, is_mirrored in zip(
        index.tolist(), top.tolist(), left.tolist(), mirrored.tolist(), strict=True
    ):
        clean = data.train.image[i, pad : pad + height, pad : pad + width].cpu().numpy()
        image = ImageOps.expand(Image.fromarray(np.ascontiguousarray(clean)), pad)
        image = image.crop((x, y, x + width, y + height))
        image = ImageOps.mirror(image) if is_mirrored else image
        pixels = change.to_tensor(image)
        made.append(change.normalize(pixels, data.mean.tolist(), data.std.tolist()))
    return torch.stack(made)

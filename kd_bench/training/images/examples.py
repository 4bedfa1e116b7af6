"""The first training images as the student sees them, for visual inspection."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_bench.data.augment import image_of
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.utils.seeds import derive_seed


def first_views(setup: TrainingSetup, most: int) -> Tensor:
    """The augmented images of the first step: uint8 [B, H, W, 3] on the CPU.

    No random stream of the training is advanced.

    Args:
        setup: what the job trains with.
        most: the maximum number of images; also limited by the size of the first batch.
    """
    data, (phase, *_) = setup.data, phases(setup)
    seed = derive_seed(setup.seed, phase.name, "views")
    order = setup.order(phase.name, 1)[: min(most, setup.step_sizes[0])]
    occurrence = order.to(setup.device)
    feed = data.feed(seed, [len(order)])
    feed.start(order, 1)
    feed.advance()
    view = data.sample_views(occurrence, 1, seed)
    image = feed.images(image_of(occurrence, data.train_size), view).permute(0, 2, 3, 1)
    pixels = 255 * (image * data.std + data.mean)
    return pixels.round().clamp(0, 255).to(torch.uint8).cpu()

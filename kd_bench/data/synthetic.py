"""Noisy images with one pattern per class: learnable, of any size, generated from a seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_bench.data.source import Description, Split
from kd_bench.interfaces import require

COARSE = 4  # patterns are 4x4 random colors, upsampled: still recognizable in a shifted crop


class Synthetic:
    """`train` + `test` images of `size` x `size` pixels: the pattern of a class plus noise.

    `noise` is the standard deviation per pixel, for values in [0, 1]. Classes alternate, so they
    are as balanced as possible.
    """

    def __init__(self, num_classes: int, size: int, train: int, test: int, seed: int, noise: float):
        require(num_classes > 1, f"num_classes must be above 1, got {num_classes}")
        require(size > 0, f"size must be above 0, got {size}")
        require(noise >= 0, f"noise must be at least 0, got {noise}")
        require(
            min(train, test) >= num_classes,
            f"each of {num_classes} classes needs at least one image: train and test must be at "
            f"least {num_classes}, got {train} and {test}",
        )
        self.num_classes = num_classes
        self.size = size
        self.train = train
        self.test = test
        self.seed = seed
        self.noise = noise

    def describe(self) -> Description:
        """The configured sizes."""
        return Description(self.num_classes, self.size, self.size, self.train, self.test)

    def load(self) -> tuple[Split, Split]:
        """Both splits, determined by the arguments, with independent noise in train and test."""
        streams = np.random.SeedSequence(self.seed).spawn(3)
        pattern, train, test = map(np.random.default_rng, streams)
        color = pattern.uniform(0, 255, (self.num_classes, 3, COARSE, COARSE))
        patterns = F.interpolate(torch.from_numpy(color), (self.size, self.size), mode="bilinear")
        patterns = patterns.permute(0, 2, 3, 1)  # [K, H, W, 3]
        return self._split(patterns, self.train, train), self._split(patterns, self.test, test)

    def _split(self, patterns: Tensor, images: int, generator: np.random.Generator) -> Split:
        target = torch.arange(images) % self.num_classes
        noise = generator.standard_normal((images, *patterns.shape[1:]))
        image = patterns[target] + 255 * self.noise * torch.from_numpy(noise)
        return Split(image.round().clamp(0, 255).to(torch.uint8), target)

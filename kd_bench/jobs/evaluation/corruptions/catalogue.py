"""The corruptions of CIFAR-C by name, and images with one of them.

Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (Hendrycks &
Dietterich, 2019), arXiv:1903.12261. The parameters are those of its code for CIFAR; what is made of
them is this project's own, so images differ from the published files in their random numbers and in
details of filters. Left out: frost, which needs its photographs, and, of the four that the paper
has for validation, spatter, which needs OpenCV. Motion blur and the fall of snow are ImageMagick's
in the paper, and written after it here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kd_bench.jobs.evaluation.corruptions import blur, digital, noise, weather
from kd_bench.jobs.evaluation.corruptions.common import Corruption
from kd_bench.utils.seeds import derive_seed

REVISION = 1  # raised when any of them changes: what older ones measured is measured again
SEED = 20190328  # of the random numbers, the same for every run: all see the same images
PART = 250  # images that share random numbers, hence made together

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
EXTRA: dict[str, Corruption] = {  # the paper's for validation, not part of its mean
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "saturate": digital.saturate,
}


def corrupted(image: Tensor, name: str, strength: int, part: int) -> Tensor:
    """Images with a corruption: uint8 [N, H, W, 3], on the CPU, as the given ones.

    Args:
        image: consecutive images of a test set, `PART` of them, or those that remain at its end.
        name: of `CORRUPTIONS` or `EXTRA`.
        strength: 1 to 5.
        part: which of these parts it is, from 0.
    """
    random = np.random.default_rng(derive_seed(SEED, name, strength, part))
    make = (CORRUPTIONS | EXTRA)[name]
    made = make(image.numpy() / 255, strength, random)
    return torch.from_numpy(np.rint(made.clip(0, 1) * 255).astype(np.uint8))

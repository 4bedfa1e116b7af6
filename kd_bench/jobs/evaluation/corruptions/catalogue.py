"""The corruptions of CIFAR-C by name, and a function that applies one of them.

Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (Hendrycks &
Dietterich, 2019), arXiv:1903.12261. The parameters are those of the authors' code for CIFAR; the
implementation is independent, so images differ from the published files in random numbers and in
details of filters. Not included: frost, which needs the authors' photographs, and spatter (one of
four extra corruptions for validation), which needs OpenCV. Motion blur and the falling snow use
ImageMagick in the authors' code, and are reimplemented here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kd_bench.jobs.evaluation.corruptions import blur, digital, noise, weather
from kd_bench.jobs.evaluation.corruptions.common import Corruption
from kd_bench.utils.seeds import derive_seed

REVISION = 1  # increased when a corruption changes, so that older results are measured again
SEED = 20190328  # the same for all runs, so that all are measured on the same images
PART = 250  # images per random generator, corrupted together

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
EXTRA: dict[str, Corruption] = {  # for validation in the paper, not part of the mean
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "saturate": digital.saturate,
}


def corrupted(image: Tensor, name: str, strength: int, part: int) -> Tensor:
    """Corrupted images: uint8 [N, H, W, 3] on the CPU, like the given ones.

    Args:
        image: consecutive images of a test set: `PART` of them, or the rest at its end.
        name: a key of `CORRUPTIONS` or `EXTRA`.
        strength: 1 to 5.
        part: index of this part of the test set, from 0.
    """
    random = np.random.default_rng(derive_seed(SEED, name, strength, part))
    make = (CORRUPTIONS | EXTRA)[name]
    made = make(image.numpy() / 255, strength, random)
    return torch.from_numpy(np.rint(made.clip(0, 1) * 255).astype(np.uint8))

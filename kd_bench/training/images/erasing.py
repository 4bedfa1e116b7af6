"""Random erasing: a rectangle of an image becomes noise or the mean colour.

Zhong et al., 2020, arXiv:1708.04896, applied to normalised images as in timm and DeiT. Both
networks get the same images. Rectangle and noise depend only on (seed, epoch, occurrence), and are
computed on the device, so that a captured step draws new ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kd_bench.config.schema import ErasingConfig, ErasingMode
from kd_bench.training.images.boxes import box_mask
from kd_bench.utils.splitmix import below, further_words, image_word, normal, uniform

TRIES = 10  # to draw a rectangle that is smaller than the image, as in timm


class Erasing:
    """Erases a rectangle of each image, with the configured probability.

    Args:
        config: probability, mode, and ranges of the rectangle's area and ratio.
        seed: of the draws.
    """

    def __init__(self, config: ErasingConfig, seed: int):
        self.config, self.seed = config, seed

    def __call__(self, image: Tensor, occurrence: Tensor, epoch: Tensor) -> Tensor:
        """The images, some with an erased rectangle: [B, 3, H, W].

        Args:
            image: normalised images [B, 3, H, W].
            occurrence: which image each is, and which repetition of it [B] (`data/augment`).
            epoch: its number, a scalar tensor.
        """
        is_noisy = self.config.mode is ErasingMode.pixel
        pixels = image[0].numel() if is_noisy else 0
        words = further_words(image_word(self.seed, epoch, occurrence), 1 + 4 * TRIES + pixels)
        chosen, tries, rest = words.split([1, 4 * TRIES, pixels], dim=1)
        rectangle = rectangles(tries, image.shape[2:], self.config.area, self.config.ratio)
        is_erased = rectangle & (uniform(chosen) < self.config.probability)[:, :, None, None]
        noise = normal(rest).to(image.dtype).view(image.shape) if is_noisy else 0.0
        return torch.where(is_erased, noise, image)


def rectangles(
    words: Tensor, shape: Sequence[int], area: Sequence[float], ratio: Sequence[float]
) -> Tensor:
    """A random rectangle in each image, smaller than it in both directions: [B, 1, H, W] bool.

    Area, log-ratio and position are uniform. The first of several tries that fits is used; if none
    fits, the rectangle is empty.

    Args:
        words: four per try [B, 4 * tries] int64, for area, ratio, top row and left column.
        shape: height and width of an image.
        area: least and largest area, as a fraction of the image's.
        ratio: least and largest height over width.
    """
    height, width = shape
    of_area, of_ratio, of_row, of_column = words.unflatten(1, (-1, 4)).unbind(2)  # [B, tries]
    size = height * width * _between(uniform(of_area), *area)
    root = (_between(uniform(of_ratio), *map(math.log, ratio)) / 2).exp()
    rows, columns = ((size.sqrt() * each).round().long() for each in (root, 1 / root))
    fits = (rows < height) & (columns < width)
    is_first = fits & (fits.cumsum(1) == 1)
    rows, columns, of_row, of_column = (
        (each * is_first).sum(1) for each in (rows, columns, of_row, of_column)
    )
    top, left = below(of_row, height - rows + 1), below(of_column, width - columns + 1)
    return box_mask((top, top + rows), (left, left + columns), height, width)


def _between(share: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * share

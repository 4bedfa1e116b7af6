"""Views of streamed images, augmented or for evaluation: uint8, of one size per batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.data import augment
from kd_bench.data.augment import pad_images
from kd_bench.interfaces import require
from kd_bench.utils.splitmix import below, further_words


class Views(Protocol):
    """The augmented views of a training image, by number, and the view used in evaluation."""

    @property
    def count(self) -> int:
        """Number of views of an image."""
        ...

    @property
    def common_size(self) -> bool:
        """Whether all images must have the same size."""
        ...

    def augmented(self, images: Iterable[np.ndarray], view: Tensor) -> Tensor:
        """The given views [B] of images uint8 [H', W', 3]: uint8 [B, H, W, 3]."""
        ...

    def plain(self, images: Iterable[np.ndarray]) -> Tensor:
        """Images uint8 [H', W', 3] as used in evaluation: uint8 [B, H, W, 3]."""
        ...


@dataclass(frozen=True)
class PaddedCrop:
    """Images of one size: padding, crop and flip, as for images in memory."""

    pad: int
    padding: str
    flip: bool
    common_size = True

    @property
    def count(self) -> int:
        """(2 pad + 1)^2 crops, twice that with flips."""
        return augment.view_count(self.pad, self.flip)

    def augmented(self, images: Iterable[np.ndarray], view: Tensor) -> Tensor:
        """The given views [B] of images uint8 [H, W, 3]: uint8 [B, H, W, 3]."""
        padded = pad_images(self.plain(images), self.pad, self.padding)
        position = torch.arange(len(view))
        return augment.crop_and_flip(padded, position, view, self.pad, self.flip)

    def plain(self, images: Iterable[np.ndarray]) -> Tensor:
        """The images [B, H, W, 3]."""
        return torch.from_numpy(np.stack(list(images)))


TRIES = 10  # to draw a box that fits into the image, as in torchvision


@dataclass(frozen=True)
class ResizedCrop:
    """Images of any size: a box of random area and aspect ratio, resized to a square.

    Szegedy et al., Going Deeper with Convolutions (arXiv:1409.4842), section 6; the box is drawn as
    in torchvision's RandomResizedCrop. A view's number is 62 random bits, from which all of its
    random integers are derived. In evaluation, the view is the center of the resized image.

    Args:
        size: height and width of the result.
        resize: in evaluation, the shorter side of an image before its center is cropped.
        area: smallest and largest area of the box, as a fraction of the image's.
        ratio: smallest and largest aspect ratio (width over height) of the box.
        flip: whether half of the views are mirrored.
    """

    size: int
    resize: int
    area: Sequence[float]
    ratio: Sequence[float]
    flip: bool
    common_size = False
    count = 2**62

    def __post_init__(self) -> None:
        name = "dataset.resized_crop"
        require(self.size > 0, f"{name}.size must be above 0, got {self.size}")
        require(
            self.resize >= self.size,
            f"{name}.resize must be at least {name}.size ({self.size}), got {self.resize}",
        )
        for key, values, most in (("area", self.area, 1.0), ("ratio", self.ratio, math.inf)):
            require(
                len(values) == 2 and 0 < values[0] <= values[1] <= most,
                f"{name}.{key} must be the smallest and the largest value, both above 0"
                f"{' and at most 1' if most == 1 else ''}, got {list(values)}",
            )

    def augmented(self, images: Iterable[np.ndarray], view: Tensor) -> Tensor:
        """The given views [B] of images uint8 [H', W', 3]: uint8 [B, size, size, 3]."""
        made = torch.empty(len(view), self.size, self.size, 3, dtype=torch.uint8)
        for square, image, words in zip(made, images, self._words(view), strict=True):
            left, top, width, height = self.box(image.shape[0], image.shape[1], words)
            part = image[top : top + height, left : left + width]
            resized = _resize(part, self.size, self.size)
            is_flipped = self.flip and words[-1] % 2 == 1
            square.copy_(resized.flip(1) if is_flipped else resized)
        return made

    def box(self, height: int, width: int, words: Sequence[int]) -> tuple[int, int, int, int]:
        """Left, top, width and height of a view's box in an image.

        Args:
            height: of the image.
            width: of the image.
            words: random integers in 0..2^63-1, four for each try.
        """
        logs = [math.log(each) for each in self.ratio]
        for at in range(0, 4 * TRIES, 4):
            area = height * width * _between(words[at], *self.area)
            ratio = math.exp(_between(words[at + 1], *logs))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return words[at + 2] % (width - w + 1), words[at + 3] % (height - h + 1), w, h
        w = min(width, max(1, round(height * self.ratio[1])))  # the largest center box that fits
        h = min(height, max(1, round(width / self.ratio[0])))
        return (width - w) // 2, (height - h) // 2, w, h

    def plain(self, images: Iterable[np.ndarray]) -> Tensor:
        """The centers of the images after resizing their shorter side to `resize`."""
        return torch.stack([self._center(image) for image in images])

    def _center(self, image: np.ndarray) -> Tensor:
        height, width = image.shape[:2]
        shorter = min(height, width)
        height, width = (
            max(self.resize, side * self.resize // shorter) for side in (height, width)
        )
        resized = _resize(image, height, width)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return resized[top : top + self.size, left : left + self.size]

    @staticmethod
    def _words(view: Tensor) -> Iterator[list[int]]:
        """Random integers in 0..2^63-1 for each view: four for each try, and one for the flip."""
        words = further_words(view, 4 * TRIES + 1)
        return iter(below(words, 2**63 - 1).tolist())


def _between(word: int, low: float, high: float) -> float:
    """A number from `low` to `high`, uniform for uniform words in 0..2^63-1."""
    return low + (high - low) * ((word >> 10) * 2.0**-53)


def _resize(image: np.ndarray, height: int, width: int) -> Tensor:
    """An image uint8 [H', W', 3] as [height, width, 3]: bilinear, antialiased.

    PyTorch's integer arithmetic is several times faster than Pillow; values differ by at most 1.
    """
    # A copy with contiguous rows and the strides of channels_last: PyTorch then neither copies it
    # again nor writes the result channel by channel.
    pixels = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1)[0]

"""The interface of image sources, which do no preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """Stored images of one split (training, validation, test) and their labels."""

    image: Tensor  # [N, H, W, 3] uint8
    target: Tensor  # [N] int64, classes counted from 0

    def part(self, images: slice) -> Split:
        """Some of its images."""
        return Split(self.image[images], self.target[images])


@dataclass(frozen=True)
class Description:
    """What is known about a dataset without decoding any image."""

    num_classes: int
    height: int  # pixels
    width: int
    train_size: int  # images
    test_size: int

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.height, self.width


class Source(Protocol):
    """A kind of dataset; its constructor takes the arguments in `dataset.source` of the YAML."""

    def describe(self) -> Description:
        """Sizes, quickly and without decoding; raises UserError if files are missing."""
        ...

    def load(self) -> tuple[Split, Split]:
        """All training and all test images, in a fixed order."""
        ...


class Reader(Protocol):
    """The images of one split, decoded one at a time, in any process."""

    target: Tensor  # [N] int64, classes counted from 0
    fingerprint: str  # hash that identifies the images and their labels

    @property
    def keys(self) -> Sequence[bytes]:
        """Equal for equal images: their paths, or hashes of their content."""
        ...

    def read(self, position: int) -> np.ndarray:
        """One image, uint8 [H, W, 3]; raises UserError, which names it, if it cannot be decoded."""
        ...

    def name(self, position: int) -> str:
        """The name of an image in messages."""
        ...


@runtime_checkable
class StreamedSource(Source, Protocol):
    """A source whose images can be decoded batch by batch instead of being held in memory."""

    def open(self) -> tuple[Reader, Reader]:
        """The training and the test images, in the order of `load`."""
        ...

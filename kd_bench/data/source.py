"""Where images come from: what every kind of source gives, and nothing about how they are seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one purpose (training, validation, test) and their classes, as they were stored."""

    image: Tensor  # [N, H, W, 3] uint8
    target: Tensor  # [N] int64, classes counted from 0


@dataclass(frozen=True)
class Description:
    """What is known of a data set before anything is decoded."""

    num_classes: int
    height: int  # pixels
    width: int
    train_size: int  # images
    test_size: int


class Source(Protocol):
    """A kind of data set; its constructor takes the arguments of `dataset.source` in the YAML."""

    def describe(self) -> Description:
        """Sizes, cheaply and without decoding; a `UserError` where the files are not there."""
        ...

    def load(self) -> tuple[Split, Split]:
        """All training and all test images, in an order that never changes."""
        ...

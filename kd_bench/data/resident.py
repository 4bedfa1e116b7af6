"""A dataset in the memory of the training device, from which steps gather their batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from kd_bench.data import augment
from kd_bench.data.data import Data
from kd_bench.data.source import Split


@dataclass(frozen=True, eq=False)
class ResidentData(Data):
    """Images as uint8 tensors on the device: `train` [N, H+2p, W+2p, 3], padded for cropping."""

    train: Split
    test: Split
    validation: Split | None
    pad: int
    flip: bool

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image, without padding."""
        _, height, width, _ = self.test.image.shape
        return height, width

    @property
    def view_count(self) -> int:
        """Number of different augmented views of a training image."""
        return augment.view_count(self.pad, self.flip)

    @property
    def is_streamed(self) -> bool:
        """False."""
        return False

    def feed(self, seed: int, sizes: Sequence[int]) -> ResidentFeed:
        """Gathers each step's images on the device."""
        return ResidentFeed(self)

    def augmented_batch(self, index: Tensor, view: Tensor) -> Tensor:
        """The given views [B] of training images `index` [B], normalized: float [B, 3, H, W].

        In the memory format channels_last.
        """
        image = augment.crop_and_flip(self.train.image, index, view, self.pad, self.flip)
        return self._normalise(image)

    def eval_batch(self, split: Split, start: int, stop: int) -> Tensor:
        """Images start..stop-1 of a split, normalized, without augmentation: float [B, 3, H, W].

        For `train`, whose images are padded, this is the center crop, i.e. the original image.
        """
        return self._normalise(self._plain(split, start, stop))

    def plain_images(self, split: Split, size: int) -> Iterator[Tensor]:
        """All images of a split in order, as used in evaluation: uint8 [B, H, W, 3]."""
        for start in range(0, len(split.target), size):
            yield self._plain(split, start, start + size)

    def _plain(self, split: Split, start: int, stop: int) -> Tensor:
        height, width = self.image_size
        margin = (split.image.shape[1] - height) // 2
        return split.image[start:stop, margin : margin + height, margin : margin + width]


class ResidentFeed:
    """Gathers batches on the device, where all images are; nothing has to be prepared."""

    def __init__(self, data: ResidentData):
        self._data = data

    def start(self, order: Tensor, epoch: int) -> None:
        """Nothing to do."""

    def advance(self) -> None:
        """Nothing to do."""

    def images(self, index: Tensor, view: Tensor) -> Tensor:
        """The given views [B] of training images `index` [B]."""
        return self._data.augmented_batch(index, view)

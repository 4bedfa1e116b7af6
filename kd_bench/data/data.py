"""A loaded dataset: normalised batches of images, from memory or streamed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from kd_bench.data.augment import sample_view


class Labelled(Protocol):
    """A split: its labels, and its images in whatever form its kind of data stores them."""

    @property
    def target(self) -> Tensor:
        """Classes [N], int64, on the device."""
        ...

    def part(self, images: slice) -> Labelled:
        """Some of its images."""
        ...


class Feed(Protocol):
    """Provides the training images of an epoch to its steps, in order."""

    def start(self, order: Tensor, epoch: int) -> None:
        """Begin an epoch: occurrences [N] of its images (`augment`), on the CPU, and its number."""
        ...

    def advance(self) -> None:
        """Prepare the images of the next step; called by the host before each step."""
        ...

    def images(self, index: Tensor, view: Tensor) -> Tensor:
        """The step's augmented images, normalized: float [B, 3, H, W]; does not synchronize.

        They may be overwritten by those of the next step.
        """
        ...


@dataclass(frozen=True, eq=False)
class Data(ABC):
    """A dataset that provides batches on a device, converted from uint8 to float on demand."""

    train: Any  # `Labelled`, as are the others
    test: Any
    validation: Any  # or None
    num_classes: int
    mean: Tensor  # [3] float, of pixels in [0, 1]
    std: Tensor  # [3]
    fingerprint: str  # hash of the source's training and test images and labels
    # A line about test images that are also training images; empty if there are none.
    overlap: str = field(default="", kw_only=True)

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image as passed to networks."""

    @property
    @abstractmethod
    def view_count(self) -> int:
        """Number of different augmented views of a training image."""

    @property
    @abstractmethod
    def is_streamed(self) -> bool:
        """Whether images are copied from the host at each step, not held on the device."""

    @property
    def versions(self) -> dict[str, str]:
        """The versions of libraries that decode images during training; for the record."""
        return {}

    @property
    def train_size(self) -> int:
        """Number of training images, without the validation images."""
        return len(self.train.target)

    def sample_views(self, occurrence: Tensor, epoch: int | Tensor, seed: int) -> Tensor:
        """View number of each occurrence [B] of training images (`augment`) in an epoch: [B] int64.

        It depends only on (seed, epoch, occurrence), not on the batch or the device.
        """
        return sample_view(seed, epoch, occurrence, self.view_count)

    @abstractmethod
    def feed(self, seed: int, sizes: Sequence[int]) -> Feed:
        """The feed of an epoch's images.

        Args:
            seed: of the augmentation.
            sizes: number of images in each step.
        """

    @abstractmethod
    def eval_batch(self, split: Any, start: int, stop: int) -> Tensor:
        """Images start..stop-1 of a split, normalized, without augmentation: float [B, 3, H, W]."""

    @abstractmethod
    def plain_images(self, split: Any, size: int) -> Iterator[Tensor]:
        """All images of a split in order, as used in evaluation: uint8 [B, H, W, 3]."""

    def eval_batches(self, split: Any, size: int) -> Iterator[Tensor]:
        """All images of a split in order, like `eval_batch`, `size` at a time."""
        for start in range(0, len(split.target), size):
            yield self.eval_batch(split, start, start + size)

    def normalise(self, image: Tensor, out: Tensor | None = None) -> Tensor:
        """The network input float [B, 3, H, W] of images uint8 [B, H, W, 3] on any device.

        With `out` (float [B, H, W, 3]), the result is written there.
        """
        return self._normalise(image.to(self.mean.device, non_blocking=True), out)

    def _normalise(self, image: Tensor, out: Tensor | None = None) -> Tensor:
        """(image / 255 - mean) / std of uint8 [B, H, W, 3], as float [B, 3, H, W] channels_last."""
        # Multiply and add are separate so that rounding is the same on all devices: with a fused
        # operator (addcmul), it depends on the device whether the product is rounded.
        scale, shift = self._scale_and_shift
        value = image.float() if out is None else out.copy_(image)
        return value.mul_(scale).add_(shift).permute(0, 3, 1, 2)

    @cached_property
    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(x / 255 - mean) / std as x * scale + shift, each [H, W, 3].

        One value per pixel instead of three in total is five times faster on a CPU, whose inner
        loop would otherwise have length three.
        """
        mean, std = self.mean.double(), self.std.double()
        scale, shift = 1 / (255 * std), -mean / std
        scale, shift = (x.float().expand(*self.image_size, 3).contiguous() for x in (scale, shift))
        return scale, shift

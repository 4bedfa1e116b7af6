"""Feeds a network what it expects: images of another normalisation or size than the dataset's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_bench.interfaces import require
from kd_bench.models.wrapped import WrappedNetwork


@dataclass(frozen=True)
class ExpectedImages:
    """What a network expects; None where that is what the dataset has."""

    mean: tuple[float, ...] | None = None  # per channel, of pixels in [0, 1]
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None  # height and width

    @classmethod
    def of(
        cls,
        where: str,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        size: Sequence[int] | None,
    ) -> ExpectedImages:
        """Checked values of a configuration.

        Raises:
            UserError: with what is valid.
        """
        for name, values in (("mean", mean), ("std", std)):
            require(
                values is None or len(values) == 3,
                f"{where}: {name} must be three numbers (red, green, blue) or null, got {values}",
            )
        require(std is None or min(std) > 0, f"{where}: std must be above 0, got {std}")
        require(
            size is None or (len(size) == 2 and min(size) > 0),
            f"{where}: input_size must be height and width in pixels or null, got {size}",
        )
        return cls(
            None if mean is None else tuple(mean),
            None if std is None else tuple(std),
            None if size is None else (size[0], size[1]),
        )

    def or_else(self, other: ExpectedImages) -> ExpectedImages:
        """These values, and those of `other` where there is none."""
        return ExpectedImages(
            self.mean or other.mean, self.std or other.std, self.size or other.size
        )


@dataclass(frozen=True)
class GivenImages:
    """What is given to a network: the size of images, and the mean and deviation [3] of them."""

    size: tuple[int, int]
    mean: Tensor
    std: Tensor


class AdaptedInput(WrappedNetwork):
    """A network behind a layer that changes normalisation and size; image -> logits [B, K].

    (pixel - mean) / std of the dataset becomes that of the network; then images are resized, by
    bilinear interpolation with antialiasing. The resize is two matrix products instead of
    `F.interpolate`, with equal results: its gradient is deterministic on every device, and has a
    gradient itself.
    """

    scale: Tensor
    shift: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, net: nn.Module, given: GivenImages, expected: ExpectedImages):
        super().__init__(net)
        mean = given.mean if expected.mean is None else torch.tensor(expected.mean)
        std = given.std if expected.std is None else torch.tensor(expected.std)
        size = expected.size or given.size
        self.inner = GivenImages(size, mean, std)  # what `net` is given
        self._buffer("scale", (given.std / std)[:, None, None])
        self._buffer("shift", ((given.mean - mean) / std)[:, None, None])
        self.is_resized = size != given.size
        self._buffer("rows", _resize_matrix(given.size[0], size[0]))
        self._buffer("columns", _resize_matrix(given.size[1], size[1]).T)

    def _buffer(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.contiguous(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        image = image * self.scale + self.shift
        if self.is_resized:
            image = self.rows @ image @ self.columns
        return self.net(image)


def _resize_matrix(before: int, after: int) -> Tensor:
    """Weights [after, before] that resize a line of pixels."""
    lines = torch.eye(before)[None, None]  # one image whose every column is a line of its own
    size = (after, before)
    return F.interpolate(lines, size, mode="bilinear", antialias=True)[0, 0]

"""Adapts images to the normalisation and size that a network expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from kd_bench.interfaces import require
from kd_bench.models.wrapped import WrappedNetwork


@dataclass(frozen=True)
class ExpectedImages:
    """The input that a network expects; None means that of the dataset."""

    mean: tuple[float, ...] | None = None  # per channel, for pixels in [0, 1]
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
        """Validated values of a configuration.

        Raises:
            UserError: a value is invalid; the message has the valid ones.
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
        """These values, with those of `other` in place of None."""
        return ExpectedImages(
            self.mean or other.mean, self.std or other.std, self.size or other.size
        )


@dataclass(frozen=True)
class GivenImages:
    """The images passed to a network: their size, and mean and deviation [3] of normalisation."""

    size: tuple[int, int]
    mean: Tensor
    std: Tensor


class AdaptedInput(WrappedNetwork):
    """A network after a layer that changes normalisation and size; image -> logits [B, K].

    Images normalised for the dataset are normalised for the network, then resized by bilinear
    interpolation with antialiasing. The resize is two matrix products, with the same result as
    `F.interpolate`, since their gradient is deterministic on every device and differentiable. They
    are in single precision under autocast, too; with `precision=tf32`, a GPU rounds their inputs.
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
        self.inner = GivenImages(size, mean, std)  # the input of `net`
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
            image = _resized(image, self.rows, self.columns)
        return self.net(image)


@torch.fx.wrap  # which cannot trace the context
def _resized(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images [B, 3, H', W'] from those of another size, in the precision of the arguments."""
    if image.is_meta or not torch.is_autocast_enabled(image.device.type):
        return rows @ image @ columns
    with torch.autocast(image.device.type, enabled=False):
        return rows @ image @ columns


def _resize_matrix(before: int, after: int) -> Tensor:
    """The matrix [after, before] that resizes a line of pixels."""
    lines = torch.eye(before)[None, None]  # one image, each of whose columns is a unit vector
    size = (after, before)
    return F.interpolate(lines, size, mode="bilinear", antialias=True)[0, 0]

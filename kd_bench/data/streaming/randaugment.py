"""RandAugment (Cubuk et al., 2020), arXiv:1909.13719, for streamed images, by torchvision."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from kd_bench.data.streaming.views import Views
from kd_bench.interfaces import require
from kd_bench.utils.torchvision import import_torchvision

STRENGTHS = 31  # number of magnitudes in torchvision, counted from 0


def check_randaugment(operations: int, magnitude: int) -> None:
    """Check the arguments of torchvision's RandAugment.

    Raises:
        UserError: one is out of range; the message has the range.
    """
    name = "dataset.randaugment"
    require(operations > 0, f"{name}.operations must be above 0, got {operations}")
    require(
        0 <= magnitude < STRENGTHS,
        f"{name}.magnitude must be from 0 to {STRENGTHS - 1}, got {magnitude}",
    )


class RandAugmented:
    """Applies the random operations of torchvision's RandAugment to other views.

    A view's number is 62 random bits, which seed the draws, so the draws depend on nothing else.
    Images for evaluation are unchanged.

    Args:
        views: crops and flips, which are applied first.
        operations: number of operations applied to an image, one after another.
        magnitude: of all operations, from 0 to 30; 9 is usual.
    """

    count = 2**62

    def __init__(self, views: Views, operations: int, magnitude: int):
        self.views = views
        transforms = import_torchvision().transforms  # once, before workers are forked
        self._randaugment = transforms.RandAugment(operations, magnitude, STRENGTHS)

    @property
    def common_size(self) -> bool:
        """Whether all images must have the same size."""
        return self.views.common_size

    def augmented(self, images: Iterable[np.ndarray], view: Tensor) -> Tensor:
        """The given views [B] of images uint8 [H', W', 3]: uint8 [B, H, W, 3]."""
        made = self.views.augmented(images, view % self.views.count)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            changed = [
                self._changed(each, number)
                for each, number in zip(made, view.tolist(), strict=True)
            ]
        return torch.stack(changed)

    def plain(self, images: Iterable[np.ndarray]) -> Tensor:
        """Images uint8 [H', W', 3] as used in evaluation: uint8 [B, H, W, 3]."""
        return self.views.plain(images)

    def _changed(self, image: Tensor, seed: int) -> Tensor:
        torch.default_generator.manual_seed(seed)
        return self._randaugment(image.permute(2, 0, 1)).permute(1, 2, 0)

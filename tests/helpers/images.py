"""Augmented images, as a training step gets them."""

from __future__ import annotations

from torch import Tensor

from kd_bench.data.dataset import Data


def augmented(data: Data, index: Tensor, epoch: int | Tensor, seed: int) -> Tensor:
    """Training images `index` [B], augmented as in an epoch: float [B, 3, H, W]."""
    return data.augmented_batch(index, data.sample_views(index, epoch, seed))

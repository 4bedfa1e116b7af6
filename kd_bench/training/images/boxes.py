"""Boxes in the images of a batch, as masks."""

from __future__ import annotations

import torch
from torch import Tensor


def box_mask(
    rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], height: int, width: int
) -> Tensor:
    """Which pixels of each image are in its box: [B, 1, H, W] bool.

    Args:
        rows: the first row of each box, and one past its last row: [B] int64, maybe outside.
        columns: likewise.
        height: of the images.
        width: of the images.
    """
    in_rows, in_columns = _is_between(*rows, height), _is_between(*columns, width)
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]


def _is_between(start: Tensor, end: Tensor, length: int) -> Tensor:
    """Which of `length` positions are in start .. end - 1: [B, length] bool."""
    position = torch.arange(length, device=start.device)
    return (start[:, None] <= position) & (position < end[:, None])

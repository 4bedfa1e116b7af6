"""Detects test images that are also training images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from torch import Tensor

Name = Callable[[int], str]  # of the image at a position


def overlap(names: Sequence[Name], keys: Sequence[Sequence[bytes]]) -> str:
    """A line about test images that are also training images; empty if there are none.

    Args:
        names: of the training and of the test images.
        keys: of the training and of the test images; images with equal keys are the same.
    """
    (train_name, test_name), (train_keys, test_keys) = names, keys
    both = set(test_keys).intersection(train_keys)
    if not both:
        return ""
    positions = [position for position, key in enumerate(test_keys) if key in both]
    example = test_name(positions[0])
    same = train_name(list(train_keys).index(test_keys[positions[0]]))
    return (
        f"test images that are also training images: {len(positions):,} of {len(test_keys):,},"
        f" such as {example}{f' (the same as {same})' if same != example else ''};"
        " test accuracy counts them"
    )


def pixel_keys(image: Tensor) -> list[bytes]:
    """A hash of the pixels of each image, uint8 [N, H, W, 3]."""
    return [hashlib.sha256(pixels).digest() for pixels in image.contiguous().numpy()]

"""How evenly the classes of a dataset are represented."""

from __future__ import annotations

from torch import Tensor

NOTABLE = 2  # times as many images in the largest class as in the smallest


def imbalance(target: Tensor, num_classes: int) -> str:
    """A line about classes [N] of very different sizes; empty where they are not.

    Each class has images.
    """
    count = target.bincount(minlength=num_classes)
    largest, smallest = int(count.max()), int(count.min())
    if largest <= NOTABLE * smallest:
        return ""
    return (
        f"classes are imbalanced: class {int(count.argmax())} has {largest:,} training images,"
        f" class {int(count.argmin())} has {smallest:,}, {largest / smallest:.1f} times fewer;"
        " accuracy counts images, not classes"
    )

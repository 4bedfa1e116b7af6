"""How evenly the classes of a dataset are represented."""

from __future__ import annotations

from torch import Tensor

NOTABLE = 2  # ratio of largest to smallest class above which a line is shown


def imbalance(target: Tensor, num_classes: int) -> str:
    """A line about labels [N] whose classes differ a lot in size; empty if they do not.

    Every class must have images.
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

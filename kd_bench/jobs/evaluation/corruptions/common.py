"""Shared by all corruptions: their type, values by strength, and lengths in pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# (images [N, H, W, 3] in [0, 1], strength 1 to 5, random numbers) -> images, maybe beyond [0, 1]
Corruption = Callable[[Array, int, np.random.Generator], Array]
Value = TypeVar("Value")

STRENGTHS = (1, 2, 3, 4, 5)
PAPERS_SIZE = 32  # height and width of the images that the parameters were chosen for


def at(strength: int, *values: Value) -> Value:
    """The value for a strength, given the values for strengths 1 to 5."""
    return values[strength - 1]


def pixels(length: float, image: Array) -> float:
    """A length on 32x32 images, scaled to larger images by their shorter side.

    It is not scaled down for smaller images, where less than a pixel would be no corruption.
    """
    return length * max(1.0, min(image.shape[1:3]) / PAPERS_SIZE)

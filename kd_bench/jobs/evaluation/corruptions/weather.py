"""Weather: snow, fog, brightness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_bench.jobs.evaluation.corruptions.blur import moved, zoomed
from kd_bench.jobs.evaluation.corruptions.common import Array, at, pixels

LUMA = np.array([0.299, 0.587, 0.114])  # of red, green, blue: ITU-R BT.601


def snow(image: Array, strength: int, random: np.random.Generator) -> Array:
    """Bright flakes with motion blur over a paler image."""
    mean, sd, zoom, threshold, radius, sigma, clear = at(
        strength,
        (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )
    flakes = zoomed(random.normal(mean, sd, size=(*image.shape[:3], 1)), zoom)
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1)
    angle = random.uniform(-135, -45, size=len(image))
    flakes = moved(flakes, pixels(radius, image), pixels(sigma, image), angle)
    pale = np.maximum(image, (image @ LUMA)[..., None] * 1.5 + 0.5)
    return clear * image + (1 - clear) * pale + flakes + flakes[:, ::-1, ::-1]


def fog(image: Array, strength: int, random: np.random.Generator) -> Array:
    """Adds clouds and reduces the contrast."""
    amount, decay = at(strength, (0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))
    count, height, width, _ = image.shape
    clouds = plasma(count, max(height, width), decay, random)[:, :height, :width, None]
    brightest = image.max(axis=(1, 2, 3), keepdims=True)
    # A black image stays black, as in the authors' formula
    return (image + amount * clouds) * brightest / (brightest + amount)


def brightness(image: Array, strength: int, random: np.random.Generator) -> Array:
    """A higher value in HSV, at the same hue and saturation."""
    value = image.max(axis=3, keepdims=True)
    higher = (value + at(strength, 0.05, 0.1, 0.15, 0.2, 0.3)).clip(0, 1)
    return np.where(value > 0, image * higher / np.where(value > 0, value, 1), higher)


def plasma(count: int, size: int, decay: float, random: np.random.Generator) -> Array:
    """Clouds from the diamond-square algorithm on a torus, [count, side, side] in [0, 1].

    A point is the mean of four neighbors plus a uniform random number, whose range shrinks by
    `decay` squared each time the distance between points is halved.

    Args:
        count: number of images.
        size: minimum number of pixels per side; the side is the next power of two.
        decay: larger for smoother clouds.
        random: random number generator.
    """
    side = 1 << (size - 1).bit_length()
    clouds, step, reach = np.zeros((count, side, side)), side, 100.0
    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        below, right = np.roll(corners, -1, axis=1), np.roll(corners, -1, axis=2)
        diagonal = np.roll(below, -1, axis=2)
        middle = _near((corners, below, right, diagonal), reach, random)
        clouds[:, half::step, half::step] = middle
        across = (corners, right, middle, np.roll(middle, 1, axis=1))
        clouds[:, ::step, half::step] = _near(across, reach, random)
        down = (corners, below, middle, np.roll(middle, 1, axis=2))
        clouds[:, half::step, ::step] = _near(down, reach, random)
        step, reach = half, reach / decay
    clouds -= clouds.min(axis=(1, 2), keepdims=True)
    return clouds / clouds.max(axis=(1, 2), keepdims=True)


def _near(neighbors: Sequence[Array], reach: float, random: np.random.Generator) -> Array:
    """The mean of neighbors plus a random number of at most the square of `reach`."""
    mean = sum(neighbors) / np.float64(len(neighbors))
    return mean + random.uniform(-(reach**2), reach**2, size=mean.shape)

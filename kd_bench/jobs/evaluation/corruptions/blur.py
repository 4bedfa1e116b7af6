"""Blur: Gaussian, defocus, frosted glass, motion, zoom."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import correlate, gaussian_filter

from kd_bench.jobs.evaluation.corruptions.common import Array, at, pixels


def gaussian_blur(image: Array, strength: int, random: np.random.Generator) -> Array:
    """A Gaussian filter."""
    return smooth(image, pixels(at(strength, 0.4, 0.6, 0.7, 0.8, 1.0), image))


def defocus_blur(image: Array, strength: int, random: np.random.Generator) -> Array:
    """The mean over a disk with a smoothed edge."""
    radius, edge = at(strength, (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))
    disk = disk_kernel(pixels(radius, image), pixels(edge, image))
    return correlate(image, disk[None, :, :, None], mode="mirror")


def glass_blur(image: Array, strength: int, random: np.random.Generator) -> Array:
    """Each pixel takes the color of a random neighbor, between two Gaussian filters.

    The authors' code is meant to swap the two pixels, but copies one to the other; so does this.
    """
    sigma, distance, times = at(
        strength, (0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)
    )
    sigma, reach = pixels(sigma, image), round(pixels(distance, image))
    image = smooth(image, sigma)
    count, height, width, _ = image.shape
    numbers = np.arange(count)
    for _ in range(times):
        for row in range(height - reach, reach, -1):
            moves = random.integers(-reach, reach, size=(width, 2, count))
            for column in range(width - reach, reach, -1):
                down, right = moves[column]
                image[:, row, column] = image[numbers, row + down, column + right]
    return smooth(image, sigma)


def motion_blur(image: Array, strength: int, random: np.random.Generator) -> Array:
    """The camera moves along a line in a random direction within 45 degrees of the horizontal."""
    radius, sigma = at(strength, (6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))
    angle = random.uniform(-45, 45, size=len(image))
    return moved(image, pixels(radius, image), pixels(sigma, image), angle)


def zoom_blur(image: Array, strength: int, random: np.random.Generator) -> Array:
    """The mean of the image and of magnified copies, in steps of 1 % up to a largest factor."""
    steps = at(strength, 6, 11, 16, 21, 26)
    return (image + sum(zoomed(image, 1 + step / 100) for step in range(steps))) / (steps + 1)


def smooth(image: Array, sigma: float) -> Array:
    """A Gaussian filter of images [N, H, W, C], padded with their edge pixels."""
    return gaussian_filter(image, (0, sigma, sigma, 0), mode="nearest")


def disk_kernel(radius: float, edge: float) -> Array:
    """Equal weights at the pixels of a disk, smoothed by a Gaussian of 3x3 pixels, sigma `edge`."""
    side = math.ceil(radius) + 1
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    inside = (x**2 + y**2 <= radius**2).astype(float)
    line = np.exp(-(np.array([-1, 0, 1]) ** 2) / (2 * edge**2))
    line /= line.sum()
    return correlate(inside / inside.sum(), np.outer(line, line), mode="constant")


def moved(image: Array, radius: float, sigma: float, angle: Array) -> Array:
    """One-sided motion blur as in ImageMagick.

    A mean along a line that begins at the pixel, weighted by half a Gaussian, without interpolation
    and padded with the edge pixels.

    Args:
        image: [N, H, W, C].
        radius: the line has 2 * radius + 1 pixels.
        sigma: of the Gaussian.
        angle: of the line, in degrees, [N].
    """
    length = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(length) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    count, height, width, _ = image.shape
    numbers, turn = np.arange(count)[:, None, None], np.deg2rad(angle)
    result = np.zeros_like(image)
    for step, weight in enumerate(weights):
        down, right = (np.ceil(step * part(turn) - 0.5).astype(int) for part in (np.sin, np.cos))
        rows = np.clip(np.arange(height) + down[:, None], 0, height - 1)
        columns = np.clip(np.arange(width) + right[:, None], 0, width - 1)
        result += weight * image[numbers, rows[:, :, None], columns[:, None, :]]
    return result


def zoomed(image: Array, factor: float) -> Array:
    """The center of images [N, H, W, C], magnified to their size by linear interpolation."""
    rows, columns = (_zoom(size, factor) for size in image.shape[1:3])
    return np.einsum("hi,wj,nijc->nhwc", rows, columns, image, optimize=True)


def _zoom(size: int, factor: float) -> Array:
    """The matrix [size, size] that magnifies the center of a line of pixels."""
    cut = math.ceil(size / factor)
    large = round(cut * factor)
    place = (np.arange(size) + (large - size) // 2) * (cut - 1) / max(large - 1, 1)
    place += (size - cut) // 2
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(size)))

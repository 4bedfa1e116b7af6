"""Digital corruptions: contrast, color, compression, resolution, distortion."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter

from kd_bench.jobs.evaluation.corruptions.common import Array, at


def contrast(image: Array, strength: int, random: np.random.Generator) -> Array:
    """Moves pixels closer to the mean of their channel."""
    mean = image.mean(axis=(1, 2), keepdims=True)
    return mean + at(strength, 0.75, 0.5, 0.4, 0.3, 0.15) * (image - mean)


def saturate(image: Array, strength: int, random: np.random.Generator) -> Array:
    """Changes the saturation in HSV at the same hue and value; grey, with no hue, becomes red."""
    factor, more = at(strength, (0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))
    value, lowest = image.max(axis=3, keepdims=True), image.min(axis=3, keepdims=True)
    spread = value - lowest
    saturation = spread / np.where(value > 0, value, 1)
    wanted = value * (saturation * factor + more).clip(0, 1)  # the new spread
    of_red = np.broadcast_to([0.0, 1.0, 1.0], image.shape)
    below = np.where(spread > 0, (value - image) / np.where(spread > 0, spread, 1), of_red)
    return value - below * wanted


def jpeg_compression(image: Array, strength: int, random: np.random.Generator) -> Array:
    """JPEG compression."""
    quality = at(strength, 80, 65, 58, 50, 40)

    def compressed(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return np.stack([_array(compressed(picture)) for picture in _pictures(image)])


def pixelate(image: Array, strength: int, random: np.random.Generator) -> Array:
    """Downscales by a factor and upscales again, both with a box filter."""
    factor = at(strength, 0.95, 0.9, 0.85, 0.75, 0.65)
    _, height, width, _ = image.shape
    small = int(width * factor), int(height * factor)
    box = Image.Resampling.BOX
    shrunk = (picture.resize(small, box) for picture in _pictures(image))
    return np.stack([_array(picture.resize((width, height), box)) for picture in shrunk])


def elastic_transform(image: Array, strength: int, random: np.random.Generator) -> Array:
    """A random affine map, followed by a random smooth displacement field."""
    most, sigma, corner = at(  # fractions of the image size
        strength,
        (0.0, 0.0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )
    count, height, width, _ = image.shape
    size = min(height, width)
    y, x = np.mgrid[0.0:height, 0.0:width]
    image = warped(image, *_affine(x, y, corner * size, count, random))
    fields = random.uniform(-1, 1, size=(2, count, height, width))
    smooth = (0, 0, sigma * size, sigma * size)
    right, down = most * size * gaussian_filter(fields, smooth, mode="reflect", truncate=3)
    return warped(image, x + right, y + down)


def _affine(
    x: Array, y: Array, most: float, count: int, random: np.random.Generator
) -> tuple[Array, Array]:
    """The source coordinates of each pixel (x, y) under an affine map: two arrays [N, H, W].

    The map moves three corners of a centered square by up to `most` pixels in each direction.
    """
    height, width = x.shape
    center, half = np.array([height, width]) // 2, min(height, width) // 3
    corners = center + half * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + random.uniform(-most, most, size=(count, 3, 2))
    # [x, y, 1] @ back = source position, solved at the three corners
    known = np.concatenate([moved, np.ones((count, 3, 1))], axis=2)
    back = np.linalg.solve(known, np.broadcast_to(corners.astype(float), (count, 3, 2)))
    points = np.stack([x, y, np.ones_like(x)], axis=2)
    source = np.einsum("hwi,nij->nhwj", points, back)
    return source[..., 0], source[..., 1]


def warped(image: Array, x: Array, y: Array) -> Array:
    """Images [N, H, W, 3] sampled at x and y, [N, H, W]: bilinear, with reflection padding."""
    _, height, width, _ = image.shape
    grid = np.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], axis=3)
    channels_first = torch.from_numpy(image).permute(0, 3, 1, 2)
    result = F.grid_sample(
        channels_first, torch.from_numpy(grid), padding_mode="reflection", align_corners=True
    )
    return result.permute(0, 2, 3, 1).numpy()


def _pictures(image: Array) -> list[Image.Image]:
    return [Image.fromarray(each) for each in np.rint(image * 255).astype(np.uint8)]


def _array(picture: Image.Image) -> Array:
    return np.asarray(picture) / 255

"""A strongly augmented view of each image of a batch: two random operations, then a hole.

RandAugment (Cubuk et al., arXiv:1909.13719) with the operations and the ranges of FixMatch (Sohn et
al., arXiv:2001.07685, appendix D), followed by Cutout as in FixMatch. Each image has its own
operations and strengths. All are batched without synchronizing with the device: every operation is
computed for all images, and `torch.where` selects.

Pixels are levels from 0 to 255, whole numbers as in an 8-bit image, in float32 [B, 3, H, W];
strengths are [B, 1, 1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kd_bench.interfaces import Loss, LossContext

OPERATIONS_PER_IMAGE = 2
LARGEST_HOLE = 0.5  # side of the hole, as a fraction of the image's
LEVELS = 256
STRONG = "strong"  # the view's name


class StrongView(nn.Module):
    """Makes a strong view of normalised images, for `Loss.extra_views`.

    Its random numbers come from PyTorch's global generator, which is seeded at each epoch. It
    starts from the image as augmented by the dataset (crop, flip), so both views share crop and
    flip; FixMatch draws them for each view.

    Args:
        context: provides the mean and deviation by which images are normalised.
    """

    mean: Tensor  # [3, 1, 1], of pixels in [0, 1]
    std: Tensor

    def __init__(self, context: LossContext):
        super().__init__()
        # Not in the checkpoint, since they belong to the data.
        self.register_buffer("mean", context.mean.view(3, 1, 1).float(), persistent=False)
        self.register_buffer("std", context.std.view(3, 1, 1).float(), persistent=False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Strong views of images [B, 3, H, W], in the same memory format."""
        level = 255 * (image.contiguous() * self.std + self.mean)
        level = level.round().clamp(0, 255)
        for _ in range(OPERATIONS_PER_IMAGE):
            level = random_operation(level)
        view = (level / 255 - self.mean) / self.std
        view = view.masked_fill(random_holes(level), 0.0)  # the training set's mean
        return torch.empty_like(image).copy_(view)


class TwoViewLoss(Loss):
    """A loss that also compares the networks on a strong view of each image (`Output.views`)."""

    def __init__(self, context: LossContext):
        super().__init__(context)
        self.strong_view = StrongView(context)

    def extra_views(self, image: Tensor) -> dict[str, Tensor]:
        return {STRONG: self.strong_view(image)}


def random_operation(level: Tensor) -> Tensor:
    """Apply one random operation to each image, with a strength drawn uniformly from its range."""
    shape = len(level), 1, 1, 1
    chosen = torch.randint(len(COLOURS) + len(PLACES), shape, device=level.device)
    share = torch.rand(shape, device=level.device)
    result = level
    for number, (operation, low, high) in enumerate(COLOURS):
        changed = operation(level, low + (high - low) * share)
        result = torch.where(chosen == number, changed, result)
    y, x = positions(level)
    source_y, source_x = y.expand(len(level), 1, -1, len(x.T)), x.expand(len(level), 1, len(y), -1)
    for number, (move, low, high) in enumerate(PLACES, start=len(COLOURS)):
        moved = move(y, x, low + (high - low) * share)
        source_y, source_x = (
            torch.where(chosen == number, new, old)
            for new, old in zip(moved, (source_y, source_x), strict=True)
        )
    return pick(result, source_y, source_x)


def random_holes(level: Tensor) -> Tensor:
    """The pixels to cut out of each image: [B, 1, H, W] bool, a square clipped at the edges.

    Its side is uniform up to `LARGEST_HOLE`, and its centre is anywhere in the image.
    """
    _, _, height, width = level.shape
    side, row, column = torch.rand(3, len(level), 1, 1, 1, device=level.device)
    half = LARGEST_HOLE * side * width / 2
    y, x = positions(level)
    return ((y - row * height).abs() < half) & ((x - column * width).abs() < half)


# Operations on colours


def keep(level: Tensor, strength: Tensor) -> Tensor:
    """The image itself."""
    return level


def auto_contrast(level: Tensor, strength: Tensor) -> Tensor:
    """Each channel stretched to the full range, 0 to 255; a constant channel stays unchanged."""
    low, high = level.amin((2, 3), keepdim=True), level.amax((2, 3), keepdim=True)
    stretched = (255 * (level - low) / (high - low).clamp(min=1)).floor()
    return torch.where(high > low, stretched, level)


def equalize(level: Tensor, strength: Tensor) -> Tensor:
    """Each channel equalized by its cumulative histogram."""
    images, channels, height, width = level.shape
    index = level.reshape(images, channels, -1).long()
    count = torch.zeros(images, channels, LEVELS, device=level.device, dtype=torch.int64)
    count = count.scatter_add(2, index, torch.ones_like(index))
    highest = count.gather(2, index.amax(2, keepdim=True))
    step = (height * width - highest) // 255  # pixels per level, without those of the highest level
    below = count.cumsum(2) - count
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    equalized = table.gather(2, index).view(level.shape).to(level.dtype)
    return torch.where((step > 0).unsqueeze(3), equalized, level)


def posterize(level: Tensor, strength: Tensor) -> Tensor:
    """Only the highest bits of each level: 4 to 7 for a strength from 4 to below 8."""
    unit = torch.exp2(8 - strength.floor())
    return (level / unit).floor() * unit


def solarize(level: Tensor, strength: Tensor) -> Tensor:
    """Levels at or above the strength inverted."""
    return torch.where(level < strength, level, 255 - level)


def brightness(level: Tensor, strength: Tensor) -> Tensor:
    """Mixed with black; strength 1 gives the image itself."""
    return _mix(torch.zeros_like(level), level, strength)


def colour(level: Tensor, strength: Tensor) -> Tensor:
    """Mixed with its grey version."""
    return _mix(grey(level), level, strength)


def contrast(level: Tensor, strength: Tensor) -> Tensor:
    """Mixed with its mean grey."""
    return _mix(grey(level).mean((2, 3), keepdim=True).round(), level, strength)


def sharpness(level: Tensor, strength: Tensor) -> Tensor:
    """Mixed with a smoothed version, except for the outermost pixels."""
    three = level[..., :-2, :] + level[..., 1:-1, :] + level[..., 2:, :]
    nine = three[..., :-2] + three[..., 1:-1] + three[..., 2:]
    smooth = level.clone()
    smooth[..., 1:-1, 1:-1] = ((nine + 4 * level[..., 1:-1, 1:-1]) / 13).round()
    return _mix(smooth, level, strength)


def grey(level: Tensor) -> Tensor:
    """The luma of ITU-R BT.601: [B, 3, H, W] -> [B, 1, H, W]."""
    red, green, blue = level.split(1, dim=1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).round()


def _mix(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    return (start + share * (end - start)).floor()


# Geometric operations: row and column [B, 1, H, W] from which each pixel is taken


def rotate(y: Tensor, x: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Rotated about the centre by the strength in degrees, counterclockwise."""
    angle = strength * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    middle_y, middle_x = len(y) / 2, x.shape[1] / 2
    y, x = y - middle_y, x - middle_x
    return sin * x + cos * y + middle_y, cos * x - sin * y + middle_x


def shear_x(y: Tensor, x: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Each row moved to the left by the strength times its distance from the upper edge."""
    return y, x + strength * y


def shear_y(y: Tensor, x: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Each column moved up by the strength times its distance from the left edge."""
    return y + strength * x, x


def translate_x(y: Tensor, x: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Moved to the left by the strength times the width."""
    return y, x + strength * x.shape[1]


def translate_y(y: Tensor, x: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Moved up by the strength times the height."""
    return y + strength * len(y), x


def positions(level: Tensor) -> tuple[Tensor, Tensor]:
    """Row [H, 1] and column [1, W] of the centre of each pixel: 0.5, 1.5, ..."""
    y, x = (torch.arange(n, device=level.device) + 0.5 for n in level.shape[2:])
    return y[:, None], x[None, :]


def pick(level: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The pixels at rows and columns [B, 1, H, W]; black outside."""
    images, channels, height, width = level.shape
    is_inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    row, column = y.floor().clamp(0, height - 1), x.floor().clamp(0, width - 1)
    index = (row * width + column).long().view(images, 1, -1).expand(-1, channels, -1)
    picked = level.view(images, channels, -1).gather(2, index).view(level.shape)
    return picked.masked_fill(~is_inside, 0.0)


ColourOperation = Callable[[Tensor, Tensor], Tensor]  # levels and strengths -> levels
PlaceOperation = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

# Operations with the range of their strength.
COLOURS: tuple[tuple[ColourOperation, float, float], ...] = (
    (keep, 0, 1),
    (auto_contrast, 0, 1),
    (equalize, 0, 1),
    (posterize, 4, 8),
    (solarize, 0, 256),
    (brightness, 0.05, 0.95),
    (colour, 0.05, 0.95),
    (contrast, 0.05, 0.95),
    (sharpness, 0.05, 0.95),
)
PLACES: tuple[tuple[PlaceOperation, float, float], ...] = (
    (rotate, -30, 30),
    (shear_x, -0.3, 0.3),
    (shear_y, -0.3, 0.3),
    (translate_x, -0.3, 0.3),
    (translate_y, -0.3, 0.3),
)

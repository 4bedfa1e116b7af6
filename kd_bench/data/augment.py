"""Augmentation: an image's crop and flip are a pure function of (seed, epoch, occurrence).

Images are stored padded, so an augmented view is a window of the original size at one of (2p+1)^2
positions, flipped or not. Integer arithmetic makes it the same on every device and in any batch.

An occurrence is one use of an image in an epoch, as the integer index + repetition * images, with
repetitions counted from 0. Every random choice for an image depends on it, so the first repetition
has the views of an epoch without repeated augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kd_bench.utils.splitmix import below, image_word


def view_count(pad: int, flip: bool) -> int:
    """Number of views of an image: (2 pad + 1)^2 crops, twice that with flips."""
    return (2 * pad + 1) ** 2 * (1 + flip)


def occurrences(order: Tensor, repeats: int, sizes: Sequence[int]) -> Tensor:
    """The occurrences of an epoch: [N] int64, as many as there are images.

    With repeated augmentation (Berman et al., 2019, MultiGrain, arXiv:1902.05509; Hoffer et al.,
    2020, arXiv:1901.09335), each image is followed by its repetitions, as in timm's
    RepeatAugSampler, and batches are parts of this order. Within a batch, first repetitions come
    first, then second ones, and so on. So an image is not mixed with itself, and if at least as
    many processes as repetitions share a batch, no process gets an image twice.

    Args:
        order: the images of an epoch without repetitions, [N] int64.
        repeats: how often each image is used.
        sizes: the number of images in each batch; the remaining images come last.
    """
    images = len(order)
    repetition = images * torch.arange(repeats)
    occurrence = (order[:, None] + repetition).flatten()[:images]
    batches = occurrence.split([*sizes, images - sum(sizes)])
    return torch.cat([batch[(batch // images).argsort(stable=True)] for batch in batches])


def image_of(occurrence: Tensor, images: int) -> Tensor:
    """The index of each occurrence [B], for a training set of `images` images."""
    return occurrence % images


def sample_view(seed: int, epoch: int | Tensor, occurrence: Tensor, count: int) -> Tensor:
    """View number of each occurrence [B] in this epoch: int64 [B], uniform in 0..count-1.

    `epoch` may be a tensor, so that a replayed CUDA graph samples new views.
    """
    return below(image_word(seed, epoch, occurrence), count)


def decode_view(view: Tensor, pad: int, flip: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Top row and left column of views in the padded image, 0..2 pad; whether they are flipped."""
    corner = view // (1 + flip)
    flipped = view % (1 + flip) == 1
    return corner // (2 * pad + 1), corner % (2 * pad + 1), flipped


def crop_and_flip(padded: Tensor, index: Tensor, view: Tensor, pad: int, flip: bool) -> Tensor:
    """Crop views from padded images [N, H+2p, W+2p, C]: [B, H, W, C], contiguous, same dtype.

    A single gather of whole pixels for the batch. On a CPU this is several times faster than
    indexing by image, row and column, or than cropping first and flipping in a second pass.
    """
    _, rows, columns, channels = padded.shape
    height, width = rows - 2 * pad, columns - 2 * pad
    top, left, flipped = decode_view(view, pad, flip)
    y = torch.arange(height, device=index.device)
    x = torch.arange(width, device=index.device)
    x = torch.where(flipped[:, None], width - 1 - x, x)  # [B, W]
    corner = (index * rows + top) * columns + left  # [B], flat pixel index over all images
    pixel = corner[:, None, None] + (y * columns)[:, None] + x[:, None, :]  # [B, H, W]
    found = padded.view(-1, channels).index_select(0, pixel.flatten())
    return found.view(len(index), height, width, channels)


def pad_images(image: Tensor, pad: int, padding: str) -> Tensor:
    """Images [N, H, W, C] padded by `pad` pixels on each side: [N, H+2p, W+2p, C], on the CPU.

    "zero" pads with zeros; "reflect" mirrors without repeating the outermost pixel:
    2 1 | 0 1 2 3 | 2 1.
    """
    width = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    if padding == "zero":
        return torch.from_numpy(np.pad(image.numpy(), width, mode="constant"))
    return torch.from_numpy(np.pad(image.numpy(), width, mode="reflect"))

"""Datasets on the training device: uint8 images, turned into normalized batches on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kd_bench.data import augment
from kd_bench.data.augment import pad_images, sample_view
from kd_bench.data.source import Description, Source, Split
from kd_bench.interfaces import require
from kd_bench.utils.splitmix import splitmix64

# The validation split is part of the dataset, not of a job: it is the same for every seed.
VALIDATION_SEED = 20150309


@dataclass(frozen=True, eq=False)
class Data:
    """A dataset on a device; only the current batch is converted from uint8 to float."""

    train: Split  # image [N, H+2p, W+2p, 3], padded for cropping
    test: Split
    validation: Split | None
    num_classes: int
    pad: int
    flip: bool
    mean: Tensor  # [3] float, of pixels in [0, 1]
    std: Tensor  # [3]
    fingerprint: str  # hash of the source's training and test images and labels

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image, without padding."""
        _, height, width, _ = self.test.image.shape
        return height, width

    @property
    def train_size(self) -> int:
        """Number of training images, without the validation images."""
        return len(self.train.target)

    @property
    def view_count(self) -> int:
        """Number of different augmented views of a training image."""
        return augment.view_count(self.pad, self.flip)

    def sample_views(self, index: Tensor, epoch: int | Tensor, seed: int) -> Tensor:
        """View number of each training image `index` [B] in an epoch: [B] int64.

        It depends on (seed, epoch, index) alone: neither on the batch nor on the device.
        """
        return sample_view(seed, epoch, index, self.view_count)

    def augmented_batch(self, index: Tensor, view: Tensor) -> Tensor:
        """The given views [B] of training images `index` [B], normalized: float [B, 3, H, W].

        In the memory format channels_last.
        """
        image = augment.crop_and_flip(self.train.image, index, view, self.pad, self.flip)
        return self._normalise(image)

    def eval_batch(self, split: Split, start: int, stop: int) -> Tensor:
        """Images start..stop-1 of a split, normalized, without augmentation: float [B, 3, H, W].

        For `train`, whose images are padded, this is the center crop, i.e. the original image.
        """
        height, width = self.image_size
        margin = (split.image.shape[1] - height) // 2
        middle = slice(margin, margin + height), slice(margin, margin + width)
        return self._normalise(split.image[start:stop, middle[0], middle[1]])

    def _normalise(self, image: Tensor) -> Tensor:
        """(image / 255 - mean) / std of uint8 [B, H, W, 3], as float [B, 3, H, W] channels_last."""
        # Multiply and add are separate, so that rounding is the same on all devices: a fused
        # operator (addcmul) leaves it to the device whether the product is rounded.
        scale, shift = self._scale_and_shift
        return image.float().mul_(scale).add_(shift).permute(0, 3, 1, 2)

    @cached_property
    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(x / 255 - mean) / std as x * scale + shift, each [H, W, 3].

        One value per pixel instead of three in total: five times faster on a CPU, whose inner loop
        would otherwise have length three.
        """
        mean, std = self.mean.double(), self.std.double()
        scale, shift = 1 / (255 * std), -mean / std
        scale, shift = (x.float().expand(*self.image_size, 3).contiguous() for x in (scale, shift))
        return scale, shift


class Dataset:
    """A source of images and its preprocessing: `dataset` in the configuration."""

    def __init__(
        self,
        source: Source,
        *,
        pad: int,
        padding: str,
        flip: bool,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        validation: int = 0,
    ):
        """Augmentation is a random crop after padding by `pad` pixels, and a random flip.

        `padding` is "zero" or "reflect". `mean` and `std` are per channel, of pixels in [0, 1];
        None means those of the training images. `validation` is the number of images split from the
        training set, the same ones in every job.
        """
        require(pad >= 0, f"dataset.pad must be at least 0, got {pad}")
        require(
            padding in ("zero", "reflect"),
            f"dataset.padding must be zero or reflect, got {padding}",
        )
        for name, values in (("mean", mean), ("std", std)):
            require(
                values is None or len(values) == 3,
                f"dataset.{name} must be three numbers (red, green, blue) or null, got {values}",
            )
        require(std is None or min(std) > 0, f"dataset.std must be above 0, got {std}")
        self.source = source
        self.pad = pad
        self.padding = padding
        self.flip = flip
        self.mean = mean
        self.std = std
        self.validation = validation

    def describe(self) -> Description:
        """Sizes without decoding any image; raises UserError if the settings do not fit them."""
        described = self.source.describe()
        smaller = min(described.height, described.width)
        require(
            self.pad < smaller,
            f"dataset.pad must be below the image size ({smaller}), got {self.pad}",
        )
        require(
            0 <= self.validation < described.train_size,
            f"dataset.validation must be from 0 to {described.train_size - 1} "
            f"(one less than the number of training images), got {self.validation}",
        )
        return replace(described, train_size=described.train_size - self.validation)

    def load(self, device: str | torch.device = "cpu") -> Data:
        """Decode, check, split off validation images, normalize, pad and move to the device."""
        described = self.describe()
        train, test = self.source.load()
        _check_split(train, described.train_size + self.validation, described, "training set")
        _check_split(test, described.test_size, described, "test set")
        fingerprint = fingerprint_of(train, test)
        train, validation = split_validation(train, self.validation)
        _check_classes(train, described, "training set without its validation images")
        mean, std = self._statistics(train)
        padded = Split(pad_images(train.image, self.pad, self.padding), train.target)
        return Data(
            train=_move(padded, device),
            test=_move(test, device),
            validation=_move(validation, device) if validation else None,
            num_classes=described.num_classes,
            pad=self.pad,
            flip=self.flip,
            mean=mean.to(device),
            std=std.to(device),
            fingerprint=fingerprint,
        )

    def _statistics(self, train: Split) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel, float [3]: as configured, else of the images."""
        mean, std = (
            None if given is None else torch.as_tensor(given, dtype=torch.float32)
            for given in (self.mean, self.std)
        )
        if mean is None or std is None:
            measured = channel_statistics(train.image)
            mean = measured[0].float() if mean is None else mean
            std = measured[1].float() if std is None else std
        require(
            bool((std > 0).all()),
            "a color channel is constant over all training images, so its standard deviation is "
            "zero: set dataset.std",
        )
        return mean, std


def channel_statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation per channel of uint8 [N, H, W, 3]: double [3].

    Of pixels in [0, 1]. Computed from counts of the 256 levels, which are exact for any number of
    images and threads.
    """
    channels = (image[..., c].flatten() for c in range(3))
    count = torch.stack([channel.bincount(minlength=256) for channel in channels])  # [3, 256]
    share = count / count.sum(1, keepdim=True).double()
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = (share * level).sum(1)
    variance = (share * (level - mean[:, None]) ** 2).sum(1)
    return mean, variance.sqrt()


def split_validation(train: Split, size: int) -> tuple[Split, Split | None]:
    """The training set without its validation images, and those, both in their original order.

    Takes the images with the `size` smallest hashes of their index: independent of the random
    number generator of any library and of a job's seed, and a smaller validation set is a subset of
    a larger one.
    """
    if size == 0:
        return train, None
    position = torch.arange(len(train.target))
    rank = splitmix64(position + VALIDATION_SEED).argsort()
    held, kept = (chosen.sort().values for chosen in (rank[:size], rank[size:]))
    return _select(train, kept), _select(train, held)


def fingerprint_of(train: Split, test: Split) -> str:
    """16 hexadecimal digits of SHA-256 over shapes, pixels and labels of both splits."""
    digest = hashlib.sha256()
    for tensor in (train.image, train.target, test.image, test.target):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.flatten().numpy().data)
    return digest.hexdigest()[:16]


def _select(split: Split, index: Tensor) -> Split:
    return Split(split.image[index], split.target[index])


def _move(split: Split, device: str | torch.device) -> Split:
    return Split(split.image.to(device), split.target.to(device))


def _check_split(split: Split, size: int, described: Description, name: str) -> None:
    """Check that the images of a source match its description."""
    require(size > 0, f"the {name} has no images")
    expected = (size, described.height, described.width, 3)
    shape, dtype = tuple(split.image.shape), split.image.dtype
    require(
        shape == expected and dtype == torch.uint8,
        f"the {name} should be uint8 images {list(expected)}, got {dtype} {list(shape)}",
    )
    shape, dtype = tuple(split.target.shape), split.target.dtype
    require(
        shape == (size,) and dtype == torch.int64,
        f"the {name} should have int64 classes [{size}], got {dtype} {list(shape)}",
    )
    low, high = int(split.target.min()), int(split.target.max())
    require(
        low >= 0 and high < described.num_classes,
        f"classes of the {name} should be 0..{described.num_classes - 1}, got {low}..{high}",
    )
    _check_classes(split, described, name)


def _check_classes(split: Split, described: Description, name: str) -> None:
    count = split.target.bincount(minlength=described.num_classes)
    empty = (count == 0).nonzero().flatten().tolist()
    have = "has" if len(empty) == 1 else "have"
    require(
        not empty,
        f"{len(empty)} of {described.num_classes} classes {have} no images in the {name}: "
        f"{', '.join(map(str, empty[:5]))}{', ...' if len(empty) > 5 else ''}",
    )

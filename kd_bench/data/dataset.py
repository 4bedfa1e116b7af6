"""Datasets: an image source with its preprocessing, loaded into memory or streamed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kd_bench.data.augment import pad_images
from kd_bench.data.data import Data
from kd_bench.data.files.overlap import overlap, pixel_keys
from kd_bench.data.resident import ResidentData
from kd_bench.data.source import Description, Reader, Source, Split, StreamedSource
from kd_bench.data.streaming.randaugment import RandAugmented, check_randaugment
from kd_bench.data.streaming.streamed import StreamedData, StreamedSplit
from kd_bench.data.streaming.views import PaddedCrop, ResizedCrop, Views
from kd_bench.interfaces import require
from kd_bench.utils.files import json_hash
from kd_bench.utils.process import available_memory, core_count
from kd_bench.utils.splitmix import splitmix64
from kd_bench.utils.text.formatting import format_bytes

# The validation split belongs to the dataset, not to a job: it is the same for every seed.
VALIDATION_SEED = 20150309

PART = 256  # images per batch when computing channel statistics


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
        resized_crop: ResizedCrop | None = None,
        randaugment: tuple[int, int] | None = None,
        streamed: bool = False,
        workers: int | None = None,
    ):
        """Augmentation is a random crop after padding by `pad` pixels, and a random flip.

        `padding` is "zero" or "reflect". `mean` and `std` are per channel, for pixels in [0, 1];
        None means those of the training images. `validation` is the number of images split from the
        training set, the same ones in every job. `resized_crop` replaces padding, crop and flip;
        `randaugment` (number of operations, magnitude) is applied afterwards.

        With `streamed`, images are decoded during training by `workers` processes; None means one
        per core, 0 means this process.
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
        require(
            resized_crop is None or streamed,
            "dataset.resized_crop requires streamed images; add dataset.streamed=true",
        )
        require(
            randaugment is None or streamed,
            "dataset.randaugment requires streamed images; add dataset.streamed=true",
        )
        if randaugment is not None:
            check_randaugment(*randaugment)
        require(
            resized_crop is None or pad == 0,
            f"dataset.resized_crop replaces padding; add dataset.pad=0, got {pad}",
        )
        require(
            not streamed or isinstance(source, StreamedSource),
            f"{type(source).__name__} keeps its images in memory; leave out dataset.streamed",
        )
        require(
            workers is None or workers >= 0, f"dataset.workers must be 0 or more, got {workers}"
        )
        self.source = source
        self.pad = pad
        self.padding = padding
        self.flip = flip
        self.mean = mean
        self.std = std
        self.validation = validation
        self.resized_crop = resized_crop
        self.randaugment = randaugment
        self.streamed = streamed
        self.workers = workers

    @property
    def view_count(self) -> int:
        """Number of different augmented views of a training image."""
        return self._views().count

    def describe(self) -> Description:
        """Sizes, without decoding any image; raises UserError if the settings do not fit them."""
        described = self.source.describe()
        if self.resized_crop is not None:
            size = self.resized_crop.size
            described = replace(described, height=size, width=size)
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

    def load(self, device: str | torch.device = "cpu", processes: int = 1) -> Data:
        """The images on a device, or streamed to it.

        Args:
            device: where the images go.
            processes: how many processes load these images and share the cores.

        Raises:
            UserError: they do not match the source's description, or do not fit into memory.
        """
        return self._open(device, processes) if self.streamed else self._load(device)

    def _load(self, device: str | torch.device) -> ResidentData:
        """Decode, check, split off validation images, normalize, pad and move to the device."""
        described = self.describe()
        self._check_memory(described)
        stored = train, test = self.source.load()
        _check_split(train, described.train_size + self.validation, described, "training set")
        _check_split(test, described.test_size, described, "test set")
        fingerprint = fingerprint_of(train, test)
        train, validation = split_validation(train, self.validation)
        _check_classes(train.target, described, "training set without its validation images")
        mean, std = self._statistics(lambda: channel_counts(train.image))
        padded = Split(pad_images(train.image, self.pad, self.padding), train.target)
        return ResidentData(
            train=_move(padded, device),
            test=_move(test, device),
            validation=_move(validation, device) if validation else None,
            num_classes=described.num_classes,
            pad=self.pad,
            flip=self.flip,
            mean=mean.to(device),
            std=std.to(device),
            fingerprint=fingerprint,
            overlap=overlap(
                [reader.name for reader in self.source.open()],
                [pixel_keys(each.image) for each in stored],
            )
            if isinstance(self.source, StreamedSource)
            else "",
        )

    def _open(self, device: str | torch.device, processes: int) -> StreamedData:
        """Check labels, split off validation images, and compute normalization statistics."""
        described = self.describe()
        assert isinstance(self.source, StreamedSource)  # checked by the constructor
        train, test = self.source.open()
        share = max(1, core_count() // processes)
        _check_labels(
            train.target, described.train_size + self.validation, described, "training set"
        )
        _check_labels(test.target, described.test_size, described, "test set")
        kept, held = validation_positions(len(train.target), self.validation)
        name = "training set without its validation images"
        _check_classes(train.target[kept], described, name)

        def split(reader: Reader, position: Tensor) -> StreamedSplit:
            return StreamedSplit(reader, position, reader.target[position].to(device))

        data = StreamedData(
            train=split(train, kept),
            test=split(test, torch.arange(len(test.target))),
            validation=split(train, held) if self.validation else None,
            num_classes=described.num_classes,
            mean=torch.zeros(3, device=device),
            std=torch.ones(3, device=device),
            fingerprint=json_hash(["streamed", train.fingerprint, test.fingerprint], 16),
            overlap=overlap((train.name, test.name), (train.keys, test.keys)),
            size=(described.height, described.width),
            views=self._views(),
            workers=share if self.workers is None else self.workers,
        )
        mean, std = self._statistics(lambda: _count_all(data))
        return replace(data, mean=mean.to(device), std=std.to(device))

    def _views(self) -> Views:
        crops = self.resized_crop or PaddedCrop(self.pad, self.padding, self.flip)
        return crops if self.randaugment is None else RandAugmented(crops, *self.randaugment)

    def _check_memory(self, described: Description) -> None:
        """Refuse images that do not fit into memory, before decoding any of them."""
        train = described.train_size + self.validation
        pixels = described.height * described.width
        padded = (described.height + 2 * self.pad) * (described.width + 2 * self.pad)
        needed = 3 * (pixels * (train + described.test_size) + padded * train)
        available = available_memory()
        advice = "; add dataset.streamed=true" if isinstance(self.source, StreamedSource) else ""
        require(
            available is None or needed <= available,
            f"{train + described.test_size:,} images of {described.width}x{described.height} pixels"
            f" need {format_bytes(needed)} of memory while loading, but only"
            f" {format_bytes(available or 0)} are free{advice}",
        )

    def _statistics(self, count: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel, float [3], configured or of the images.

        Args:
            count: returns the `channel_counts` of all training images.
        """
        mean, std = (
            None if given is None else torch.as_tensor(given, dtype=torch.float32)
            for given in (self.mean, self.std)
        )
        if mean is None or std is None:
            measured = channel_statistics(count())
            mean = measured[0].float() if mean is None else mean
            std = measured[1].float() if std is None else std
        require(
            bool((std > 0).all()),
            "a color channel is constant over all training images, so its standard deviation is "
            "zero: set dataset.std",
        )
        return mean, std


def _count_all(data: StreamedData) -> Tensor:
    total = torch.zeros(3, 256, dtype=torch.int64)
    for image in data.plain_images(data.train, PART):
        total += channel_counts(image)
    return total


def channel_counts(image: Tensor) -> Tensor:
    """How often each of the 256 levels occurs in each channel of uint8 [N, H, W, 3]: [3, 256]."""
    channels = (image[..., c].flatten() for c in range(3))
    return torch.stack([channel.bincount(minlength=256) for channel in channels])


def channel_statistics(count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation per channel from `channel_counts`: double [3].

    For pixels in [0, 1]. Counts are exact for any number of images and threads.
    """
    share = count / count.sum(1, keepdim=True).double()
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = (share * level).sum(1)
    variance = (share * (level - mean[:, None]) ** 2).sum(1)
    return mean, variance.sqrt()


def split_validation(train: Split, size: int) -> tuple[Split, Split | None]:
    """The training set without its validation images, and those, both in original order.

    Takes the images with the `size` smallest hashes of their index. So the split depends neither on
    a library's random number generator nor on a job's seed, and a smaller validation set is a
    subset of a larger one.
    """
    if size == 0:
        return train, None
    kept, held = validation_positions(len(train.target), size)
    return _select(train, kept), _select(train, held)


def validation_positions(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Positions of the training images to keep, out of `count`, and of the `size` held out."""
    rank = splitmix64(torch.arange(count) + VALIDATION_SEED).argsort()
    held, kept = (chosen.sort().values for chosen in (rank[:size], rank[size:]))
    return kept, held


def fingerprint_of(train: Split, test: Split) -> str:
    """The first 16 hex digits of the SHA-256 of shapes, pixels and labels of both splits."""
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
    _check_labels(split.target, size, described, name)


def _check_labels(target: Tensor, size: int, described: Description, name: str) -> None:
    """Check that the labels of a source match its description."""
    require(size > 0, f"the {name} has no images")
    shape, dtype = tuple(target.shape), target.dtype
    require(
        shape == (size,) and dtype == torch.int64,
        f"the {name} should have int64 classes [{size}], got {dtype} {list(shape)}",
    )
    low, high = int(target.min()), int(target.max())
    require(
        low >= 0 and high < described.num_classes,
        f"classes of the {name} should be 0..{described.num_classes - 1}, got {low}..{high}",
    )
    _check_classes(target, described, name)


def _check_classes(target: Tensor, described: Description, name: str) -> None:
    count = target.bincount(minlength=described.num_classes)
    empty = (count == 0).nonzero().flatten().tolist()
    have = "has" if len(empty) == 1 else "have"
    require(
        not empty,
        f"{len(empty)} of {described.num_classes} classes {have} no images in the {name}: "
        f"{', '.join(map(str, empty[:5]))}{', ...' if len(empty) > 5 else ''}",
    )

"""A dataset that is decoded during training by the workers of torch's DataLoader.

A batch is a function of (seed, epoch, index), passed to the workers as image and view numbers. So a
job resumes without any state of the workers, and its batches equal, bit for bit, those of images in
memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from kd_bench.data.augment import image_of
from kd_bench.data.data import Data
from kd_bench.data.files import decode
from kd_bench.data.files.image_files import size_message
from kd_bench.data.source import Reader
from kd_bench.data.streaming.views import Views
from kd_bench.interfaces import UserError
from kd_bench.utils.errors import is_worker_error, worker_lost

Item = tuple[int, int]  # numbers of an image and of its view
AS_EVALUATED = -1  # in place of a view number
SIGNAL_SECONDS = 1.0  # until the signal that a worker has died


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """The images of one split, each decoded when needed."""

    reader: Reader
    position: Tensor  # [N] int64, on the CPU: the reader's images that belong to the split
    target: Tensor  # [N] int64

    def part(self, images: slice) -> StreamedSplit:
        """Some of its images."""
        return StreamedSplit(self.reader, self.position[images], self.target[images])


@dataclass(frozen=True, eq=False)
class StreamedData(Data):
    """Images decoded by workers, and copied to the device in batches of uint8.

    Each pass over the images forks its own workers, which end with it: they share the memory of
    this process, and none is left behind.
    """

    train: StreamedSplit
    test: StreamedSplit
    validation: StreamedSplit | None
    size: tuple[int, int]  # height and width
    views: Views
    workers: int  # processes; 0: decode in this one

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image as passed to networks."""
        return self.size

    @property
    def view_count(self) -> int:
        """Number of different augmented views of a training image."""
        return self.views.count

    @property
    def is_streamed(self) -> bool:
        """True."""
        return True

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the decoding libraries."""
        return decode.versions()

    def feed(self, seed: int, sizes: Sequence[int]) -> StreamedFeed:
        """Copies each step's images to the device."""
        return StreamedFeed(self, seed, sizes)

    def augmented_images(
        self, index: Tensor, view: Tensor, sizes: Sequence[int]
    ) -> Iterator[Tensor]:
        """The given views [N] of training images `index` [N], in batches: uint8 [B, H, W, 3]."""
        pairs = torch.stack([self.train.position[index], view], 1)
        return self._pass(self.train.reader, pairs, sizes)

    def plain_images(self, split: StreamedSplit, size: int) -> Iterator[Tensor]:
        """All images of a split as used in evaluation, in batches: uint8 [B, H, W, 3]."""
        pairs = torch.stack([split.position, torch.full_like(split.position, AS_EVALUATED)], 1)
        full, rest = divmod(len(pairs), size)
        return self._pass(split.reader, pairs, [size] * full + [rest] * (rest > 0))

    def eval_batch(self, split: StreamedSplit, start: int, stop: int) -> Tensor:
        """Images start..stop-1 of a split, decoded in this process: float [B, 3, H, W]."""
        items = [(position, AS_EVALUATED) for position in split.position[start:stop].tolist()]
        return self.normalise(_Images(split.reader, self.views, self.size).batch(items))

    def eval_batches(self, split: StreamedSplit, size: int) -> Iterator[Tensor]:
        """All images of a split in order, without augmentation, `size` at a time."""
        return map(self.normalise, self.plain_images(split, size))

    def _pass(self, reader: Reader, pairs: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
        loader: Iterable[Tensor | UserError] = DataLoader(
            _Images(reader, self.views, self.size),
            batch_sampler=_batches(pairs, sizes),
            num_workers=self.workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # a batch, not a list
            pin_memory=self.mean.device.type == "cuda",
            # DataLoader draws a seed for its workers, which must not shift the methods' draws.
            generator=torch.Generator(),
        )
        batches = iter(loader)
        while (batch := _next(batches)) is not None:
            if isinstance(batch, UserError):
                raise batch
            yield batch


class StreamedFeed:
    """Copies the images of each step to a fixed buffer, which a captured step can read.

    The normalised images have a fixed buffer too: on a CPU, memory for each batch from the system
    would take a fifth of the time from a file to a normalised image.
    """

    def __init__(self, data: StreamedData, seed: int, sizes: Sequence[int]):
        self._data, self._seed, self._sizes = data, seed, sizes
        shape = (max(sizes), *data.image_size, 3)
        self._ready = torch.zeros(shape, dtype=torch.uint8, device=data.mean.device)
        self._normalised = torch.zeros(shape, device=data.mean.device)
        self._coming: Iterator[Tensor] = iter(())
        self._left = 0  # steps of the epoch that have no images yet

    def start(self, order: Tensor, epoch: int) -> None:
        """Set the images of an epoch; the first `advance` starts decoding them."""
        order = order[: sum(self._sizes)]
        view = self._data.sample_views(order, epoch, self._seed)
        index = image_of(order, self._data.train_size)
        self._coming = self._data.augmented_images(index, view, self._sizes)
        self._left = len(self._sizes)

    def advance(self) -> None:
        """Wait for the next step's images and copy them to the device."""
        image = next(self._coming)
        self._ready[: len(image)].copy_(image, non_blocking=True)
        self._left -= 1
        if self._left == 0:
            self._coming = iter(())  # ends the workers

    def images(self, index: Tensor, view: Tensor) -> Tensor:
        """The images copied last, which are those of `index` and `view`."""
        size = len(index)
        return self._data.normalise(self._ready[:size], out=self._normalised[:size])


class _Images(TorchDataset):
    """Batches of a split's images, by image and view numbers."""

    def __init__(self, reader: Reader, views: Views, size: tuple[int, int]):
        self.reader, self.views, self.size = reader, views, size

    def __getitems__(self, items: Sequence[Item]) -> Tensor | UserError:
        """The result of `batch`, or the UserError that it raised.

        An error raised in a worker would arrive as another error with a traceback in its message.
        """
        try:
            return self.batch(items)
        except UserError as error:
            return error

    def batch(self, items: Sequence[Item]) -> Tensor:
        """Images uint8 [B, H, W, 3], either all augmented or all as used in evaluation."""
        images = (self._image(position) for position, _ in items)  # one at a time in memory
        numbers = torch.tensor([view for _, view in items])
        if numbers[0] == AS_EVALUATED:
            return self.views.plain(images)
        return self.views.augmented(images, numbers)

    def _image(self, position: int) -> np.ndarray:
        image = self.reader.read(position)
        if self.views.common_size and image.shape[:2] != self.size:
            first, name = self.reader.name(0), self.reader.name(position)
            raise UserError(size_message(first, self.size, name, image))
        return image


def _batches(pairs: Tensor, sizes: Sequence[int]) -> Iterator[list[Item]]:
    for part in pairs.split(list(sizes)):
        yield part.tolist()


def _next(batches: Iterator[Tensor | UserError]) -> Tensor | UserError | None:
    """The next batch of a loader; None after the last one.

    Raises:
        ProcessLost: a worker was killed.
        RuntimeError: the same, if torch's signal handler raises it (`is_worker_error`).
    """
    try:
        return next(batches, None)
    except (EOFError, ConnectionError) as error:
        if str(error).startswith("Caught"):  # raised in a worker, which is alive
            raise
        # Torch's signal handler raises its own error now, not while a file is written.
        time.sleep(SIGNAL_SECONDS)
        raise worker_lost(error) from error
    except RuntimeError as error:
        if not is_worker_error(error):
            raise
        raise worker_lost(error) from error


def _as_it_is(batch: Tensor | UserError) -> Tensor | UserError:
    return batch

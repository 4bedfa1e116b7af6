"""python tools/data_speed.py: speed of decoding and streaming images, compared with torchvision.

python tools/data_speed.py                   generated JPEG files of the size of photos
python tools/data_speed.py --quick           fewer files, less precise
python tools/data_speed.py --images FOLDER   FOLDER/train/<class>/* and FOLDER/test/<class>/*

simplejpeg and Pillow decode the same bytes. kd-bench and torchvision's ImageFolder with a
DataLoader take turns at loading the same files as batches of random resized crops. Compare ratios,
not rates: rates depend on the machine, and on what else runs on it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kd_bench.data.data import Data
from kd_bench.data.dataset import Dataset
from kd_bench.data.files import decode
from kd_bench.data.files.packing import pack
from kd_bench.data.files.shards import Shards
from kd_bench.data.image_folder import ImageFolder
from kd_bench.data.source import Source
from kd_bench.data.streaming.views import ResizedCrop
from kd_bench.utils.process import core_count
from kd_bench.utils.torchvision import import_torchvision

SIZE, BATCH = 224, 64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PHOTO = 500, 375  # the size of most images in ImageNet
LARGE = 1000, 750  # of some of them
MB = 2**20


def main() -> None:
    """Measure, and print lines."""
    parser = argparse.ArgumentParser(prog="python tools/data_speed.py")
    parser.add_argument("--images", metavar="FOLDER", type=Path)
    parser.add_argument("--workers", type=int, default=core_count())
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    count, rounds, streamed = (256, 3, 2_000) if args.quick else (2_000, 5, 60_000)
    with tempfile.TemporaryDirectory() as scratch:
        root = args.images or write_photos(Path(scratch) / "photos", count)
        files = sorted((root / "train").glob("*/*"))[:count]
        show_decoding([file.read_bytes() for file in files], rounds)
        source = ImageFolder(str(root), None)
        packed = Path(scratch) / "packed"
        pack(
            source,
            packed,
            short_side=320,
            upright=False,
            bad=print,
            progress=lambda *about: None,
        )
        shards = Shards(str(packed))
        show_paths(root, source, shards, args.workers, count, rounds)
        show_memory(open_stream(source, args.workers), streamed, args.workers)


def write_photos(root: Path, count: int) -> Path:
    """JPEG files with as much detail as photos: noise at several scales; one in ten is large."""
    random = np.random.default_rng(0)
    for split, images in (("train", count), ("test", 2)):
        for number in range(images):
            width, height = LARGE if number % 10 == 9 else PHOTO
            layers = [noise(random, width, height, scale) for scale in (2, 8, 32, 128)]
            path = root / split / f"class{number % 2}" / f"{number:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.mean(layers, 0).astype(np.uint8)).save(path, quality=90)
    return root


def noise(random: np.random.Generator, width: int, height: int, scale: int) -> np.ndarray:
    """Random colors, each over about `scale` pixels: [H, W, 3]."""
    coarse = random.integers(256, size=(height // scale + 2, width // scale + 2, 3))
    image = Image.fromarray(coarse.astype(np.uint8)).resize((width, height))
    return np.asarray(image, dtype=np.float32)


def show_decoding(contents: list[bytes], rounds: int) -> None:
    """Print images per second on one core for both libraries."""

    def decode_all(decoder: Callable[[bytes, str], object]) -> None:
        for content in contents:
            decoder(content, "")

    libraries = {"Pillow": partial(decode_all, decode.decode_with_pillow)}
    if "simplejpeg" in decode.versions():
        libraries["simplejpeg"] = partial(decode_all, decode.decode)
    else:
        print("simplejpeg is not installed: pip install 'kd-bench[jpeg]'", file=sys.stderr)
    show_rates("decoded, one core", libraries, len(contents), rounds, "Pillow")


def show_paths(
    root: Path, source: Source, shards: Source, workers: int, count: int, rounds: int
) -> None:
    """Print images per second from files to normalised batches."""
    streams = {
        name: open_stream(each, workers)
        for name, each in {"kd-bench, files": source, "kd-bench, packed": shards}.items()
    }
    size = min(count, *(data.train_size for data in streams.values()))
    paths: dict[str, Callable[[], None]] = {
        name: lambda data=data: exhaust(stream(data, size)) for name, data in streams.items()
    }
    paths["torchvision"] = lambda: exhaust(torchvision_batches(root, workers))
    show_rates(f"batches, {workers} workers", paths, size, rounds, "torchvision")


def show_rates(
    what: str, runs: dict[str, Callable[[], None]], images: int, rounds: int, base: str
) -> None:
    """Run all in turns; print the median rate of each, and the median ratio to `base`."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    for name, taken in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds[base], taken, strict=True)]
        rate = images / statistics.median(taken)
        print(f"{what}: {name} {rate:,.0f} images/s, {statistics.median(ratios):.2f} x {base}")


def open_stream(source: Source, workers: int) -> Data:
    """Random resized crops of a source."""
    crop = ResizedCrop(SIZE, 256, [0.08, 1.0], [0.75, 4 / 3], flip=True)
    settings = {"pad": 0, "padding": "zero", "flip": True, "mean": MEAN, "std": STD}
    return Dataset(source, resized_crop=crop, streamed=True, workers=workers, **settings).load()


def stream(data: Data, images: int) -> Iterator[torch.Tensor]:
    """Batches as a training step gets them; if there are too few images, they repeat."""
    order = torch.arange(images) % data.train_size
    sizes = [len(part) for part in order.split(BATCH)]
    feed = data.feed(0, sizes)
    feed.start(order, 1)
    for part in order.split(BATCH):
        feed.advance()
        yield feed.images(part, part)


def torchvision_batches(root: Path, workers: int) -> Iterator[torch.Tensor]:
    """Batches from the usual torchvision pipeline."""
    import_torchvision()
    from torchvision import datasets, transforms

    steps = [
        transforms.RandomResizedCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    images = datasets.ImageFolder(str(root / "train"), transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(images, BATCH, shuffle=True, num_workers=workers)
    for image, _ in loader:
        yield image


def exhaust(batches: Iterator[torch.Tensor]) -> None:
    """Consume all batches."""
    for _ in batches:
        pass


def show_memory(data: Data, images: int, workers: int) -> None:
    """Print the peak memory of this process and its workers while images are streamed."""
    most, others, sampled = 0, 0, 0.0
    for _ in stream(data, images):
        if time.monotonic() - sampled > 1:
            sampled = time.monotonic()
            own, theirs = resident(os.getpid()), sum(map(private, children()))
            if own + theirs > most + others:
                most, others = own, theirs
    print(
        f"memory while {images:,} images were streamed: {most / MB:,.0f} MB resident in this"
        f" process and {others / MB:,.0f} MB private to {workers} workers"
    )


def children() -> list[int]:
    """The child processes of this one."""
    me = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()]


def resident(pid: int) -> int:
    """Resident memory of a process in bytes, shared memory included."""
    return _smaps(pid, "Rss:")


def private(pid: int) -> int:
    """Memory in bytes that a process shares with no other; 0 if it has ended."""
    try:
        return _smaps(pid, "Private_Clean:", "Private_Dirty:")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _smaps(pid: int, *names: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(names))


if __name__ == "__main__":
    main()

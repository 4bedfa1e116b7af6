"""kd-bench prepare: packs images into large files, which training reads several times faster."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kd_bench.cli.common.parser import Parser
from kd_bench.utils.errors import require
from kd_bench.utils.text.formatting import format_bytes, pluralize
from kd_bench.utils.text.output import print_lines

DESCRIPTION = """\
Copies the images of a dataset into a few large files for dataset=shards. Images with a shorter side
above --short-side are downscaled, others are copied unchanged. If images cannot be decoded, all of
them are listed, and nothing is written.

  kd-bench prepare dataset=imagenet dataset.root=/data/imagenet --to data/imagenet_packed
  kd-bench dataset=imagenet_packed

Training ignores EXIF rotation, like torchvision and timm; --upright rotates the copies.
"""
SHORT_SIDE = 320  # evaluation resizes to 256; random crops use a part of the image and need more
LEAST, MOST = 256, 400
EVERY = 30.0  # seconds between two lines of progress


def main(words: Sequence[str]) -> int:
    """Pack a dataset."""
    parser = Parser("prepare", DESCRIPTION)
    parser.add_argument(
        "choices",
        metavar="GROUP=CHOICE",
        nargs="+",
        help="dataset=NAME and its values, such as dataset.root=FOLDER",
    )
    parser.add_argument("--to", metavar="FOLDER", required=True, help="a new folder for the copies")
    parser.add_argument(
        "--short-side",
        metavar="PIXELS",
        type=int,
        default=SHORT_SIDE,
        help=f"maximum shorter side of the copies, {LEAST} to {MOST}; default: {SHORT_SIDE}",
    )
    parser.add_argument(
        "--upright", action="store_true", help="rotate images according to their EXIF data"
    )
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with datasets of your own")
    args = parser.parse(words)
    require(
        LEAST <= args.short_side <= MOST,
        f"--short-side must be {LEAST} to {MOST}, got {args.short_side}",
    )
    pack_dataset(args.choices, args.config_dir, Path(args.to), args.short_side, args.upright)
    return 0


def pack_dataset(
    choices: Sequence[str], config_dir: str | None, to: Path, short_side: int, upright: bool
) -> None:
    """Pack the chosen dataset, and print a summary."""
    # Imported here because torch takes seconds, and the arguments are checked before.
    import torch

    from kd_bench.cli import hydra_app
    from kd_bench.data.balance import imbalance
    from kd_bench.data.files.image_files import ImageFiles
    from kd_bench.data.files.overlap import overlap
    from kd_bench.data.files.packing import pack
    from kd_bench.data.files.shards import Shards
    from kd_bench.jobs.instantiate import build_dataset

    config = hydra_app.compose_single(choices, config_dir).dataset
    source = build_dataset(config).source
    require(
        isinstance(source, ImageFiles),
        f"dataset '{config.name}' has no image files; choose dataset=image_folder, csv, imagenet or"
        " tiny_imagenet",
    )
    assert isinstance(source, ImageFiles)
    require(source.size is None, "packed images keep their shape; leave out dataset.source.size")
    reports = pack(
        source,
        to,
        short_side=short_side,
        upright=upright,
        bad=lambda line: print_lines(line, file=sys.stderr),
        progress=_progress(),
    )
    for split, report in reports.items():
        made = f", {report.smaller:,} of them downscaled" if report.smaller else ""
        images = pluralize(report.images, "image")
        print_lines(f"{split}: {images}{made}, {format_bytes(report.bytes)}")
    rotated = [path for report in reports.values() for path in report.rotated]
    if rotated:
        are = "is" if len(rotated) == 1 else "are"
        how = (
            "and their copies were rotated"
            if upright
            else "which training ignores; --upright rotates them"
        )
        print_lines(f"{pluralize(len(rotated), 'image')} {are} rotated by EXIF, {how}:", *rotated)
    train, _ = source.listings
    names = [reader.name for reader in source.open()]
    shared = overlap(names, [reader.keys for reader in Shards(str(to)).open()])
    uneven = imbalance(torch.tensor(train.target), len(train.classes))
    for line in filter(None, (shared, uneven)):
        print_lines(line)
    print_lines(f"wrote {to}; train on it with dataset=shards dataset.name=NAME dataset.root={to}")


def _progress() -> Callable[[str, int, int], None]:
    """A function that prints a line of progress from time to time."""
    last = time.monotonic()

    def progress(split: str, done: int, images: int) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY:
            print_lines(f"{split}: {done:,} of {images:,} images")
            last = time.monotonic()

    return progress

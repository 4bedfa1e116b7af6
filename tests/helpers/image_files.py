"""Folders of small images for tests of data sources."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee")


def write_folder(root: Path, train: int = 12, test: int = 6, sizes=((8, 8),), kind="jpg") -> Path:
    """<root>/train/<class>/* and <root>/test/<class>/*: random images, cycling through `sizes`."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            height, width = sizes[number % len(sizes)]
            path = root / split / CLASSES[number % 2] / f"{number:03}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(256, size=(height, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    return root


def write_tables(root: Path) -> None:
    """Write train.csv and test.csv for a folder made by `write_folder`, in its order."""
    for split in ("train", "test"):
        with open(root / f"{split}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["label", "path"])
            for path in sorted((root / split).glob("*/*")):
                rows.writerow([path.parent.name, path.relative_to(root)])

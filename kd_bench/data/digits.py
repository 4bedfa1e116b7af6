"""Handwritten digits of 8x8 pixels: real images shipped with scikit-learn, no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from kd_bench.data.source import Description, Split
from kd_bench.interfaces import UserError, require

IMAGES = 1797  # the test set of "Optical Recognition of Handwritten Digits" (UCI, 1998)
SIZE = 8
LEVELS = 16  # pixel values 0..16 count the set pixels of a 4x4 binary block


class Digits:
    """The digits split by file order: the first `train` images for training, the rest for testing.

    Any network nearly solves a random split (98-99 %). In file order, most writers of the test
    images are unseen in training, which leaves room for improvement.
    """

    def __init__(self, train: int):
        require(
            0 < train < IMAGES,
            f"dataset.source.train must be from 1 to {IMAGES - 1} of the {IMAGES} digits, "
            f"got {train}",
        )
        self.train = train

    def describe(self) -> Description:
        """Sizes; raises UserError if scikit-learn or its data file is missing."""
        _file()
        return Description(10, SIZE, SIZE, self.train, IMAGES - self.train)

    def load(self) -> tuple[Split, Split]:
        """Both splits; grey levels 0..16 become level * 255 / 16, rounded (half up)."""
        table = np.loadtxt(_file(), delimiter=",", dtype=np.int64)  # [1797, 64 pixels + label]
        pixels, target = table[:, :-1], torch.from_numpy(table[:, -1].copy())
        grey = (2 * 255 * pixels + LEVELS) // (2 * LEVELS)
        image = torch.from_numpy(grey.astype(np.uint8)).view(IMAGES, SIZE, SIZE, 1)
        image = image.expand(-1, -1, -1, 3).contiguous()
        parts = slice(None, self.train), slice(self.train, None)
        train, test = (Split(image[part], target[part]) for part in parts)
        return train, test


def _file() -> Path:
    """The file in the installed scikit-learn. Importing its loader would take 1 s in every job."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise UserError("the digits are part of scikit-learn: pip install scikit-learn")
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    require(path.is_file(), f"the installed scikit-learn has no file {path}: reinstall it")
    return path

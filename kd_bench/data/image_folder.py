"""Custom images: train/<class>/* and test/<class>/* in any format supported by PIL."""

from __future__ import annotations

import os
from pathlib import Path

from kd_bench.data.files.image_files import ImageFiles, Listing, visible
from kd_bench.interfaces import require


class ImageFolder(ImageFiles):
    """The images of `root`, sorted by class and file name.

    Hidden files are skipped; other files that are not images raise an error.

    Args:
        root: the folder.
        size: as for `ImageFiles`.
        test: the subfolder of the test images, `val` for ImageNet.
    """

    def __init__(self, root: str, size: int | None, test: str = "test"):
        super().__init__(root, size)
        self.test = test

    def list_files(self) -> tuple[Listing, Listing]:
        """The files of both folders."""
        train, test = (_list_split(self.root / name, self.test) for name in ("train", self.test))
        return train, test

    def cache_facts(self) -> dict[str, object]:
        """Nothing: the labels follow from the names of the files."""
        return {}


def _list_split(folder: Path, test: str) -> Listing:
    require(
        folder.is_dir(),
        f"no folder {folder}: an image folder contains train/<class>/* and {test}/<class>/*; "
        "set its path with dataset.root=FOLDER",
    )
    classes: list[str] = []
    files: list[str] = []
    target: list[int] = []
    for entry in visible(folder):
        is_folder = os.path.isdir(entry.path)
        kind = "file" if os.path.exists(entry.path) else "broken link"
        require(is_folder, f"{entry.path} is a {kind}; {folder} must contain one folder per class")
        images = [image.path for image in visible(entry)]
        require(bool(images), f"class folder {entry.path} has no images")
        files += images
        target += [len(classes)] * len(images)
        classes.append(entry.name)
    require(bool(classes), f"{folder} is empty; it must contain one folder per class")
    return Listing(classes, files, target)

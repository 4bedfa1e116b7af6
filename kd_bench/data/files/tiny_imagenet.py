"""Tiny ImageNet, in the folder structure of its archive."""

from __future__ import annotations

from pathlib import Path

from kd_bench.data.files.image_files import ImageFiles, Listing, visible
from kd_bench.interfaces import UserError, require

LABELS = "val_annotations.txt"  # name, class and box of each image, separated by tabs


class TinyImageNet(ImageFiles):
    """Tiny ImageNet (Stanford CS231n): train/<class>/images/*, with val/images/* as the test set.

    The labels of val/images are in val/val_annotations.txt. The archive's own test set has none.
    """

    def __init__(self, root: str):
        super().__init__(root, size=None)

    def list_files(self) -> tuple[Listing, Listing]:
        """The training images by class and name, and the test images by name."""
        train = self.root / "train"
        require(
            train.is_dir(),
            f"no folder {train}: Tiny ImageNet is not in {self.root}; set its folder with"
            " dataset.root=FOLDER",
        )
        classes = [entry.name for entry in visible(train)]
        files, target = [], []
        for label, name in enumerate(classes):
            folder = train / name / "images"
            require(folder.is_dir(), f"no folder {folder}: Tiny ImageNet is incomplete")
            images = [entry.path for entry in visible(folder)]
            files += images
            target += [label] * len(images)
        return Listing(classes, files, target), _list_test(self.root / "val")


def _list_test(folder: Path) -> Listing:
    path = folder / LABELS
    try:
        rows = sorted(line.split("\t")[:2] for line in path.read_text().splitlines())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file") from None
    require(
        bool(rows) and all(len(row) == 2 for row in rows),
        f"{path} must have one line per image, with name and class separated by a tab",
    )
    classes = sorted({name for _, name in rows})
    place = {name: number for number, name in enumerate(classes)}
    files = [str(folder / "images" / image) for image, _ in rows]
    return Listing(classes, files, [place[name] for _, name in rows])

"""Custom images: files listed with their labels in CSV files."""

from __future__ import annotations

import csv
from pathlib import Path

from kd_bench.data.files.image_files import ImageFiles, Listing
from kd_bench.interfaces import UserError, require

COLUMNS = ("path", "label")


class CsvFiles(ImageFiles):
    """The images listed in two CSV files, in that order.

    Both have a header with the columns `path`, relative to `root` or absolute, and `label`, any
    text. Other columns are ignored. Classes are numbered in the order of their labels, sorted as
    numbers if all are whole numbers, else as text.

    Args:
        root: the folder that paths, including those of the CSV files, are relative to.
        size: as for `ImageFiles`.
        train: the CSV file of the training images.
        test: the CSV file of the test images.
    """

    def __init__(self, root: str, size: int | None, train: str, test: str):
        super().__init__(root, size)
        self.tables = self.root / train, self.root / test

    def list_files(self) -> tuple[Listing, Listing]:
        """The files listed in both tables."""
        train, test = (self._list(table) for table in self.tables)
        return train, test

    def _list(self, table: Path) -> Listing:
        rows = _read_rows(table)
        names = {label for _, label in rows}
        is_number = all(name.isascii() and name.isdigit() for name in names)
        classes = sorted(names, key=(lambda name: (int(name), name)) if is_number else None)
        place = {name: number for number, name in enumerate(classes)}
        return Listing(
            classes,
            [str(self.root / path) for path, _ in rows],
            [place[label] for _, label in rows],
        )


def _read_rows(table: Path) -> list[tuple[str, str]]:
    """Path and label of each row."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            found = reader.fieldnames or []
            require(
                set(COLUMNS) <= set(found),
                f"{table} must have the columns {', '.join(COLUMNS)} in its first line, got"
                f" {', '.join(found) or 'nothing'}",
            )
            rows = []
            for row in reader:
                path, label = (row[name] for name in COLUMNS)
                require(
                    bool(path and label), f"{table}, line {reader.line_num}: needs path and label"
                )
                rows.append((path, label))
    except FileNotFoundError:
        raise UserError(
            f"no file {table}, which should list images by path and label; set its folder with"
            " dataset.root=FOLDER, and its name with dataset.source.train and .test"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a CSV file: {error}") from None
    require(bool(rows), f"{table} lists no images")
    return rows

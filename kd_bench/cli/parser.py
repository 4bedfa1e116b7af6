"""What the commands' own command lines share: help, and mistakes answered in one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from kd_bench.config.schema import Device
from kd_bench.utils.errors import UserError, require


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake in one line."""

    def __init__(self, word: str, description: str):
        super().__init__(
            prog=f"kd-bench {word}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Refuse what was typed, with what may be typed instead."""
        usage = " ".join(self.format_usage().split())  # it may be wrapped
        raise UserError(f"{message}; {usage}")

    def add_runs_dir(self, default: str | None, text: str) -> None:
        """`--runs-dir DIR`, which may be spelt runs_dir=DIR as well, as a job's is."""
        self.add_argument("--runs-dir", metavar="DIR", default=default, help=text)

    def add_device(self, default: str) -> None:
        """`--device`, None where it is not given."""
        choices = [device.value for device in Device]
        self.add_argument(
            "--device", choices=choices, help=f"where to compute (default: {default})"
        )

    def add_data(self) -> None:
        """`--data`, for `with_data`."""
        self.add_argument(
            "--data", metavar="DIR", help="where the images are, if not where they were then"
        )

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The words as values."""
        return self.parse_args([re.sub(r"^runs_dir=", "--runs-dir=", word) for word in words])


def existing_runs_dir(path: str) -> Path:
    """A runs folder that has to be there."""
    require(Path(path).is_dir(), f"there is no folder {path}; say where the runs are: runs_dir=DIR")
    return Path(path)


def with_data(config: Mapping[str, Any], folder: str | None) -> dict[str, Any]:
    """A job's configuration with its images in another folder; the same one for None.

    Raises:
        UserError: for images that are in no folder.
    """
    dataset = config["dataset"]
    if folder is None:
        return dict(config)
    require(
        "root" in dataset["source"],
        f"the images of dataset '{dataset['name']}' are in no folder; leave out --data",
    )
    source = {**dataset["source"], "root": folder}
    return {**config, "dataset": {**dataset, "root": folder, "source": source}}

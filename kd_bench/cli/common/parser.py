"""The argument parser that all commands share: one-line errors, and common options."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from kd_bench.config.schema import Config, Device
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.text.output import print_lines

LIST_OPTIONS = "--list-options"  # a command's only word: what completion asks for
_INVALID_CHOICE = re.compile(
    r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)"
)  # argparse's


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors."""

    def __init__(self, word: str, description: str):
        super().__init__(
            prog=f"kd-bench {word}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` with the valid choices, or with the usage."""
        if match := _INVALID_CHOICE.fullmatch(message):
            option, given = match[1], match[2]
            choices = match[3].replace("'", "")  # quoted by some versions of Python
            raise UserError(f"{option}: unknown {given}; choose from {choices}")
        usage = " ".join(self.format_usage().split())  # it may be wrapped
        raise UserError(f"{message}; {usage}")

    def add_runs_dir(self, default: str | None, text: str) -> None:
        """`--runs-dir DIR`, also spelled runs_dir=DIR, as for a job."""
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
            "--data", metavar="DIR", help="where the images are now, if they were moved"
        )

    def add_trust(self) -> None:
        """`--trust`, for `trust.check_calls`."""
        self.add_argument(
            "--trust",
            metavar="PACKAGE",
            action="append",
            default=[],
            help="a package or module, such as my_package, whose code the record may call; may be"
            " repeated",
        )

    def add_source(self, default: str, use: str = "") -> None:
        """Add the folder that records are read from, as `source`.

        Args:
            default: the folder.
            use: what it is read for, for the help.
        """
        self.add_argument(
            "--from",
            "--runs-dir",
            dest="source",
            metavar="DIR",
            default=default,
            help=f"folder with runs or published records{use} (default: {default});"
            " also runs_dir=DIR",
        )

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The values of the words."""
        if list(words) == [LIST_OPTIONS]:
            print_lines(*self._option_string_actions)
            sys.exit()
        # Overrides may come before and after options, as for a job.
        return self.parse_intermixed_args(
            [re.sub(r"^runs_dir=", "--runs-dir=", word) for word in words]
        )


def existing_runs_dir(path: str) -> Path:
    """A runs folder, refused where there is none."""
    require(Path(path).is_dir(), f"there is no folder {path}; give that of the runs: runs_dir=DIR")
    return Path(path)


def with_data(config: Config, folder: str | None) -> Config:
    """A job's configuration with its images in another folder; the same one for None.

    Raises:
        UserError: for images that are in no folder.
    """
    if folder is None:
        return config
    dataset = config.dataset
    require(
        "root" in dataset.source,
        f"the images of dataset '{dataset.name}' are in no folder; leave out --data",
    )
    source = {**dataset.source, "root": folder}
    return replace(config, dataset=replace(dataset, root=folder, source=source))

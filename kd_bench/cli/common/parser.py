"""The argument parser of all commands: one-line errors and common options."""

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

LIST_OPTIONS = "--list-options"  # internal, for completion; the only argument of a command
# argparse's message
_INVALID_CHOICE = re.compile(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)")


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
        """Raise a `UserError` with the valid choices or the usage."""
        if match := _INVALID_CHOICE.fullmatch(message):
            option, given = match[1], match[2]
            choices = match[3].replace("'", "")  # quoted by some versions of Python
            raise UserError(f"{option}: unknown {given}; choose from {choices}")
        usage = " ".join(self.format_usage().split())  # it may be wrapped
        raise UserError(f"{message}; {usage}")

    def add_runs_dir(self, default: str | None, text: str) -> None:
        """Add `--runs-dir DIR`; `runs_dir=DIR` also works, as for a job."""
        self.add_argument("--runs-dir", metavar="DIR", default=default, help=text)

    def add_device(self, default: str) -> None:
        """Add `--device`, which is None if it is not given."""
        choices = [device.value for device in Device]
        self.add_argument(
            "--device", choices=choices, help=f"where to compute (default: {default})"
        )

    def add_data(self) -> None:
        """Add `--data`, for `with_data`."""
        self.add_argument(
            "--data", metavar="DIR", help="the folder of the images, if they were moved"
        )

    def add_trust(self) -> None:
        """Add `--trust`, for `trust.check_calls`."""
        self.add_argument(
            "--trust",
            metavar="PACKAGE",
            action="append",
            default=[],
            help="a package or module, such as my_package, whose code the record may call; may be"
            " repeated",
        )

    def add_source(self, default: str, use: str = "") -> None:
        """Add the option for the folder of the records, as `source`.

        Args:
            default: the default folder.
            use: appended to the help text.
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
        """Parse the words of a command."""
        if list(words) == [LIST_OPTIONS]:
            print_lines(*self._option_string_actions)
            sys.exit()
        # Overrides may precede and follow options, as for a job.
        return self.parse_intermixed_args(
            [re.sub(r"^runs_dir=", "--runs-dir=", word) for word in words]
        )


def existing_runs_dir(path: str) -> Path:
    """The path of a runs folder; raises a `UserError` if it does not exist."""
    require(Path(path).is_dir(), f"there is no folder {path}; choose the runs with runs_dir=DIR")
    return Path(path)


def with_data(config: Config, folder: str | None) -> Config:
    """A job's configuration with its images in another folder; unchanged if `folder` is None.

    Raises:
        UserError: the dataset does not read its images from a folder.
    """
    if folder is None:
        return config
    dataset = config.dataset
    require(
        "root" in dataset.source,
        f"the images of dataset '{dataset.name}' are not in a folder; leave out --data",
    )
    source = {**dataset.source, "root": folder}
    return replace(config, dataset=replace(dataset, root=folder, source=source))

"""A study: trials of a method's values, and the one chosen by validation accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_bench.config.convert import to_plain
from kd_bench.config.search import Range
from kd_bench.utils.errors import DamagedError, UserError, require, warn

STUDY = "study.json"  # in the folder of the run that has the chosen values


@dataclass(frozen=True)
class Trial:
    """One set of values that a study tried."""

    values: dict[str, float]  # by key, such as method.losses.st.temperature
    validation_accuracy: float | None  # percent, at the last epoch; None: its loss was not finite


@dataclass(frozen=True)
class Study:
    """The trials of a study; its seed is also that of its points, its trials and its run."""

    seed: int
    validation: int  # images held out of the training images in its trials
    space: dict[str, Range]
    trials: tuple[Trial, ...]
    identity: dict[str, Any]  # of the same job with the published values

    @property
    def chosen(self) -> Trial:
        """The trial with the highest validation accuracy; the first one in a tie.

        Raises:
            UserError: no trial has a validation accuracy.
        """
        scores = [trial.validation_accuracy for trial in self.trials]
        finite = [score for score in scores if score is not None]
        require(bool(finite), f"study {self.seed}: no trial has a finite loss; narrow its ranges")
        return self.trials[scores.index(max(finite))]

    @property
    def budget(self) -> dict[str, Any]:
        """What all studies of a row have in common."""
        return to_plain({"trials": len(self.trials), "images": self.validation} | self.space)

    def without_knobs(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """A run's changed values without those chosen by the study."""
        return {path: value for path, value in changed.items() if path not in self.space}

    def to_json(self) -> dict[str, Any]:
        """Plain values for `study.json`; "chosen" is for readers."""
        return to_plain(self) | {"chosen": self.trials.index(self.chosen)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Study:
        """A study from plain values.

        Raises:
            AttributeError, KeyError, TypeError: they are not a study.
        """
        return cls(
            values["seed"],
            values["validation"],
            {key: Range(**limits) for key, limits in values["space"].items()},
            tuple(Trial(**trial) for trial in values["trials"]),
            values["identity"],
        )


def read_study(folder: Path) -> Study | None:
    """The study that chose a run's values, from its folder; None if there was none.

    Raises:
        DamagedError: the file is not a valid study.
        UserError: it cannot be read.
    """
    path = folder / STUDY
    try:
        return Study.from_json(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise DamagedError(
            f"{path} is not a valid study; delete it, and kd-bench tune writes it again"
        ) from None


def find_study(folder: Path) -> Study | None:
    """Like `read_study`, but warns and returns None if the study cannot be read."""
    try:
        return read_study(folder)
    except UserError as error:
        warn(f"left out: {error}")
        return None

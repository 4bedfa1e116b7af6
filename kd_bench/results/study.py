"""A study: the trials of a method's values, and the one that validation accuracy chose."""

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
    """Values that a study tried."""

    values: dict[str, float]  # by key, such as method.losses.st.temperature
    validation_accuracy: float | None  # percent, at the last epoch; None: its loss was not finite


@dataclass(frozen=True)
class Study:
    """What one study tried and chose; its seed is that of its points, its trials and its run."""

    seed: int
    validation: int  # images held out of the training images in its trials
    space: dict[str, Range]
    trials: tuple[Trial, ...]
    identity: dict[str, Any]  # of the same job with the published values

    @property
    def chosen(self) -> Trial:
        """The trial with the highest validation accuracy; the first of equal ones.

        Raises:
            UserError: no trial has one.
        """
        scores = [trial.validation_accuracy for trial in self.trials]
        finite = [score for score in scores if score is not None]
        require(bool(finite), f"study {self.seed}: no trial has a finite loss; narrow its ranges")
        return self.trials[scores.index(max(finite))]

    @property
    def budget(self) -> dict[str, Any]:
        """All that studies of one row have in common."""
        return to_plain({"trials": len(self.trials), "images": self.validation} | self.space)

    def without_knobs(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """A run's changed values without those that the study chose."""
        return {path: value for path, value in changed.items() if path not in self.space}

    def to_json(self) -> dict[str, Any]:
        """Plain values for `study.json`; "chosen" is for readers."""
        return to_plain(self) | {"chosen": self.trials.index(self.chosen)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Study:
        """A study from plain values.

        Raises:
            AttributeError, KeyError, TypeError: they are none.
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
        DamagedError: the file is no study.
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
            f"{path} is no study; delete it, and kd-bench tune writes it again"
        ) from None


def find_study(folder: Path) -> Study | None:
    """As `read_study`, but what cannot be read is left out, with a line to standard error."""
    try:
        return read_study(folder)
    except UserError as error:
        warn(f"left out: {error}")
        return None

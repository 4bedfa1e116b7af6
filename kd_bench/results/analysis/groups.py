"""Groups of rows in a table: rows are ranked only within their group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from kd_bench.config.schema import BASELINE, MethodConfig, Role
from kd_bench.results.analysis.budget import RECIPE, Budget


class Kind(IntEnum):
    """What the method of a row learns from, in the order of a table."""

    METHOD = 0  # a teacher and labels; includes the baseline
    LABEL_FREE = 1
    TEACHER_FREE = 2
    CONTROL = 3


HEADINGS = {
    Kind.LABEL_FREE: "no labels",
    Kind.TEACHER_FREE: "no teacher",
    Kind.CONTROL: "controls",
}


# The roles of kd-bench's own methods in records of versions without roles.
OF_OLDER = {
    "ab": Role.label_free,
    "simkd": Role.label_free,
    "control_noise": Role.control,
    "control_shuffled": Role.control,
    "label_smoothing": Role.control,
}


def kind_of(method: MethodConfig, identity: Mapping[str, Any]) -> Kind:
    """The kind of a job's row, by its method and whether it has a teacher."""
    role = method.role if method.role is not Role.method else OF_OLDER.get(method.name, Role.method)
    if role is Role.control:
        return Kind.CONTROL
    if "teacher" not in identity and method.name != BASELINE:
        return Kind.TEACHER_FREE
    return Kind.LABEL_FREE if role is Role.label_free else Kind.METHOD


@dataclass(frozen=True, order=True)
class Group:
    """Rows of one kind and one training budget."""

    kind: Kind = Kind.METHOD
    budget: Budget = RECIPE

    def __str__(self) -> str:
        """The heading: "controls", "12.5 % more epochs", "no labels, 12.5 % more epochs"."""
        words = [HEADINGS[self.kind]] if self.kind in HEADINGS else []
        if self.budget != RECIPE:
            words.append(str(self.budget))
        return ", ".join(words)


FIRST = Group()  # has no heading

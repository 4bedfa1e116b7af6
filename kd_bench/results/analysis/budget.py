"""The training budget of a job: how much more its student is trained than the recipe specifies.

A method that runs the student on several views of each image in a step, or that has an init phase,
trains it more than the baseline. This explains part of its accuracy, so a table ranks it only
among methods of the same budget.
"""

from __future__ import annotations

from dataclasses import dataclass

from kd_bench.config.schema import MethodConfig


@dataclass(frozen=True, order=True)
class Budget:
    """The training budget of a method, relative to the recipe's, which is the smallest."""

    views_per_step: float = 1.0  # images that the student processes for each image of a batch
    extra_epochs: float = 0.0  # of the init phase, as a fraction of the recipe's epochs

    def __str__(self) -> str:
        """In words: "4 views per step, 25 % more epochs"."""
        words = []
        if self.views_per_step != 1:
            words.append(f"{self.views_per_step:g} views per step")
        if self.extra_epochs:
            words.append(f"{100 * self.extra_epochs:g} % more epochs")
        return ", ".join(words) or "the recipe's budget"


RECIPE = Budget()


def budget_of(method: MethodConfig, views_per_step: float | None) -> Budget:
    """The budget of a job with a method.

    Args:
        method: its configuration.
        views_per_step: as recorded; None for an older record, or for a job that did not finish.
    """
    if views_per_step is None:
        views_per_step = _views_per_step(method)
    return Budget(views_per_step, method.init.epochs)


def _views_per_step(method: MethodConfig) -> float:
    """Views per step of the methods that exist in records of versions up to 0.2."""
    if "sskd" in method.losses:
        return 4.0  # the image and three rotations
    if "bss" in method.losses:
        return 1.0 + method.losses["bss"].get("share", 0.0)  # of the batch is attacked
    return 1.0

"""Helpers for losses on a weak and a strong view of each image, without a network."""

from __future__ import annotations

from torch import Tensor

from helpers.logit_losses import labelled
from helpers.outputs import rand
from kd_bench.interfaces import Loss, Output
from kd_bench.methods.common.strong_view import STRONG


def two_views(weak: Tensor, strong: Tensor) -> Output:
    """A network's output for weak and strong views, from its logits [B, K] for each."""
    return Output(weak, views={STRONG: Output(strong)})


def random_pair(size: int, classes: int, scale: float = 2.0) -> tuple[Output, Output]:
    """Outputs of student and teacher with random logits."""
    logits = [scale * rand(size, classes, seed=seed) for seed in range(4)]
    return two_views(*logits[:2]), two_views(*logits[2:])


def numbers(loss: Loss, student: Output, teacher: Output, labels: list[int]) -> dict[str, float]:
    """The terms of a loss as numbers."""
    terms = loss(student, teacher, labelled(*labels))
    return {name: term.item() for name, term in terms.items()}

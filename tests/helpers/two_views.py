"""Losses on a weak and a strong view of each image, without a network."""

from __future__ import annotations

import torch
from torch import Tensor

from helpers.logit_losses import labelled
from helpers.outputs import rand
from kd_bench.interfaces import Loss, Output
from kd_bench.methods.common.strong_view import STRONG


def two_views(weak: Tensor, strong: Tensor) -> Output:
    """A network's output for images and for strong views of them, from its logits [B, K]."""
    return Output(weak, views={STRONG: Output(strong)})


def random_pair(size: int, classes: int, scale: float = 2.0) -> tuple[Output, Output]:
    """Outputs of student and teacher with random logits."""
    logits = [scale * rand(size, classes, seed=seed) for seed in range(4)]
    return two_views(*logits[:2]), two_views(*logits[2:])


def numbers(loss: Loss, student: Output, teacher: Output, labels: list[int]) -> dict[str, float]:
    """The terms of a loss."""
    terms = loss(student, teacher, labelled(*labels))
    return {name: term.item() for name, term in terms.items()}


def is_finite_with_gradient(loss: Loss, size: int, classes: int, scale: float) -> bool:
    """Whether terms and gradients are finite in single precision, and the teacher has none."""
    student, teacher = random_pair(size, classes, scale)
    leaves = []
    for output in (student, student.views[STRONG], teacher, teacher.views[STRONG]):
        output.logits = output.logits.float().requires_grad_(len(leaves) < 2)
        leaves.append(output.logits)
    terms = loss(student, teacher, labelled(*(i % classes for i in range(size))))
    total = torch.stack(list(terms.values())).sum()
    gradients = torch.autograd.grad(total, leaves[:2])
    return bool(total.isfinite()) and all(bool(each.isfinite().all()) for each in gradients)


def waits_for_no_device(make, classes: int = 5, size: int = 4) -> bool:
    """Whether a loss runs on the meta device, where reading any value raises an error."""
    with torch.device("meta"):
        loss = make()
        logits = [torch.empty(size, classes, requires_grad=True) for _ in range(4)]
        student, teacher = two_views(*logits[:2]), two_views(*logits[2:])
        batch = labelled(*[0] * size)
        batch.target = torch.empty(size, dtype=torch.long)
        sum(loss(student, teacher, batch).values()).backward()
    return True

"""Swapped Logit Distillation via Bi-level Teacher Alignment (Limantoro et al., 2025).

arXiv:2504.20108; only its processing of the teacher's logits.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, LogitPair, LogitPlugin
from kd_bench.methods.common.partition import is_class


class SwappedTeacher(LogitPlugin):
    """The teacher's logits, those of its prediction and of the label exchanged.

    If the teacher is right, nothing changes; afterwards it is always right, so the operation is
    idempotent. The paper's full method (SLD) has further parts: two views of each image, six
    temperatures, and, late in training, the student's own swapped logits as a second teacher.
    """

    needs_labels = True

    def forward(self, pair: LogitPair, batch: Batch) -> LogitPair:
        return replace(pair, teacher=swapped(pair.teacher, batch.target))


def swapped(logits: Tensor, target: Tensor) -> Tensor:
    """Logits [B, K] with the largest one and that of the label exchanged."""
    largest, predicted = logits.max(1, keepdim=True)  # [B, 1]
    of_label = logits.gather(1, target[:, None])
    with_label = torch.where(is_class(predicted[:, 0], logits), of_label, logits)
    return torch.where(is_class(target, logits), largest, with_label)

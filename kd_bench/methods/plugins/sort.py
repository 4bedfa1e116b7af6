"""Parameter-Free Logit Distillation via Sorting Mechanism (Limantoro, 2025), arXiv:2508.16544."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, LogitPair, LogitPlugin
from kd_bench.methods.common.partition import is_class


class SortedTeacher(LogitPlugin):
    """The teacher's logits, the largest given to the label and the others to the rest in order.

    If the teacher is right, nothing changes. If it is wrong, each class that it ranks above the
    label moves down by one rank. The operation is idempotent; if the label is ranked second, it
    equals `swap`. The authors' code (StephenEkaputra/SortKD) computes the same.
    """

    needs_labels = True

    def forward(self, pair: LogitPair, batch: Batch) -> LogitPair:
        return replace(pair, teacher=with_label_first(pair.teacher, batch.target))


def with_label_first(logits: Tensor, target: Tensor) -> Tensor:
    """The same values with the largest at the label, and the others in the same order: [B, K]."""
    wanted = logits.masked_fill(is_class(target, logits), torch.inf)
    ranks = wanted.argsort(dim=1, descending=True, stable=True).argsort(1)  # [B, K], 0 the largest
    return logits.sort(dim=1, descending=True).values.gather(1, ranks)

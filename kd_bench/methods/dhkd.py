"""Dual-Head Knowledge Distillation (Yang et al., 2024), arXiv:2411.08937.

"DHKD". A loss on an auxiliary head, and a rule for its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import (
    Batch,
    GradientRule,
    LossContext,
    Output,
    PerImageLoss,
    Tensors,
    require,
    require_positive,
)
from kd_bench.methods.common.adapters import VectorBatchNorm


class AuxiliaryHead(PerImageLoss):
    """T^2 sum_k log cosh((a_k - z_t,k) / 2T), a the logits of an auxiliary head on h_s.

    This is BinaryKL-Norm, sum_k KL(1/2 || sigmoid((a_k - z_t,k) / T)) over both outcomes: unlike
    the KL divergence, it depends on the logits and not only on their differences. Since it would
    disturb the student's classifier, it uses a separate head, which is dropped after training. The
    head (linear, dropout, batch norm, ReLU, linear), its width of 200, dropout of 0.1, T = 2 and
    the weight of 1 are those of the authors' code (penghui-yang/DHKD) for CIFAR-100, which clamps
    probabilities.
    """

    stages = ("pooled",)

    def __init__(self, context: LossContext, temperature: float, hidden: int, dropout: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        require_positive("hidden", hidden)
        require(0 <= dropout < 1, f"dropout must be at least 0 and below 1, got {dropout}")
        self.temperature = temperature
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(context.student["pooled"]), hidden),
            nn.Dropout(dropout),
            VectorBatchNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, context.num_classes),
        )

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        logits = self.head(student.features["pooled"])
        half = (logits - teacher.logits) / (2 * self.temperature)
        # log cosh x = |x| + log(1 + exp(-2 |x|)) - log 2, which cannot overflow
        log_cosh = half.abs() + F.softplus(-2 * half.abs()) - math.log(2)
        return self.temperature**2 * log_cosh.sum(1)


class AlignedGradients(GradientRule):
    """Removes the part of the other terms' gradient g that opposes g_ce, that of cross entropy.

    If <g, g_ce> < 0, the projection of g on g_ce is subtracted from g. Both gradients are over all
    shared parameters together. In the authors' code (penghui-yang/DHKD), the lengths also include
    the classifier, which gets no gradient from the other terms, and whose gradient grows by the
    projection.
    """

    def __init__(self, terms: Sequence[str], momentum: float):
        self.parts = [[term for term in terms if term != "ce"]]
        require(bool(self.parts[0]), "dhkd needs a term besides ce, but the method has none")

    def combine(
        self, total: Tensors, parts: list[Tensors], momentum: Tensors, buffers: list[Tensors]
    ) -> None:
        (others,) = parts
        task = torch._foreach_sub(total, others)
        along = _dot(others, task)
        share = torch.where(along < 0, along / _dot(task, task), 0.0)
        torch._foreach_sub_(total, torch._foreach_mul(task, share))


def _dot(one: Tensors | tuple[Tensor, ...], other: Tensors | tuple[Tensor, ...]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()

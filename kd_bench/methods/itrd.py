"""Information Theoretic Representation Distillation (Miles et al., 2022), arXiv:2112.00459."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require_positive
from kd_bench.methods.common.adapters import Embedding
from kd_bench.methods.common.functional import correlation, unit


class InformationTransfer(Loss):
    """log2 sum_c (1 - r_c)^(2a) over channels, and |G_s|^2 - |G_s * G_t|^2; pooled features h.

    Two terms. "correlation": r_c is Pearson's correlation over the batch between a channel of the
    student, linearly embedded to the teacher's width, and that channel of the teacher; the power a
    and the logarithm are those of Renyi's entropy. "mutual": G is the matrix of the cosines of all
    pairs of images, divided by their number; * is the entrywise product, and |.|^2 the sum of
    squares, whose negative logarithm is an entropy of second order. The term is large if the
    images' similarities in the student carry little information about those in the teacher. It is
    computed from the embedded features if the widths differ, else from the features themselves.

    From the authors' code (roymiles/ITRD): the embedding; a sum of squares where the entropy has
    its logarithm; and r divided by B / (B - 1), due to a variance over B - 1 images and a mean over
    B, so the logarithm is always finite. Both terms depend on the batch size. Weights and a are
    its example for networks of one family on CIFAR-100 (wrn-40-2 and wrn-16-2); its defaults are
    a = 1.5 and 0.05 for the second term.

    Raises:
        UserError: if the power is not above 0.
    """

    stages = ("pooled",)
    terms = ("correlation", "mutual")

    def __init__(self, context: LossContext, power: float):
        super().__init__(context)
        require_positive("power", power)
        self.power = power
        student, teacher = context.student["pooled"], context.teacher_shapes["pooled"]
        self.embedding = Embedding(student, teacher[0])
        self.widths_differ = student[0] != teacher[0]

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s, t = (out.features["pooled"].flatten(1) for out in (student, teacher))
        embedded = self.embedding(s)  # [B, C]
        r = correlation(embedded, t, dim=0) * (len(t) - 1) / len(t)  # [C]
        return {
            "correlation": (1 - r).pow(2 * self.power).sum().log2(),
            "mutual": mutual_distance(embedded if self.widths_differ else s, t),
        }


def mutual_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """|G_s|^2 - |G_s * G_t|^2, G the cosines of all pairs over their number: [B, C], [B, D]."""
    s, t = (_cosines(x) for x in (student, teacher))  # [B, B], of trace B
    return (s.pow(2) - (s * t).pow(2)).sum() / len(s) ** 2


def _cosines(x: Tensor) -> Tensor:
    direction = unit(x, 1)
    return torch.matmul(direction, direction.T)

"""Correlation Congruence for Knowledge Distillation (Peng et al., 2019), ICCV, arXiv:1904.01802.

Several losses are published under this name: `CorrelationCongruence` is the paper's, with its
kernel; `NeighbourCorrelation` is the loss called CC in RepDistiller and its tables.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require, require_positive
from kd_bench.methods.common.adapters import Embedding
from kd_bench.methods.common.functional import sum_of, unit


def taylor_gaussian(x: Tensor, gamma: float, order: int) -> Tensor:
    """Taylor series of the kernel exp(-gamma ||x_i - x_j||^2) of unit vectors: [B, C] -> [B, B].

    Since ||a - b||^2 = 2 - 2 a.b, it is exp(-2 gamma) sum_p (2 gamma)^p / p! (a.b)^p, truncated
    after `order`.
    """
    cosine = x @ x.T
    terms = ((2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))
    return math.exp(-2 * gamma) * sum_of(terms)


class CorrelationCongruence(Loss):
    """mean((K_s - K_t)^2) over a batch's pairs, K the series of a Gaussian kernel; features [B, C].

    The paper's correlation loss with its kernel: gamma 0.4, order 2. Features are normalized to
    unit length and not embedded first, as in AberHu/Knowledge-Distillation-Zoo, which is closest to
    the paper and whose weight of 100 (at batch size 128) is the default. The paper also has a
    soft-target term, and samples batches by class or by cluster. torchdistill embeds features, does
    not normalize them, and uses the norm without the square. The networks may differ in width.
    """

    stages = ("pooled",)

    def __init__(self, context: LossContext, gamma: float, order: int):
        super().__init__(context)
        require_positive("gamma", gamma)
        require(order >= 1, f"order must be 1 or more, got {order}")
        self.gamma, self.order = gamma, order

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s, t = (
            taylor_gaussian(unit(out.features["pooled"].flatten(1), 1), self.gamma, self.order)
            for out in (student, teacher)
        )  # [B, B]
        return F.mse_loss(s, t)


class NeighbourCorrelation(Loss):
    """mean_i |e_s - e_t|_i . |e_s - e_t|_{i+1} over neighbours in the batch; embeddings e [B, D].

    The CC of HobbitLong/RepDistiller, which according to a comment there is the code of the paper's
    first author. It has no kernel and no correlation between images. Both embeddings are linear and
    trained, including the teacher's, so they can collapse to a constant, where the loss is zero.
    The weight of 0.02 and 128 channels are RepDistiller's, at batch size 64. The networks may
    differ in width.
    """

    stages = ("pooled",)

    def __init__(self, context: LossContext, channels: int):
        super().__init__(context)
        require_positive("channels", channels)
        self.student = Embedding(context.student["pooled"], channels)
        self.teacher = Embedding(context.teacher_shapes["pooled"], channels)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s = self.student(student.features["pooled"])
        t = self.teacher(teacher.features["pooled"])
        gap = (s - t).abs()  # [B, D]
        neighbours = max(len(gap) - 1, 1)  # a single image has no neighbours: zero loss
        return (gap[:-1] * gap[1:]).sum() / neighbours

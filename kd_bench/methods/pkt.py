"""Learning Deep Representations with Probabilistic Knowledge Transfer (Passalis and Tefas, 2018).

ECCV 2018, arXiv:1803.10837.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output
from kd_bench.methods.common.functional import unit

EPSILON = 1e-7  # in the logarithm, as in the authors' code


def neighbour_probability(x: Tensor) -> Tensor:
    """How likely each image takes each other for its neighbour: [B, C] -> [B, B], rows sum to one.

    S_ij = (cos(x_i, x_j) + 1) / 2 over its row's sum: the paper's cosine kernel.
    """
    x = unit(x, 1)
    similarity = ((x @ x.T + 1) / 2).clamp(min=0)  # rounding can take it below zero
    return similarity / similarity.sum(1, keepdim=True)


class ProbabilisticTransfer(Loss):
    """mean_ij P_t log(P_t / P_s), P a network's neighbour probabilities; features [B, C].

    The mean over B^2 pairs, images beside themselves included, and the epsilon are those of the
    authors' code (passalis/probabilistic_kt), which RepDistiller took over; the paper sums, and
    leaves out i = j. Since every row of P sums to one, the mean falls as 1 / B: a batch twice as
    large wants twice the weight. The authors transfer without labels; here it stands beside cross
    entropy, as in RepDistiller. The networks may differ in width.
    """

    stages = ("pooled",)

    def __init__(self, context: LossContext):
        super().__init__(context)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s, t = (
            neighbour_probability(out.features["pooled"].flatten(1)) for out in (student, teacher)
        )  # [B, B]
        return (t * torch.log((t + EPSILON) / (s + EPSILON))).mean()

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
    """Probability that each image is another's neighbour: [B, C] -> [B, B], rows sum to one.

    S_ij = (cos(x_i, x_j) + 1) / 2 divided by its row sum: the paper's cosine kernel.
    """
    x = unit(x, 1)
    similarity = ((x @ x.T + 1) / 2).clamp(min=0)  # rounding can make it negative
    return similarity / similarity.sum(1, keepdim=True)


class ProbabilisticTransfer(Loss):
    """mean_ij P_t log(P_t / P_s), P a network's neighbour probabilities; features [B, C].

    The mean over B^2 pairs, including i = j, and the epsilon are those of the authors' code
    (passalis/probabilistic_kt), adopted by RepDistiller; the paper sums, and excludes i = j. Since
    every row of P sums to one, the mean scales with 1 / B: twice the batch size needs twice the
    weight. The authors transfer without labels; here it is added to cross entropy, as in
    RepDistiller. The networks may differ in width.
    """

    stages = ("pooled",)

    def __init__(self, context: LossContext):
        super().__init__(context)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s, t = (
            neighbour_probability(out.features["pooled"].flatten(1)) for out in (student, teacher)
        )  # [B, B]
        return (t * torch.log((t + EPSILON) / (s + EPSILON))).mean()

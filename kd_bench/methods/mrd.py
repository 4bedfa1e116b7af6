"""Monotonic Rank Distillation: Leveraging Kendall Correlation for Model Compression.

A repository of 2024, ebolk/MonotonicRankDistillation; no paper could be found. A related ranking
loss: Guan et al., 2024, arXiv:2409.17823.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require_positive
from kd_bench.methods.common.functional import correlation, standardize

NUMBERS_AT_ONCE = 2**22  # 16 MB each for a few intermediate results in float32


class _RankAgreement(torch.autograd.Function):
    """`rank_agreement`, with value and gradient computed together, in chunks.

    So all pairs are never in memory at once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, sharpness: float) -> Tensor:
        n = x.shape[1]
        value, gradient = x.new_zeros(len(x)), torch.zeros_like(x)
        width = max(NUMBERS_AT_ONCE // x.numel(), 1)
        for other_x, other_y in zip(x.split(width, 1), y.split(width, 1), strict=True):
            dy = y[:, :, None] - other_y[:, None]  # [R, N, width]
            agreement = (sharpness * dy * (x[:, :, None] - other_x[:, None])).tanh()
            value += agreement.sum((1, 2))
            gradient += ((1 - agreement.square()) * dy).sum(2)
        pairs = max(n * (n - 1), 1)
        ctx.save_for_backward(gradient * (2 * sharpness / pairs))  # x_j is in two pairs (j, k)
        return value / pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer[:, None] * gradient, None, None


def rank_agreement(x: Tensor, y: Tensor, sharpness: float) -> Tensor:
    """mean_{j != k} tanh(a (x_j - x_k) (y_j - y_k)) of each row: [R, N], [R, N] -> [R].

    A smooth version of Kendall's tau, which it approaches as the sharpness a grows. 0 for rows of
    one number. Differentiable only in x. R N^2 operations.
    """
    value: Tensor = _RankAgreement.apply(x, y, sharpness)
    return value


class MonotonicRank(Loss):
    """1 - rho(z_s, z_t), and 1 - mean_{j<k} tanh(b D_jk^s D_jk^t / 2), over classes and images.

    Two terms, each the sum of a mean over images, where j and k are classes, and a mean over
    classes, where they are images of the batch. "correlation" is Pearson's rho of logits; "rank" is
    a smooth Kendall's tau with D_jk = h_j - h_k, h the logits standardized by their (unbiased)
    deviation. So the student's logits for an image or a class may differ from the teacher's in
    shift and scale.

    "rank" compares all pairs: B K^2 + K B^2 operations, 1 million at B = 64 and K = 100. They are
    computed in chunks of at most 4 million numbers, so 320 million at B = 256 and K = 1000 take
    time but no memory.

    This is the repository's loss, with its weights. As published, it fails unless B = K, since it
    adds vectors of these lengths before averaging them.
    """

    ignores_temperature = True
    terms = ("correlation", "rank")

    def __init__(self, context: LossContext, sharpness: float):
        super().__init__(context)
        require_positive("sharpness", sharpness)
        self.sharpness = sharpness

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s, t = student.logits, teacher.logits
        both = (s, t), (s.T, t.T)  # over classes, over images
        linear = [1 - correlation(x, y, dim=1).mean() for x, y in both]
        ranks = [1 - self._rank(x, y).mean() for x, y in both]
        return {"correlation": linear[0] + linear[1], "rank": ranks[0] + ranks[1]}

    def _rank(self, student: Tensor, teacher: Tensor) -> Tensor:
        n = student.shape[1]
        unbiased = (n - 1) / n  # ratio of the products of differences
        x, y = standardize(student, dim=1), standardize(teacher, dim=1)
        return rank_agreement(x, y, unbiased * self.sharpness / 2)

"""Relational Knowledge Distillation (Park, Kim, Lu and Cho, 2019), CVPR 2019, arXiv:1904.05068."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output


def relations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [B, B] between images and angles [B, B, B], from features [B, C].

    Distances are divided by the mean of the positive ones in the batch; entry [i, j, k] of the
    angles is the cosine at corner i between j and k. Images with equal features have distance 0 and
    cosine 0.
    """
    difference = x[None] - x[:, None]  # [B, B, C]; its length is the distance, exact near zero
    length = torch.linalg.vector_norm(difference, dim=2)  # [B, B]
    positive = (length > 0).sum().clamp(min=1)
    mean = (length.sum() / positive).clamp(min=1e-12)
    direction = difference / length.masked_fill(length == 0, 1.0)[:, :, None]
    return length / mean, direction @ direction.transpose(1, 2)


class RelationalDistillation(Loss):
    """Huber(D_s - D_t) over pairs and Huber(A_s - A_t) over triplets of a batch's images.

    Two terms, "distance" and "angle", each the mean over all B^2 or B^3 entries, as in the authors'
    code (lenscloth/RKD); the paper sums. The authors' weights of 25 and 50 for CIFAR belong to
    batch size 128, unit-length features and an additional soft-target term; RepDistiller uses them
    without the latter two at batch size 64, as we do. In both codes, equal features have distance
    1e-6; here, 0. Memory is B^2 C and B^3 numbers per network: 1 MB each at B = 64 and C = 64, and
    8 MB for the triplets at B = 128. The networks may differ in width.
    """

    stages = ("pooled",)
    terms = ("distance", "angle")

    def __init__(self, context: LossContext):
        super().__init__(context)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        (s_distance, s_angle), (t_distance, t_angle) = (
            relations(out.features["pooled"].flatten(1)) for out in (student, teacher)
        )
        return {
            "distance": F.smooth_l1_loss(s_distance, t_distance),
            "angle": F.smooth_l1_loss(s_angle, t_angle),
        }

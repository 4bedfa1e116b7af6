"""Similarity-Preserving Knowledge Distillation (Tung and Mori, 2019), ICCV, arXiv:1907.09682."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output
from kd_bench.methods.common.adapters import map_stages
from kd_bench.methods.common.functional import sum_of, unit


def similarity(x: Tensor) -> Tensor:
    """Similarity between the images of a batch: [B, C, H, W] -> [B, B], rows of unit length."""
    x = x.flatten(1)
    return unit(x @ x.T, 1)


class SimilarityPreserving(Loss):
    """Sum over stages of ||G_s - G_t||_F^2 / B^2, G the similarity matrix of a network.

    The paper sums over pairs of layers, here over `stages`: by default only the last map, as in
    RepDistiller, with its weight of 3000 at batch size 64. According to a comment, that code was
    verified by the paper's author. Knowledge-Distillation-Zoo uses the mean over three stages with
    the same weight, and torchdistill rows of unit L1 norm, so their weights are not comparable. The
    networks' feature maps may differ in channels and size.
    """

    def __init__(self, context: LossContext, stages: Sequence[str]):
        super().__init__(context)
        self.stages = map_stages(context, stages)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        pairs = ((student.features[stage], teacher.features[stage]) for stage in self.stages)
        return sum_of(F.mse_loss(similarity(s), similarity(t)) for s, t in pairs)

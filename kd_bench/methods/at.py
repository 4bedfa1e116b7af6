"""Paying More Attention to Attention (Zagoruyko and Komodakis, 2017), arXiv:1612.03928."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output
from kd_bench.methods.common.adapters import map_stages, to_common_size
from kd_bench.methods.common.functional import attention_map, sum_of


class AttentionTransfer(Loss):
    """Sum over stages of mean((Q_s - Q_t)^2), Q the attention map of a network, of unit length.

    The mean is over batch and positions, as in the authors' code, to which the weight 1000 belongs;
    equation 2 of the paper has the norm of the difference, not squared. Since Q has unit length,
    the mean scales with 1 / (H W): small images need a smaller weight. Feature maps of different
    sizes are pooled to the smaller one before the attention map is computed.
    """

    is_mean_over_images = True

    def __init__(self, context: LossContext, stages: Sequence[str]):
        super().__init__(context)
        self.stages = map_stages(context, stages)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        pairs = ((student.features[stage], teacher.features[stage]) for stage in self.stages)
        return sum_of(_attention_distance(s, t) for s, t in pairs)


def _attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = map(attention_map, to_common_size(student, teacher))  # [B, H*W]
    return F.mse_loss(s, t)

"""Like What You Like: Neuron Selectivity Transfer (Huang and Wang, 2017), arXiv:1707.01219."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output
from kd_bench.methods.common.adapters import map_stages, to_common_size
from kd_bench.methods.common.functional import sum_of, unit


def mean_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Mean of (a . b)^2 over batch and all pairs of rows: [B, C, P], [B, D, P] -> a scalar.

    The polynomial kernel of degree 2 without a constant. One matrix product, so that no tensor is
    larger than [B, C, D].
    """
    return torch.bmm(first, second.transpose(1, 2)).pow(2).mean()


class NeuronSelectivity(Loss):
    """Sum over stages of the squared maximum mean discrepancy between the networks' channels.

    mean k(s, s') + mean k(t, t') - 2 mean k(s, t) with k(a, b) = (a . b)^2, over all pairs of
    channels of an image, where each channel is a vector [H*W] of unit length. The numbers of
    channels may differ; maps of different sizes are pooled to the smaller one.

    This is the paper's polynomial kernel, with d = 2 and c = 0. The authors' code
    (TuSimple/neuron-selectivity-transfer) compares only the last map, with weight 50 for ImageNet
    (method.losses.nst.stages=[stage3]). Three stages with weight 50 each are RepDistiller's.
    """

    is_mean_over_images = True

    def __init__(self, context: LossContext, stages: Sequence[str]):
        super().__init__(context)
        self.stages = map_stages(context, stages)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        pairs = ((student.features[stage], teacher.features[stage]) for stage in self.stages)
        return sum_of(_discrepancy(s, t) for s, t in pairs)


def _discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (unit(x.flatten(2), 2) for x in to_common_size(student, teacher))  # [B, C, H*W]
    return mean_kernel(s, s) + mean_kernel(t, t) - 2 * mean_kernel(s, t)

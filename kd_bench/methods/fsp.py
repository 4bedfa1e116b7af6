"""A Gift from Knowledge Distillation (Yim, Joo, Bae and Kim, 2017), CVPR 2017.

`fsp` has the two phases of the paper: first only the flow, then only cross entropy. `fsp_joint`
uses both from the first epoch, as the predecessor does (hankyul2/KnowledgeDistillation).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require
from kd_bench.methods.common.adapters import map_stages, require_equal_channels, to_common_size


def flow_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Inner products between the channels of two stages: [B, C, H, W], [B, D, J, L] -> [B, C, D].

    G = F_first F_second^T / (H W), equation 1 of the paper; the larger map is average-pooled first.
    """
    first, second = (x.flatten(2) for x in to_common_size(first, second))  # [B, C or D, H*W]
    return torch.bmm(first, second.transpose(1, 2)) / first.shape[2]


class FlowOfSolution(Loss):
    """Mean over consecutive pairs of stages of mean((G_s - G_t)^2), G their flow matrix.

    Deviations from the paper, as in RepDistiller: average pooling instead of max pooling, and means
    over the matrix and the pairs instead of sums. RepDistiller sums over the pairs, so its weight
    of 1 is 3 here, for three pairs.

    Raises:
        UserError: if there are fewer than two stages, or the networks have different channels.
    """

    is_mean_over_images = True

    def __init__(self, context: LossContext, stages: Sequence[str]):
        super().__init__(context)
        self.stages = map_stages(context, stages)
        require(len(stages) > 1, f"FSP needs two stages or more, got {', '.join(stages)}")
        for stage in self.stages:
            require_equal_channels(context, stage, "FSP")

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s, t = (out.features for out in (student, teacher))
        pairs = [
            F.mse_loss(flow_matrix(s[a], s[b]), flow_matrix(t[a], t[b]))
            for a, b in pairwise(self.stages)
        ]
        return torch.stack(pairs).mean()

"""A Gift from Knowledge Distillation (Yim, Joo, Bae and Kim, 2017), CVPR 2017.

`fsp` has the paper's two stages: first the flow alone, then cross entropy alone. `fsp_joint` has
both from the first epoch on, as in the predecessor, hankyul2/KnowledgeDistillation.
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
    """How two stages' channels go together: [B, C, H, W], [B, D, J, L] -> [B, C, D].

    G = F_first F_second^T / (H W), the paper's equation 1; the larger map is averaged down first.
    """
    first, second = (x.flatten(2) for x in to_common_size(first, second))  # [B, C or D, H*W]
    return torch.bmm(first, second.transpose(1, 2)) / first.shape[2]


class FlowOfSolution(Loss):
    """Mean over consecutive pairs of stages of mean((G_s - G_t)^2), G their flow matrix.

    Where this leaves the paper, as RepDistiller does: maps are made smaller by average pooling
    instead of max pooling; means over the matrix and the pairs instead of sums. RepDistiller adds
    the pairs up, so its weight of 1 is 3 here, for three pairs.

    Raises:
        UserError: for fewer than two stages, and where the networks' channels differ.
    """

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

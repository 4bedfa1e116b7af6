"""Distillation of Activation Boundaries (Heo et al., 2019), AAAI 2019, arXiv:1811.03233."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require_positive
from kd_bench.methods.common.adapters import Connector, map_stages, to_common_size
from kd_bench.methods.common.functional import sum_of


def boundary_distance(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Squares of how far the student is from the teacher's side: [B, C, H, W] twice -> [B].

    A value of the student should be at least `margin` where the teacher's is above zero, and at
    most -`margin` where it is not: sum of max(0, margin - s)^2 or max(0, margin + s)^2.
    """
    side = torch.where(teacher > 0, 1.0, -1.0).to(student.dtype)
    return F.relu(margin - side * student).pow(2).sum((1, 2, 3))


class ActivationBoundary(Loss):
    """Sum over n stages of 2^(i - n) d(r(F_s), F_t), i = 1..n, mean over the batch.

    F are the maps before a stage's last ReLU; d punishes values on the other side of zero than the
    teacher's, or nearer to it than the margin. r is a 1x1 convolution with batch norm, trained
    along, where the channels differ, and nothing where they are equal. Maps of unequal size are
    brought to the smaller one.

    It is made for a stage of training of its own. Stages' weights, margin 1 and the weight 3/1000
    are the authors' (bhheo/AB_distillation, CIFAR-10) and RepDistiller's. Then the authors train
    by the soft targets alone, at T = 3 and without the factor T^2, and leave cross entropy as a
    choice; so does `ab`, where 1/9 takes the place of the missing factor. RepDistiller and
    AberHu/Knowledge-Distillation-Zoo train by cross entropy alone
    (method.weights.ce=1 method.weights.st=0).

    Raises:
        UserError: for a margin that is not above 0.
    """

    def __init__(self, context: LossContext, stages: Sequence[str], margin: float):
        super().__init__(context)
        require_positive("margin", margin)
        self.margin = margin
        self.stages = map_stages(context, [f"{stage}_pre" for stage in map_stages(context, stages)])
        self.connectors = nn.ModuleDict(
            {
                stage: _connector(context.student[stage][0], context.teacher_shapes[stage][0])
                for stage in self.stages
            }
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        distances = [
            self._distance(stage, student.features[stage], teacher.features[stage])
            for stage in self.stages
        ]
        last = len(distances) - 1
        return sum_of(2.0 ** (i - last) * d.mean() for i, d in enumerate(distances))

    def _distance(self, stage: str, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = to_common_size(student, teacher)
        return boundary_distance(self.connectors[stage](s), t, self.margin)  # [B]


def _connector(channels_in: int, channels: int) -> nn.Module:
    return nn.Identity() if channels_in == channels else Connector(channels_in, channels)

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
    """Squared hinge distance to the teacher's activation boundary: [B, C, H, W] twice -> [B].

    A student value should be at least `margin` where the teacher's is positive and at most
    -`margin` elsewhere: sum of max(0, margin - s)^2 or max(0, margin + s)^2.
    """
    side = torch.where(teacher > 0, 1.0, -1.0).to(student.dtype)
    return F.relu(margin - side * student).pow(2).sum((1, 2, 3))


class ActivationBoundary(Loss):
    """Sum over n stages of 2^(i - n) d(r(F_s), F_t), i = 1..n, mean over the batch.

    F are the feature maps before a stage's last ReLU; d penalizes values on the wrong side of the
    teacher's activation boundary, or closer to it than the margin. r is a trained 1x1 convolution
    with batch norm if the channels differ, else the identity. Maps of different sizes are pooled to
    the smaller one.

    Meant for the init phase. Stage weights, margin 1 and weight 3/1000 are those of the authors'
    code (bhheo/AB_distillation, CIFAR-10) and RepDistiller. After that phase, the authors train
    only on soft targets, at T = 3 and without the factor T^2, with cross entropy as an option; `ab`
    does the same, and its weight 1/9 cancels our factor T^2. RepDistiller and
    AberHu/Knowledge-Distillation-Zoo train only on cross entropy (method.weights.ce=1
    method.weights.st=0).

    One deviation: in the first phase, the authors' teacher is in train mode, so it normalizes with
    batch statistics. Here it is in eval mode in both phases.

    Raises:
        UserError: if the margin is not above 0.
    """

    is_mean_over_images = True

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

"""Knowledge Distillation with the Reused Teacher Classifier (Chen et al., 2022), arXiv:2203.14001.

"SimKD". A head of the student and a loss.
"""

from __future__ import annotations

from copy import deepcopy

import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Head, Loss, LossContext, Output, require
from kd_bench.methods.common.adapters import average_pool, map_stages, to_common_size


class ReusedClassifier(Head):
    """The teacher's classifier, on the average of the student's last map P(F_s), P the projector.

    P is a bottleneck of convolutions without biases, each with batch norm and a ReLU: 1x1 to
    1/`factor` of the teacher's channels, 3x3, and 1x1 to the teacher's. If the teacher's map is
    smaller, P takes the student's map averaged to that size. The classifier is a frozen copy, whose
    input in the teacher must be the average of the last map.

    Raises:
        UserError: if the factor leaves no channel, or a network has no map at `stage`.
    """

    def __init__(self, context: LossContext, stage: str, factor: int):
        super().__init__(context)
        (self.reads,) = map_stages(context, [stage])
        self.stages = {stage: "projector", "pooled": "classifier:input"}
        teacher = context.teacher_shapes
        channels, *size = teacher[stage]
        require(
            1 <= factor <= channels,
            f"factor must be from 1 to the teacher's {channels} channels, got {factor}",
        )
        smaller = map(min, size, context.student[stage][1:])
        height, width = smaller
        self.size = height, width
        between = channels // factor
        self.projector = nn.Sequential(
            *_layer(context.student[stage][0], between, kernel=1),
            *_layer(between, between, kernel=3),
            *_layer(between, channels, kernel=1),
        )
        assert context.teacher_net is not None  # given along with the teacher's shapes
        classifier = context.teacher_net.get_submodule(teacher.classifier)
        self.classifier = deepcopy(classifier).requires_grad_(False)

    def forward(self, feature: Tensor) -> Tensor:
        projected = self.projector(average_pool(feature, self.size))  # [B, C, H, W]
        return self.classifier(projected.mean((2, 3)))


def _layer(channels_in: int, channels: int, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(channels), nn.ReLU()


class ProjectedFeatures(Loss):
    """mean((P(F_s) - F_t)^2), F the last map, P the projector, which stays part of the student.

    This is the only loss: the student uses the teacher's classifier (`ReusedClassifier`), and sees
    no labels. Projector and classifier count at inference. A larger map of the teacher is averaged
    to the size of the student's. Weight, projector and its factor of 2 are those of the authors'
    code (DefangChen/SimKD); a factor of 4 or 8 makes a smaller projector, with lower accuracy
    there.
    """

    is_mean_over_images = True

    def __init__(self, context: LossContext, stage: str):
        super().__init__(context)
        self.stages = map_stages(context, [stage])

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        (stage,) = self.stages
        return F.mse_loss(*to_common_size(student.features[stage], teacher.features[stage]))

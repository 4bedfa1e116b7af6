"""Comprehensive Overhaul of Feature Distillation (Heo et al., 2019), ICCV, arXiv:1904.01866."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output, UserError
from kd_bench.methods.common.adapters import Connector, map_stages, to_common_size
from kd_bench.methods.common.functional import sum_of


def negative_mean(norm: nn.BatchNorm2d) -> Tensor:
    """Mean of the negative part of a batch norm's output, by channel: [C].

    E[x | x < 0] = beta - |gamma| phi(z) / Phi(-z), z = beta / |gamma|, for a normal x with the
    batch norm's bias as mean and its weight as standard deviation. If less than a thousandth is
    negative, it is -3 |gamma|, as in the authors' code.
    """
    mean, deviation = norm.bias.detach(), norm.weight.detach().abs()
    z = mean / deviation.clamp(min=1e-12)
    log_share = torch.special.log_ndtr(-z)  # probability of a negative value
    log_density = -z.pow(2) / 2 - math.log(2 * math.pi) / 2
    negative = mean - deviation * (log_density - log_share).exp()
    return torch.where(log_share > math.log(0.001), negative, -3 * deviation)


def partial_distance(student: Tensor, target: Tensor) -> Tensor:
    """Squared error summed except where student <= target <= 0: [B, C, H, W] twice -> [B].

    There, the following ReLU makes both zero anyway.
    """
    counts = (student > target) | (target > 0)
    return ((student - target).pow(2) * counts).sum((1, 2, 3))


class FeatureOverhaul(Loss):
    """Sum over n stages of 2^(i - n) d(r(F_s), max(F_t, m)), i = 1..n, mean over the batch.

    F are the feature maps before a stage's last ReLU, r a trained 1x1 convolution with batch norm;
    m is the mean of the negative part of the teacher's last batch norm there, and d ignores values
    that are negative in both. Stage weights and weight 1/1000 are the authors'
    (clovaai/overhaul-distillation, CIFAR-100, batch size 128). In their networks and in these, the
    shortcut is added to the output of that batch norm before the ReLU, which m ignores.

    The authors' code and mdistiller leave the teacher in train mode, so its maps are normalized
    with batch statistics and its running statistics change. Here, a teacher is always in eval mode.
    Maps of different sizes are pooled to the smaller one.

    A network needs two more stages for each of `stages`: for stage1, these are stage1_pre, before
    its last ReLU, and stage1_norm, the last batch norm before that.

    Raises:
        UserError: if a network lacks a stage, or its `_norm` is not a batch norm with weights.
    """

    is_mean_over_images = True

    def __init__(self, context: LossContext, stages: Sequence[str]):
        super().__init__(context)
        stages = map_stages(context, stages)
        self.stages = map_stages(context, [f"{stage}_pre" for stage in stages])
        self.connectors = nn.ModuleDict(
            {
                stage: Connector(context.student[stage][0], context.teacher_shapes[stage][0])
                for stage in self.stages
            }
        )
        for name, stage in zip(stages, self.stages, strict=True):
            margin = negative_mean(_norm_of(context, f"{name}_norm"))
            self.register_buffer(f"margin_{stage}", margin.view(-1, 1, 1))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        distances = [
            self._distance(stage, student.features[stage], teacher.features[stage])
            for stage in self.stages
        ]
        last = len(distances) - 1
        return sum_of(2.0 ** (i - last) * d.mean() for i, d in enumerate(distances))

    def _distance(self, stage: str, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = to_common_size(student, teacher)
        target = torch.maximum(t, self.get_buffer(f"margin_{stage}"))
        return partial_distance(self.connectors[stage](s), target)  # [B]


def _norm_of(context: LossContext, stage: str) -> nn.BatchNorm2d:
    """The teacher's batch norm at `stage`."""
    context.teacher_shapes[stage]  # raises UserError for an unknown stage
    path = context.teacher_shapes.paths[stage]
    assert context.teacher_net is not None  # guaranteed by needs_teacher
    norm = dict(context.teacher_net.named_modules()).get(path)
    if isinstance(norm, nn.BatchNorm2d) and norm.affine:
        return norm
    raise UserError(
        f"OFD needs a batch norm with weights at stage '{stage}' of "
        f"{context.teacher_shapes.model}; '{path}' is a {type(norm).__name__}"
    )

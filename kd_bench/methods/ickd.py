"""Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation (ICKD).

Liu et al., ICCV 2021, arXiv:2202.03680.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output
from kd_bench.methods.common.adapters import Connector, map_stages
from kd_bench.methods.common.functional import sum_of, unit


def channel_correlation(x: Tensor) -> Tensor:
    """Similarity of an image's channels: [B, C, H, W] -> [B, C, C], rows of unit length."""
    x = x.flatten(2)
    return unit(x @ x.transpose(1, 2), 2)


class InterChannelCorrelation(Loss):
    """Sum over stages of ||G_s - G_t||_F^2 / C, mean over the batch, G the channel correlation.

    The student's map is first projected to the teacher's channels [B, C, H, W] by a 1x1 convolution
    and batch norm, even if the widths are equal. Follows the authors' code for CIFAR-100
    (ADLab-AutoDrive/ICKD), with the last feature map and weight 2.5 at batch size 64, except that
    the convolution's initial weights are larger, which the batch norm cancels. torchdistill follows
    the authors' code for ImageNet: it divides by B again and uses weight 500. The networks' feature
    maps may differ in channels and size.
    """

    is_mean_over_images = True

    def __init__(self, context: LossContext, stages: Sequence[str]):
        super().__init__(context)
        self.stages = map_stages(context, stages)
        widths = (
            (context.student[stage][0], context.teacher_shapes[stage][0]) for stage in self.stages
        )
        self.connectors = nn.ModuleList(Connector(*pair) for pair in widths)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return sum_of(
            _distance(connector(student.features[stage]), teacher.features[stage])
            for stage, connector in zip(self.stages, self.connectors, strict=True)
        )


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = map(channel_correlation, (student, teacher))  # [B, C, C]
    return (s - t).square().sum(2).mean()

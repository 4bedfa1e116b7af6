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
    """How alike an image's channels are: [B, C, H, W] -> [B, C, C], rows of length one."""
    x = x.flatten(2)
    return unit(x @ x.transpose(1, 2), 2)


class InterChannelCorrelation(Loss):
    """Sum over stages of ||G_s - G_t||_F^2 / C, mean over the batch, G the channels' correlation.

    The student's map first goes through a 1x1 convolution and batch norm to the teacher's channels
    [B, C, H, W], also where the widths are equal. All is as in the authors' code for CIFAR-100
    (ADLab-AutoDrive/ICKD), with its last map and its weight of 2.5 at batch 64, except that the
    convolution's first weights are larger, which the batch norm cancels. torchdistill, after the
    authors' code for ImageNet, divides by B once more and weighs 500. Neither channels nor sizes of
    the networks' maps need to agree.
    """

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

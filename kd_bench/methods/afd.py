"""Pay Attention to Features, Transfer Learn Faster CNNs (Wang et al., 2020), ICLR 2020.

OpenReview ryxyCeHtPB. Not to be confused with Attention-based Feature Distillation (AAAI 2021),
which is also called AFD.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output
from kd_bench.methods.common.adapters import map_stages, require_equal_channels, to_common_size
from kd_bench.methods.common.functional import unit


class ChannelAttention(nn.Module):
    """Importance of each channel of a feature map, summing to one: [B, C, H, W] -> [B, C].

    Two linear layers with a ReLU in between, applied to the channel means; the sigmoids of the
    output are divided by their sum.
    """

    def __init__(self, channels: int):
        super().__init__()
        first, second = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.layers = nn.Sequential(first, nn.ReLU(), second)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        # Normalized in log space, because all sigmoids could underflow to zero.
        return F.softmax(F.logsigmoid(self.layers(features.mean((2, 3)))), dim=1)


class AttentiveFeatures(Loss):
    """Mean over stages of sum_c rho_c mean_HW (F_s,c - F_t,c)^2, mean over the batch.

    Each channel of each map is normalized to unit length; rho, a trained function of the teacher's
    map, is the importance of the channel.

    From the paper: distances between channels are weighted by a trained attention over the
    teacher's channels. The form of the attention, the channel normalization, the three stages and
    the weight of 500 are those of AberHu/Knowledge-Distillation-Zoo, whose author found the paper's
    attention unstable; they have not been checked against the paper. The second half of the paper,
    feature selection (AFS), which prunes the student, is not implemented. The paper fine-tunes a
    network of the same architecture instead of training a smaller one.

    Raises:
        UserError: if the networks have different numbers of channels.
    """

    is_mean_over_images = True

    def __init__(self, context: LossContext, stages: Sequence[str]):
        super().__init__(context)
        self.stages = map_stages(context, stages)
        for stage in self.stages:
            require_equal_channels(context, stage, "AFD")
        self.attention = nn.ModuleDict(
            {stage: ChannelAttention(context.teacher_shapes[stage][0]) for stage in self.stages}
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s, t = (out.features for out in (student, teacher))
        distances = [
            (self.attention[stage](t[stage]) * channel_distance(s[stage], t[stage])).sum(1).mean()
            for stage in self.stages
        ]
        return torch.stack(distances).mean()


def channel_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance between unit-length channels: two maps [B, C, H, W] -> [B, C]."""
    s, t = (unit(x.flatten(2), 2) for x in to_common_size(student, teacher))  # [B, C, H*W]
    return (s - t).pow(2).mean(2)

"""Masked Generative Distillation (Yang et al., 2022), ECCV 2022, arXiv:2205.01529."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require
from kd_bench.methods.common.adapters import map_stages, to_common_size


class MaskedGeneration(PerImageLoss):
    """sum (G(M r(F_s)) - F_t)^2 over channels and positions; M sets random channels to zero.

    F is the map of a stage after its last ReLU, r a trained 1x1 convolution if the channels differ,
    and G is trained: two 3x3 convolutions with a ReLU in between. Each channel of each image is
    masked with probability `masked`, so that the student's other channels must suffice to generate
    the teacher's map. The authors' code (yzd-v/MGD) masks channels for classification, and
    positions for detection and segmentation. Its weight, 0.00007, belongs to a sum over the
    512 x 7 x 7 values of the last map on ImageNet; that for CIFAR-100 (yzd-v/cls_KD), 0.0012, to
    512 x 4 x 4 values. Maps of different sizes are pooled to the smaller one; the networks may
    differ in width.

    Raises:
        UserError: if the stage is not a feature map, or `masked` is not at least 0 and below 1.
    """

    def __init__(self, context: LossContext, stage: str, masked: float):
        super().__init__(context)
        require(0 <= masked < 1, f"masked must be at least 0 and below 1, got {masked}")
        self.stages, self.masked = map_stages(context, [stage]), masked
        channels_in, channels = context.student[stage][0], context.teacher_shapes[stage][0]
        self.align = (
            nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)
        )
        self.generate = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        (stage,) = self.stages
        s, t = to_common_size(student.features[stage], teacher.features[stage])
        generated = self.generate(self._mask(self.align(s)))
        return (generated - t).pow(2).sum((1, 2, 3))

    def _mask(self, features: Tensor) -> Tensor:
        """Features with random channels of each image set to zero: [B, C, H, W]."""
        lot = torch.rand(*features.shape[:2], 1, 1, device=features.device)
        return features.masked_fill(lot < self.masked, 0.0)

"""Cross-Architecture Distillation Made Simple with Redundancy Suppression (Zhang et al., 2025).

ICCV 2025, arXiv:2507.21844.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require
from kd_bench.methods.common.adapters import VectorBatchNorm
from kd_bench.methods.common.functional import standardize


class RedundancySuppression(Loss):
    """sum_c (R_cc - 1)^2 and sum_{c != d} R_cd^2, R_cd the correlation of h_t,c and r(h_s)_d.

    Two terms, "same" and "others", from the correlations over a batch of all pairs of a teacher's
    and a student's channel: each channel of the student, after a trained projector r, should
    correlate with the same channel of the teacher, but not with its others. Pooled features h; r is
    a linear layer to `widening` times the student's width, batch norm, a GELU and a linear layer to
    the teacher's width; the linear layers have no bias.

    From the authors' code (VISION-SJTU/RSD): r, its initial values, the weight of 0.1 and 1/100 of
    that for other channels, for any pair of networks. That code adds 1e-5 to the deviations, and
    its recipe has label smoothing, which is not part of these weights. R depends on the batch size:
    over few images, unrelated channels are correlated as well.

    Raises:
        UserError: if `widening` is below 1.
    """

    stages = ("pooled",)
    terms = ("same", "others")

    def __init__(self, context: LossContext, widening: int):
        super().__init__(context)
        require(widening >= 1, f"widening must be 1 or more, got {widening}")
        channels_in, channels = context.student["pooled"][0], context.teacher_shapes["pooled"][0]
        first = nn.Linear(channels_in, widening * channels_in, bias=False)
        last = nn.Linear(widening * channels_in, channels, bias=False)
        for layer in (first, last):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        norm = VectorBatchNorm(widening * channels_in)
        self.projector = nn.Sequential(first, norm, nn.GELU(), last)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s = standardize(self.projector(student.features["pooled"].flatten(1)), 0)  # [B, C]
        t = standardize(teacher.features["pooled"].flatten(1), 0)
        correlations = t.T @ s / len(s)  # [C, C]
        same = torch.eye(len(correlations), device=s.device, dtype=torch.bool)
        return {
            "same": (correlations.diagonal() - 1).pow(2).sum(),
            "others": correlations.masked_fill(same, 0.0).pow(2).sum(),
        }

"""Improved Feature Distillation via Projector Ensemble (Chen et al., 2022), arXiv:2210.15274."""

from __future__ import annotations

from torch import Tensor, nn

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require
from kd_bench.methods.common.adapters import Embedding
from kd_bench.methods.common.functional import sum_of, unit


class ProjectorEnsemble(PerImageLoss):
    """1 - cos(mean_m relu(W_m h_s), h_t), mean over the batch; h the pooled features.

    The projectors W are trained linear layers (with a bias) to the teacher's width, which differ
    only in their random initial values. They are followed by a ReLU, as are the teacher's features.
    As in the authors' code (chenyd7/PEFD), with its weight and three projectors. The networks may
    differ in width.
    """

    stages = ("pooled",)

    def __init__(self, context: LossContext, projectors: int):
        super().__init__(context)
        require(projectors >= 1, f"projectors must be 1 or more, got {projectors}")
        channels = context.teacher_shapes["pooled"][0]
        shape = context.student["pooled"]
        self.projectors = nn.ModuleList(Embedding(shape, channels) for _ in range(projectors))

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        h = student.features["pooled"]
        projected = sum_of(projector(h).relu() for projector in self.projectors)  # [B, C]
        target = teacher.features["pooled"].flatten(1)
        return 1 - (unit(projected, 1) * unit(target, 1)).sum(1)

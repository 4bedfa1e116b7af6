"""Improving Knowledge Distillation via Regularizing Feature Norm and Direction (KD++).

Wang et al., 2023, arXiv:2305.17007.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss
from kd_bench.methods.common.adapters import Embedding
from kd_bench.methods.common.functional import class_means, unit


class NormAndDirection(PerImageLoss):
    """1 - <h_s, c_y> / (|c_y| max(|h_s|, |h_t|)), h pooled, c_y the mean of h_t over class y.

    ND loss: the student's features should be as large as the teacher's, and point to the centre of
    their class, which is the mean over its training images without augmentation. Exceeding the
    teacher's length does not reduce the loss further. As in the authors' code
    (WangYZ1608/Knowledge-Distillation-via-ND), the length of a longer student feature is
    differentiated. If the widths differ, h_s is a trained linear map of the student's features with
    a bias; that code has batch norm and dropout before it.

    KD++ adds it to `st`, DKD++ to `dkd`.
    """

    stages = ("pooled",)
    needs_labels = True
    centre: Tensor

    def __init__(self, context: LossContext):
        super().__init__(context)
        student, teacher = context.student["pooled"], context.teacher_shapes["pooled"]
        same = student == teacher
        self.project = nn.Flatten() if same else Embedding(student, teacher[0])
        self.register_buffer("centre", torch.zeros(context.num_classes, teacher[0]))

    def prepare(self, outputs: Iterable[tuple[Output, Tensor]]) -> None:
        """Compute the directions of the class centres."""
        features = ((teacher.features["pooled"], target) for teacher, target in outputs)
        self.centre.copy_(unit(class_means(features, len(self.centre)), 1))

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        h = self.project(student.features["pooled"])  # [B, C]
        along = (h * self.centre.index_select(0, batch.target)).sum(1)
        lengths = (torch.linalg.vector_norm(x, dim=1) for x in (h, teacher.features["pooled"]))
        length = torch.maximum(*lengths)
        return 1 - along / length.masked_fill(length == 0, 1.0)

"""DCD: Discriminative and Consistent Representation Distillation (Giakoumoglou and Stathaki, 2024).

arXiv:2407.11802.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require_positive
from kd_bench.methods.common.adapters import Embedding
from kd_bench.methods.common.functional import kl, unit


class DiscriminativeConsistent(Loss):
    """-log p(i | s_i), and KL(p(. | t_i) || p(. | s_i)); p the softmax of cosines over a batch.

    Two terms, means over the images i. "contrast": a student's embedding s_i should be closer to
    the teacher's embedding t_i of the same image than to those of the batch's other images.
    "consistency": p(j | t_i), which classifies the teacher's embedding among the student's, should
    agree with p(j | s_i); gradients flow through both. Cosines are divided by a trained
    temperature, exp(-tau), of at least 1 / `sharpest`. Embeddings are linear with `channels`
    dimensions, and trained on both sides.

    Weights, the initial tau = 1, the limit of 10 and 128 channels are from the authors' code
    (giakoumoglou/distillers). The paper's trained bias is omitted: added to all cosines, it changes
    neither softmax. The loss is that of CRD without memory banks and sampling: its negatives are
    the other images of the batch, so it depends on the batch size.

    Raises:
        UserError: if `channels` or `sharpest` is not above 0.
    """

    stages = ("pooled",)
    terms = ("contrast", "consistency")

    def __init__(self, context: LossContext, channels: int, tau: float, sharpest: float):
        super().__init__(context)
        require_positive("channels", channels)
        require_positive("sharpest", sharpest)
        self.student = Embedding(context.student["pooled"], channels)
        self.teacher = Embedding(context.teacher_shapes["pooled"], channels)
        self.tau = nn.Parameter(torch.tensor(float(tau)))
        self.sharpest = sharpest

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s = unit(self.student(student.features["pooled"]), 1)  # [B, D]
        t = unit(self.teacher(teacher.features["pooled"]), 1)
        score = self.tau.exp().clamp(max=self.sharpest) * (s @ t.T)  # [B, B]
        of_student, of_teacher = score.log_softmax(1), score.T.log_softmax(1)
        return {
            "contrast": -of_student.diagonal().mean(),
            "consistency": kl(of_teacher, of_student).mean(),
        }

"""Prime-Aware Adaptive Distillation (Zhang et al., 2020), ECCV 2020, arXiv:2008.01458."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output
from kd_bench.methods.common.adapters import Embedding, VectorBatchNorm

EPSILON = 1e-6  # the least variance, as in torchdistill


class PrimeAwareL2(Loss):
    """mean((h_s - h_t)^2 / v + log v), v a variance that the student predicts; features [B, C].

    A Gaussian's negative log-likelihood, so images (and channels) that the student finds hard weigh
    less: the "prime" ones lead. Two terms, one for each stage of training: "l2", the plain
    mean((h_s - h_t)^2), while the variance is worth nothing yet, then "prime". The head that
    predicts log v is a linear map and batch norm of the pooled feature. The formula, the head and
    the weights of 1 are torchdistill's, for the authors published no code.

    Ours is what happens to features of unequal width, which torchdistill does not take: the
    student's go through a linear map that learns. Ours, too, is the length of the first stage:
    torchdistill adds the variance for 30 epochs at a low, constant rate to a student that is
    trained; here the schedule belongs to the main stage, and the plain one before it is an eighth
    of the recipe at its first rate.
    """

    stages = ("pooled",)
    terms = ("l2", "prime")

    def __init__(self, context: LossContext):
        super().__init__(context)
        student, teacher = (net["pooled"] for net in (context.student, context.teacher_shapes))
        same = student == teacher
        self.projector = nn.Flatten() if same else Embedding(student, teacher[0])
        self.log_variance = nn.Sequential(
            Embedding(student, teacher[0]), VectorBatchNorm(teacher[0])
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s = self.projector(student.features["pooled"])  # [B, C]
        t = teacher.features["pooled"].flatten(1)
        log_variance = self.log_variance(student.features["pooled"])  # [B, C]
        scaled = (s - t).square() / (log_variance.exp() + EPSILON)
        return {"l2": F.mse_loss(s, t), "prime": (scaled + log_variance).mean()}

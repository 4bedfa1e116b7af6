"""Prime-Aware Adaptive Distillation (Zhang et al., 2020), ECCV 2020, arXiv:2008.01458."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output
from kd_bench.methods.common.adapters import Embedding, VectorBatchNorm

EPSILON = 1e-6  # minimum variance, as in torchdistill


class PrimeAwareL2(Loss):
    """mean((h_s - h_t)^2 / v + log v), v a variance predicted by the student; features [B, C].

    The negative log-likelihood of a Gaussian: images (and channels) that are hard for the student
    get a lower weight, so the "prime" ones dominate. Two terms, one for each training phase: "l2",
    the plain mean((h_s - h_t)^2), while the predicted variance is still meaningless, then "prime".
    The head that predicts log v is a linear layer and batch norm on the pooled features. The
    formula, the head and the weights of 1 are torchdistill's, since the authors published no code.

    Two choices are ours. Student features of a different width, which torchdistill does not
    support, pass through a trained linear layer. The second is the length of the init phase:
    torchdistill adds the variance to a trained student, for 30 epochs at a low, constant learning
    rate. Here, the schedule belongs to the main phase, which is preceded by the plain loss for an
    eighth of the recipe, at the recipe's initial learning rate.
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

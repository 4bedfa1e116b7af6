"""Do Deep Nets Really Need to be Deep? (Ba and Caruana, 2014), arXiv:1312.6184."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, Output


class LogitRegression(Loss):
    """mean((z_s - z_t)^2) over the batch and the classes.

    The paper (equation 1) uses half the sum over classes, and no labels. Here, as in
    AberHu/Knowledge-Distillation-Zoo, it is the mean over classes, added to cross entropy with that
    code's weight of 0.1. The row "logits" in the predecessor's tables compares features instead
    (`feature_mse`).
    """

    ignores_temperature = True

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return F.mse_loss(student.logits, teacher.logits)

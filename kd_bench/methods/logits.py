"""Do Deep Nets Really Need to be Deep? (Ba and Caruana, 2014), arXiv:1312.6184."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, Output


class LogitRegression(Loss):
    """mean((z_s - z_t)^2) over the batch and the classes.

    The paper (equation 1) takes half the sum over classes, and no labels. Here, as in
    AberHu/Knowledge-Distillation-Zoo, it is the mean over classes beside cross entropy, and the
    weight of 0.1 is that code's: of the tables that have a row "logits", the predecessor's
    compares other things (`feature_mse`).
    """

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return F.mse_loss(student.logits, teacher.logits)

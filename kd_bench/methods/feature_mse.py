"""Mean squared error of penultimate features, called "logits" in the predecessor's tables.

The predecessor is hankyul2/KnowledgeDistillation (2021); there is no paper.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output
from kd_bench.methods.common.adapters import require_equal_channels


class FeatureMSE(Loss):
    """mean((h_s - h_t)^2) over the batch and the channels of the classifier's input.

    Raises:
        UserError: if the networks have different numbers of channels there.
    """

    stages = ("pooled",)
    is_mean_over_images = True

    def __init__(self, context: LossContext):
        super().__init__(context)
        require_equal_channels(context, "pooled", "feature_mse")

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s, t = (out.features["pooled"].flatten(1) for out in (student, teacher))  # [B, C]
        return F.mse_loss(s, t)

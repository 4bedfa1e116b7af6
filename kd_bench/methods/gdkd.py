"""Rethinking Decoupled Knowledge Distillation (Zheng and Cheng, 2025), arXiv:2512.04625.

"Generalized Decoupled Knowledge Distillation": the subtitle is "A Predictive Distribution
Perspective".
"""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require, require_positive
from kd_bench.methods.common.partition import kl_between, kl_within, top_classes


class GeneralizedDecoupling(PerImageLoss):
    """T^2 KL of the teacher's top-k classes against the rest, within the top k, and in the rest.

    Three terms, "split", "top" and "rest", per image. KL(p_t || p_s) is the first plus the others
    times the teacher's probabilities of the top k and of the rest. With k = 1, "top" is 0 and the
    others are DKD's, for the teacher's prediction instead of the label. Classes that tie with the
    k-th are in the top k.

    k = 5, T = 4, the weights and the ramp over 20 of 240 epochs are those of the authors' code
    (ZaberKo/GDKD), which tunes the weights of "top" (1 or 2) and "rest" (1 to 8) for every pair.

    Raises:
        UserError: if the temperature is not above 0, or k is not between 1 and K - 1.
    """

    terms = ("split", "top", "rest")

    def __init__(self, context: LossContext, temperature: float, k: int):
        super().__init__(context)
        most = context.num_classes - 1
        require_positive("temperature", temperature)
        require(1 <= k <= most, f"k must be from 1 to {most}, got {k}")
        self.temperature, self.k = temperature, k

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s, t = student.logits / self.temperature, teacher.logits / self.temperature  # [B, K]
        top = top_classes(t, self.k)
        scale = self.temperature**2
        return {
            "split": scale * kl_between(s, t, top),
            "top": scale * kl_within(s, t, top),
            "rest": scale * kl_within(s, t, ~top),
        }

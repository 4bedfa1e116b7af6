"""Knowledge Distillation with Refined Logits (Sun et al., 2025), ICCV 2025, arXiv:2408.07703."""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require_positive
from kd_bench.methods.common.functional import kl
from kd_bench.methods.common.partition import is_class, kl_within, log_split


class RefinedLogits(PerImageLoss):
    """R^2 KL(b_t || b_s) and T^2 KL(m_t || m_s): confidence, and classes below the label.

    Two terms, "confidence" and "correlation", per image. b_t has the probabilities of the teacher's
    prediction and the rest, b_s those of the label and the rest, at temperature R; m is the
    softmax, at temperature T, over the classes whose logit in the teacher is below that of the
    label. If the teacher is wrong, its confidence is transferred to the label, and the classes that
    it ranks above the label are ignored. If it is right and R = T, this is DKD.

    R = 1, T = 4, the weights 1 and 8 and the ramp over 20 of 240 epochs are those of the authors'
    code (zju-SWJ/RLD), which also has R = T as an option. With fewer than two classes below the
    label, "correlation" is 0.
    """

    terms = ("confidence", "correlation")
    needs_labels = True

    def __init__(self, context: LossContext, confidence_temperature: float, temperature: float):
        super().__init__(context)
        require_positive("confidence_temperature", confidence_temperature)
        require_positive("temperature", temperature)
        self.confidence_temperature, self.temperature = confidence_temperature, temperature

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s, t = student.logits, teacher.logits  # [B, K]
        label, prediction = is_class(batch.target, s), is_class(t.argmax(1), t)
        confidence = kl(
            log_split(t / self.confidence_temperature, prediction),
            log_split(s / self.confidence_temperature, label),
        )
        below = t < t.gather(1, batch.target[:, None])  # [B, K]
        correlation = kl_within(s / self.temperature, t / self.temperature, below)
        return {
            "confidence": self.confidence_temperature**2 * confidence,
            "correlation": self.temperature**2 * correlation,
        }

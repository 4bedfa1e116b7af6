"""CRLD: Cross-View Consistency Regularisation for KD (Zhang et al., 2024), arXiv:2412.16493."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require, require_positive
from kd_bench.methods.common.functional import soft_kl
from kd_bench.methods.common.strong_view import STRONG, TwoViewLoss


class CrossViewConsistency(TwoViewLoss, PerImageLoss):
    """T^2 [KL(t_w || s_w) + KL(t_s || s_s)] m_w and T^2 [KL(t_w || s_s) + KL(t_s || s_w)] m_s.

    s and t are the predictions of student and teacher at temperature T for an image (w, weak) and
    for a strongly augmented view of it (s, strong). Three terms, mean over images: "within" a view,
    "across" views, and "label", the cross entropy of the strong view. The masks exclude images on
    which the teacher is uncertain: m_w is 1 if its largest probability (at temperature 1) for the
    weak view is at least `weak_confidence`, else 0; m_s likewise for the strong view, with a lower
    threshold. The mean is over all images, masked or not.

    Masks, thresholds, temperature and weights are those of the authors' code (arcaninez/CRLD) for
    CIFAR-100, where m_w masks both parts of "within", and m_s both of "across".

    A batch of B images takes one forward pass of 2B images, so batch norm sees both views together;
    the authors' code runs one pass per view.

    Raises:
        UserError: if the temperature is not above 0, or a threshold is not in [0, 1].
    """

    terms = ("label", "within", "across")

    def __init__(
        self,
        context: LossContext,
        temperature: float,
        weak_confidence: float,
        strong_confidence: float,
    ):
        super().__init__(context)
        require_positive("temperature", temperature)
        for name, share in (("weak", weak_confidence), ("strong", strong_confidence)):
            require(0 <= share <= 1, f"{name}_confidence must be in [0, 1], got {share}")
        self.temperature = temperature
        self.weak_confidence, self.strong_confidence = weak_confidence, strong_confidence

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s_weak, s_strong = student.logits, student.views[STRONG].logits
        t_weak, t_strong = teacher.logits, teacher.views[STRONG].logits
        within = self._distance(s_weak, t_weak) + self._distance(s_strong, t_strong)
        across = self._distance(s_strong, t_weak) + self._distance(s_weak, t_strong)
        return {
            "label": F.cross_entropy(s_strong, batch.target, reduction="none"),
            "within": within * (_confidence(t_weak) >= self.weak_confidence),
            "across": across * (_confidence(t_strong) >= self.strong_confidence),
        }

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.temperature**2 * soft_kl(student, teacher, self.temperature)


def _confidence(logits: Tensor) -> Tensor:
    """The largest probability of each image, at temperature 1: [B, K] -> [B]."""
    return logits.softmax(1).amax(1)

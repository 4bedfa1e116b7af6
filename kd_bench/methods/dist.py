"""Knowledge Distillation from a Stronger Teacher (Huang et al., 2022), arXiv:2205.10536."""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require_positive
from kd_bench.methods.common.functional import correlation


class RelationMatching(Loss):
    """T^2 (1 - mean rho(p_s, p_t)), rho Pearson's correlation over classes, and over images.

    p = softmax(z / T), [B, K]. Two terms: "inter", the correlation of each image's probabilities
    over the classes (mean over images), and "intra", that of each class's probabilities over the
    images of a batch (mean over classes). Both are invariant to affine maps of the student's
    probabilities with a positive scale, so a student need not be as confident as its teacher.
    "intra" depends on the batch size, and is constant for a batch of one.

    T^2 and the weight of 2 for both terms are those of the authors' code
    (hunto/image_classification_sota). It adds 1e-8 to the denominator of rho, which matters at low
    temperatures, for classes that are improbable in all images of a batch; the paper does not, nor
    do we. A constant row or column has correlation 0.
    """

    terms = ("inter", "intra")

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s, t = ((out.logits / self.temperature).softmax(1) for out in (student, teacher))
        factor = self.temperature**2
        return {
            "inter": factor * (1 - correlation(s, t, dim=1).mean()),
            "intra": factor * (1 - correlation(s, t, dim=0).mean()),
        }

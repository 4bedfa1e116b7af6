"""Understanding the Role of the Projector in Knowledge Distillation (Miles and Mikolajczyk, 2024).

AAAI 2024, arXiv:2303.11098; "a simple recipe for distillation".
"""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require, require_positive
from kd_bench.methods.common.adapters import Embedding
from kd_bench.methods.common.functional import soft_kl

SPREAD = 1e-4  # added to the variance, as in the authors' code
EPSILON = 1e-6  # inside the logarithm, which is undefined for equal features


def standardise(x: Tensor) -> Tensor:
    """Standardize every channel over the batch: [B, C] -> [B, C].

    This is batch norm without parameters. A constant channel becomes zero, and so does a batch of
    one image.
    """
    centred = x - x.mean(0)
    return centred * (centred.square().mean(0) + SPREAD).rsqrt()


class SimpleRecipe(Loss):
    """log sum |N(W h_s) - N(h_t)|^a and KL(p_t || p_s), N batch norm; pooled features h [B, C].

    Two terms, "feature" and "logits". The projector W is a trained linear layer to the teacher's
    width, used even if the widths are equal. The power a = 4 acts as a soft maximum over all
    entries; the logarithm makes the gradient's scale independent of the distance and of the batch
    size, since it turns a factor into a constant. Follows the authors' code for ImageNet
    (roymiles/Simple-Recipe-Distillation), with its weights of 2 and 1 and temperature 1 at batch
    size 256, except that equal features give minus infinity there; it has no settings for
    CIFAR-100. The networks may differ in width.

    Raises:
        UserError: if the exponent is below 1, where the gradient is unbounded, or the temperature
            is not above zero.
    """

    stages = ("pooled",)
    terms = ("feature", "logits")

    def __init__(self, context: LossContext, exponent: float, temperature: float):
        super().__init__(context)
        require(exponent >= 1, f"exponent must be 1 or more, got {exponent}")
        require_positive("temperature", temperature)
        self.exponent, self.temperature = exponent, temperature
        channels = context.teacher_shapes["pooled"][0]
        self.projector = Embedding(context.student["pooled"], channels)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s = standardise(self.projector(student.features["pooled"]))  # [B, C]
        t = standardise(teacher.features["pooled"].flatten(1))
        kl = soft_kl(student.logits, teacher.logits, self.temperature)  # [B]
        distance = (s - t).abs().pow(self.exponent).sum()
        return {"feature": (distance + EPSILON).log(), "logits": kl.mean()}

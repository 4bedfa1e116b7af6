"""A control: targets without knowledge, after Mason-Williams et al. (2025), arXiv:2510.12615."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require, require_positive
from kd_bench.methods.common.functional import soft_kl
from kd_bench.utils.splitmix import below, normal, splitmix64


class NoiseTarget(PerImageLoss):
    """T^2 KL(softmax(z / T) || softmax(z_s / T)), z random logits of each image, not a teacher's.

    z depends only on the job's seed and the image's index, so it is the same in every epoch and for
    every view: a class drawn uniformly, regardless of the label, has the probability `confidence`
    at temperature 1, and the logits of the others are normal with deviation `spread`. So z looks
    like a trained teacher's output, but contains no information about the image. The student can
    only memorize it, and any gain over the baseline is regularisation.

    The term is that of `st`. 0.99 and 2 resemble the digits' teacher on its training images, where
    the median probability of the label is above 0.999 and the other logits have a deviation of 2.3.
    The idea of this comparison is the paper's, but its random control is a different one.

    Raises:
        UserError: if the temperature is not above 0, `confidence` is not between 1 / K and 1,
            `spread` is negative or infinite, or there is only one class.
    """

    needs_teacher = False
    key: Tensor  # [] int64, of the job's seed

    def __init__(self, context: LossContext, temperature: float, confidence: float, spread: float):
        super().__init__(context)
        classes = context.num_classes
        require_positive("temperature", temperature)
        require(classes > 1, f"random targets need two classes or more, got {classes}")
        require(
            1 / classes < confidence < 1,
            f"confidence must be above 1/{classes}, the probability of a random guess, and below"
            f" 1, got {confidence}",
        )
        require(0 <= spread < math.inf, f"spread must be 0 or more and finite, got {spread}")
        self.temperature, self.confidence, self.spread = temperature, confidence, spread
        self.classes = classes
        self.register_buffer("key", torch.randint(2**62, ()))

    def per_image(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        target = self.logits(batch.index).to(student.logits.dtype)
        return self.temperature**2 * soft_kl(student.logits, target, self.temperature)

    def logits(self, index: Tensor) -> Tensor:
        """z of training images `index` [B]: [B, K] double."""
        word = splitmix64(self.key + index)  # [B]
        each_class = torch.arange(self.classes, device=index.device)
        others = self.spread * normal(splitmix64(word[:, None] + each_class))  # [B, K]
        is_chosen = below(word, self.classes)[:, None] == each_class
        rest = others.masked_fill(is_chosen, -math.inf).logsumexp(1, keepdim=True)
        odds = math.log(self.confidence / (1 - self.confidence))
        return torch.where(is_chosen, rest + odds, others)

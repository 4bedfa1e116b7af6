"""Rethinking Kullback-Leibler Divergence in Knowledge Distillation (Wu et al., 2025), COLING 2025.

arXiv:2404.02657; "for Large Language Models", here for a classifier.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require, require_positive
from kd_bench.methods.common.functional import kl


class AdaptiveKL(PerImageLoss):
    """T^2 [w KL(p || q) + (1 - w) KL(q || p)], w the head's share of sum |p - q|, p teacher, at T.

    The head contains the teacher's most probable classes up to a cumulative probability of `mass`,
    at least the first; the others are the tail. w is computed per image and has no gradient. Early
    in training, the forward divergence fits the head and the reverse one the tail, so each is
    weighted by the error there. Details of the head, and `mass` = 0.5, are those of the authors'
    code (wutaiqiang/LLM_KD_AKL), which gives NaN for a student equal to its teacher. T^2 is
    Hinton's; the paper uses temperature 1.

    Raises:
        UserError: if the temperature is not above 0, or mass is not between 0 and 1.
    """

    def __init__(self, context: LossContext, temperature: float, mass: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        require(0 < mass < 1, f"mass must be above 0 and below 1, got {mass}")
        self.temperature, self.mass = temperature, mass

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        log_p, log_q = (
            F.log_softmax(net.logits / self.temperature, dim=1) for net in (teacher, student)
        )
        share = self.head_share(log_p.exp(), log_q.detach().exp())  # [B]
        mean = share * kl(log_p, log_q) + (1 - share) * kl(log_q, log_p)
        return self.temperature**2 * mean

    def head_share(self, p: Tensor, q: Tensor) -> Tensor:
        """w of each image, from the probabilities of teacher and student: [B, K], [B, K] -> [B]."""
        falling, order = p.sort(dim=1, descending=True)
        error = (falling - q.gather(1, order)).abs()
        is_tail = _cumulative(falling) > self.mass
        is_first = torch.arange(p.shape[1], device=p.device) == 0
        head = error.masked_fill(is_tail & ~is_first, 0.0).sum(1)
        return head / error.sum(1).clamp(min=torch.finfo(p.dtype).tiny)


def _cumulative(p: Tensor) -> Tensor:
    """Cumulative probabilities: [B, K] -> [B, K]."""
    # Summed as integers, because PyTorch warns that the order of float sums on a GPU may vary.
    scale = 2**40
    return (p * scale).long().cumsum(1) / scale

"""Multi-level Logit Distillation (Jin, Wang and Lin, 2023), CVPR 2023."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, require, require_positive
from kd_bench.methods.common.functional import soft_kl, sum_of
from kd_bench.methods.common.strong_view import STRONG, TwoViewLoss

TERMS = ("label", "instance", "batch", "class")


def squared_difference(a: Tensor, b: Tensor) -> Tensor:
    """||A - B||_F^2 / N of two matrices [N, N]: a scalar."""
    return (a - b).pow(2).sum() / len(a)


def instance_level(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_t || p_s), mean over images."""
    return temperature**2 * soft_kl(student, teacher, temperature).mean()


def batch_level(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Difference of P P^T [B, B]: which images get similar predictions."""
    s, t = ((z / temperature).softmax(1) for z in (student, teacher))
    return squared_difference(s @ s.T, t @ t.T)


def class_level(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Difference of P^T P [K, K]: which classes are predicted together."""
    s, t = ((z / temperature).softmax(1) for z in (student, teacher))
    return squared_difference(s.T @ s, t.T @ t)


class MultiLevel(TwoViewLoss):
    """sum_T T^2 KL(P_t||P_s) + |P_s P_s^T - P_t P_t^T|^2 / B + |P_s^T P_s - P_t^T P_t|^2 / K.

    P = softmax(z / T), [B, K], of the images and of a strongly augmented view of each; the sum is
    over several temperatures and both views. Four terms: "instance" (KL, mean over images), "batch"
    and "class" (squared Frobenius norms), and "label", the cross entropy of the strong view.

    The temperatures, the two views, the factor T^2, the weights and the cross entropy of both views
    are those of the authors' code (Jin-Ying/Multi-Level-Logit-Distillation), which however computes
    something else: see `PublishedMultiLevel`. The code's confidence masks are omitted, because they
    mask nothing there.

    A batch of B images takes one forward pass of 2B images, so batch norm sees both views together;
    the authors' code runs one pass per view.

    Raises:
        UserError: if there is no temperature, or one is not above 0.
    """

    terms = TERMS

    def __init__(self, context: LossContext, temperatures: Sequence[float]):
        super().__init__(context)
        _require_temperatures(temperatures)
        self.temperatures = tuple(temperatures)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        strong = student.views[STRONG].logits
        weak_pair = student.logits, teacher.logits
        strong_pair = strong, teacher.views[STRONG].logits
        levels = {"instance": instance_level, "batch": batch_level, "class": class_level}
        return {"label": F.cross_entropy(strong, batch.target)} | {
            name: sum_of(
                level(*pair, temperature)
                for pair in (weak_pair, strong_pair)
                for temperature in self.temperatures
            )
            for name, level in levels.items()
        }


class PublishedMultiLevel(TwoViewLoss):
    """MLKD as its published code computes it: strong views in "instance" and "label" alone.

    Follows the loss of Jin-Ying/Multi-Level-Logit-Distillation, which other code has adopted
    (sunshangquan/logit-standardization-KD). It differs from `MultiLevel` as follows:

    - "batch" and "class" are those of the weak view; the strong ones are computed but not used.
    - "instance" of the strong view is that of the weak view for some temperatures (2 and 6 of 4, 3,
      5, 2 and 6).
    - Masks should select the half of the images with the teacher's lowest confidence (largest
      probability), and the half of the classes with the lowest sum of probabilities. But the losses
      are averaged before they are multiplied by the mask. So the masks only scale "batch" and the
      weak "instance" by the share of those images, and "class" by the share of those classes: half,
      or slightly more for ties or an odd number.

    Args:
        context: facts about the networks and data.
        temperatures: all temperatures.
        weak_again: those at which the strong view is not used.
    """

    terms = TERMS

    def __init__(
        self, context: LossContext, temperatures: Sequence[float], weak_again: Sequence[float]
    ):
        super().__init__(context)
        _require_temperatures(temperatures)
        unknown = [each for each in weak_again if each not in temperatures]
        require(not unknown, f"weak_again must be some of the temperatures, got {unknown}")
        self.temperatures, self.weak_again = tuple(temperatures), tuple(weak_again)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        strong = student.views[STRONG].logits
        weak_pair = student.logits, teacher.logits
        strong_pair = strong, teacher.views[STRONG].logits
        p = teacher.logits.softmax(1)
        images, classes = share_below_median(p.amax(1)), share_below_median(p.sum(0))
        at = self.temperatures
        weak = sum_of(instance_level(*weak_pair, each) for each in at)
        second = sum_of(
            instance_level(*(weak_pair if each in self.weak_again else strong_pair), each)
            for each in at
        )
        return {
            "label": F.cross_entropy(strong, batch.target),
            "instance": images * weak + second,
            "batch": images * sum_of(batch_level(*weak_pair, each) for each in at),
            "class": classes * sum_of(class_level(*weak_pair, each) for each in at),
        }


def share_below_median(values: Tensor) -> Tensor:
    """The share of values [N] up to their median (the mean of the middle two): []."""
    median = torch.quantile(values, 0.5)
    return (values <= median).to(values.dtype).mean()


def _require_temperatures(temperatures: Sequence[float]) -> None:
    require(len(temperatures) > 0, "temperatures must be one or more numbers, got none")
    for temperature in temperatures:
        require_positive("each of temperatures", temperature)

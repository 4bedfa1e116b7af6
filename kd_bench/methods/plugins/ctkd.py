"""Curriculum Temperature for Knowledge Distillation (Li et al., 2023), AAAI, arXiv:2211.16231."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import (
    Batch,
    LogitPair,
    LogitPlugin,
    LossContext,
    require,
    require_positive,
)


class LearnedTemperature(LogitPlugin):
    """z / T instead of z and T^2 times the loss, T trained to increase the loss.

    T = start + span * sigmoid(score). The gradient of T is multiplied by -lambda, so T is trained
    adversarially and makes the student's task harder. lambda rises from 0 to 1 along half a cosine
    over a fraction of the epochs, as a curriculum from easy to hard.

    T multiplies the loss's own temperature, and T^2 its own factor. With temperature 4, as in most
    losses here, 0.25 + 5 sigmoid is the paper's 1 + 20 sigmoid.

    Losses that ignore a temperature are refused: of T, at most the factor T^2 would be left, which
    training would increase to its bound.
    """

    is_temperature = True

    def __init__(self, context: LossContext, start: float, span: float, curriculum: float):
        super().__init__(context)
        require_positive("start", start)
        require(0 <= span < math.inf, f"span must be 0 or more and finite, got {span}")
        require(
            0 < curriculum <= 1,
            "curriculum is a fraction of the recipe's epochs, above 0 and at most 1,"
            f" got {curriculum}",
        )
        self.start, self.span, self.curriculum_epochs = start, span, curriculum * context.epochs

    def score(self, pair: LogitPair) -> Tensor:
        """The trained score that determines T: [], or [B] for one temperature per image."""
        raise NotImplementedError

    def temperature(self, pair: LogitPair) -> Tensor:
        """T, which multiplies the losses' own temperatures: [] or [B]."""
        return self.start + self.span * torch.sigmoid(self.score(pair))

    def adversity(self, epoch: Tensor) -> Tensor:
        """lambda, from 0 to 1, in an epoch (from 1)."""
        part = (epoch / self.curriculum_epochs).clamp(max=1.0)
        return (1 - torch.cos(math.pi * part)) / 2

    def forward(self, pair: LogitPair, batch: Batch) -> LogitPair:
        temperature = reversed_gradient(self.temperature(pair), self.adversity(batch.epoch))
        by_class = temperature.unsqueeze(-1)
        return LogitPair(
            pair.student / by_class, pair.teacher / by_class, pair.weight * temperature**2
        )


def reversed_gradient(x: Tensor, factor: Tensor) -> Tensor:
    """The value of x, and -factor times its gradient (arXiv:1409.7495)."""
    return x.detach() - factor * (x - x.detach())


class GlobalTemperature(LearnedTemperature):
    """z / T for z and T^2 times the loss, T = start + span sigmoid(w), w trained to increase it.

    One number w for all images, initially 1; the paper's Global-T. See `LearnedTemperature`. As in
    the authors' code (zhengli97/CTKD), the student's optimizer trains w, with weight decay, and the
    loss that T increases includes T^2. Their example uses weights 0.1 and 0.9 for cross entropy and
    `st`.
    """

    def __init__(self, context: LossContext, start: float, span: float, curriculum: float):
        super().__init__(context, start, span, curriculum)
        self.w = nn.Parameter(torch.ones(()))

    def score(self, pair: LogitPair) -> Tensor:
        return self.w


class InstanceTemperature(LearnedTemperature):
    """As `ctkd`, but with a temperature for each image, from both networks' predictions by an MLP.

    The paper's Instance-T: two linear layers take both predictions, concatenated. The paper
    specifies neither the width of the hidden layer, nor whether gradients reach the student through
    the layers' input. Here they do not, since they would be reversed as well; predictions are
    probabilities.
    """

    weights_images = True

    def __init__(
        self,
        context: LossContext,
        start: float,
        span: float,
        curriculum: float,
        hidden: int,
    ):
        super().__init__(context, start, span, curriculum)
        require_positive("hidden", hidden)
        self.predictor = nn.Sequential(
            nn.Linear(2 * context.num_classes, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def score(self, pair: LogitPair) -> Tensor:
        predictions = [F.softmax(x.detach(), dim=1) for x in (pair.teacher, pair.student)]
        return self.predictor(torch.cat(predictions, 1)).squeeze(1)

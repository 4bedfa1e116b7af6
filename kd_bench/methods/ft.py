"""Network Compression via Factor Transfer (Kim et al., 2018), NeurIPS 2018, arXiv:1802.04977."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require_positive
from kd_bench.methods.common.adapters import map_stages, to_common_size
from kd_bench.methods.common.functional import unit

SLOPE = 0.1  # of the leaky ReLUs


class FactorTransfer(Loss):
    """mean(|f_s / |f_s|_2 - f_t / |f_t|_2|), f a network's factor, flattened for each image.

    The teacher's factor is the code of an autoencoder of its map, the paraphraser, which learns in
    the stage of training before training (the term `paraphrase`, a mean square) and is frozen
    afterwards; the student's is that of the translator, shaped as the encoder and trained along
    (the term `factor`). Three 3x3 convolutions each, a factor having `rate` times the teacher's
    channels. Factors of unequal size are brought to the smaller one.

    The factors' distance with p = 1 as a mean, rate 0.5, the weight of 500 and networks without
    batch norm are those of the authors' code (Jangho-Kim/Factor-Transfer-pytorch, CIFAR-10, batch
    128). That trains the paraphraser by the absolute difference, for 6 of 164 epochs at the
    student's rate; the mean square, 30 of 240 epochs and a fifth of the rate are RepDistiller's.
    RepDistiller compares attention maps of the factors, mean_c f^2, which is another method; its
    weight of 200 belongs to that.

    Raises:
        UserError: for a stage that is no map, or a rate that is not above 0.
    """

    terms = ("paraphrase", "factor")

    def __init__(self, context: LossContext, stage: str, rate: float):
        super().__init__(context)
        require_positive("rate", rate)
        self.stages = map_stages(context, [stage])
        channels = context.teacher_shapes[stage][0]
        factors = max(1, round(rate * channels))
        self.encoder = _layers(nn.Conv2d, channels, channels, factors, factors)
        self.decoder = _layers(nn.ConvTranspose2d, factors, factors, channels, channels)
        width = context.student[stage][0]
        self.translator = _layers(nn.Conv2d, width, width, factors, factors)
        self.on_epoch_start("main")

    def on_epoch_start(self, phase: str) -> None:
        self.paraphrasing = phase == "init"
        for part in (self.encoder, self.decoder):
            part.requires_grad_(self.paraphrasing)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        (stage,) = self.stages
        s, t = (out.features[stage] for out in (student, teacher))
        if self.paraphrasing:
            return {"paraphrase": F.mse_loss(self.decoder(self.encoder(t)), t)}
        return {"factor": factor_distance(self.translator(s), self.encoder(t))}


def factor_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of factors of length one: two of [B, F, H, W] -> a scalar."""
    s, t = (unit(x.flatten(1), 1) for x in to_common_size(student, teacher))  # [B, F*H*W]
    return F.l1_loss(s, t)


def _layers(convolution: type[nn.Conv2d | nn.ConvTranspose2d], *channels: int) -> nn.Sequential:
    """3x3 convolutions that leave the size as it is, each with a leaky ReLU behind it."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [convolution(before, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)

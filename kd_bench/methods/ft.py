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
    """mean(|f_s / |f_s|_2 - f_t / |f_t|_2|), f the factor of a network, flattened per image.

    The teacher's factor is the code of an autoencoder of its feature map, the paraphraser, which is
    trained in the init phase (the term `paraphrase`, a mean squared error) and frozen afterwards.
    The student's factor is the output of the translator, which has the encoder's architecture and
    is trained with the student (the term `factor`). Each has three 3x3 convolutions, and a factor
    has `rate` times the teacher's channels. Factors of different sizes are pooled to the smaller
    one.

    The distance with p = 1 as a mean, rate 0.5, the weight of 500 and networks without batch norm
    are those of the authors' code (Jangho-Kim/Factor-Transfer-pytorch, CIFAR-10, batch size 128).
    That code trains the paraphraser with the absolute difference, for 6 of 164 epochs at the
    student's learning rate; the mean squared error, 30 of 240 epochs and a fifth of the learning
    rate are RepDistiller's. RepDistiller compares attention maps of the factors, mean_c f^2, which
    is a different method; its weight of 200 belongs to that.

    Raises:
        UserError: if the stage is not a feature map, or the rate is not above 0.
    """

    terms = ("paraphrase", "factor")
    is_mean_over_images = True

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
    """Mean absolute difference of unit-length factors: [B, F, H, W] twice -> a scalar."""
    s, t = (unit(x.flatten(1), 1) for x in to_common_size(student, teacher))  # [B, F*H*W]
    return F.l1_loss(s, t)


def _layers(convolution: type[nn.Conv2d | nn.ConvTranspose2d], *channels: int) -> nn.Sequential:
    """3x3 convolutions that keep the spatial size, each followed by a leaky ReLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [convolution(before, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)

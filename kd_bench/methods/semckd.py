"""Cross-Layer Distillation with Semantic Calibration (Chen et al., 2021), arXiv:2012.03236."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require
from kd_bench.methods.common.adapters import map_stages, to_common_size
from kd_bench.methods.common.functional import unit


class SimilarityEmbedding(nn.Module):
    """Embedding of each image's similarities with a batch: maps [B, C, H, W] -> [B, n / 4].

    The embedding has unit length and is computed from inner products of maps by two linear layers
    with a ReLU in between. They take n similarities, n the batch size; a smaller batch is padded
    with zeros.
    """

    def __init__(self, batch_size: int):
        super().__init__()
        channels = max(batch_size // 4, 1)
        self.batch_size = batch_size
        self.layers = nn.Sequential(
            nn.Linear(batch_size, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        x = features.flatten(1)
        missing = self.batch_size - len(x)
        require(
            missing >= 0,
            f"batch_size of SemCKD is {self.batch_size}, but a batch has {len(x)} images",
        )
        return unit(self.layers(F.pad(x @ x.T, (0, missing))), 1)


def _regressor(channels_in: int, channels: int) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolutions to the teacher's channels, with twice as many in between."""
    middle = 2 * channels
    return nn.Sequential(
        nn.Conv2d(channels_in, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, channels, 1, bias=False),
    )


class SemanticCalibration(PerImageLoss):
    """mean_i sum_j a_ij mean((r_ij(F_s,i) - F_t,j)^2) over the stages i and j of the networks.

    Each stage of the student learns from all stages of the teacher, with weights a that sum to one:
    a_ij is a softmax over j of <q_i, k_j>, for each image. The query q_i of the student and the key
    k_j of the teacher are trained embeddings of the image's similarities with the batch
    (`SimilarityEmbedding`), so that layers with similar semantics are matched. r are trained
    regressors, one for each pair of stages; of two maps of different sizes, the larger one is
    averaged. The networks may differ in width.

    As in the authors' code (DefangChen/SemCKD), with its weight of 400 and soft targets at T = 4.
    The first layer of the embeddings has one input per image of a batch, so that code drops the
    last, smaller batch of an epoch; here, its missing similarities are zero.

    Args:
        batch_size: the recipe's batch size, the largest number of images in a batch.
    """

    def __init__(self, context: LossContext, stages: Sequence[str], batch_size: int):
        super().__init__(context)
        require(batch_size >= 1, f"batch_size must be 1 or more, got {batch_size}")
        self.stages = map_stages(context, stages)
        student, teacher = context.student, context.teacher_shapes
        self.query, self.key = (
            nn.ModuleDict({stage: SimilarityEmbedding(batch_size) for stage in self.stages})
            for _ in range(2)
        )
        self.regressors = nn.ModuleDict(
            {
                f"{i}_{j}": _regressor(student[i][0], teacher[j][0])
                for i in self.stages
                for j in self.stages
            }
        )

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s, t = student.features, teacher.features
        query = torch.stack([self.query[i](s[i]) for i in self.stages], 1)  # [B, S, D]
        key = torch.stack([self.key[j](t[j]) for j in self.stages], 1)
        attention = (query @ key.mT).softmax(2)  # [B, S, S]
        rows = [
            torch.stack([self._distance(i, j, s[i], t[j]) for j in self.stages], 1)
            for i in self.stages
        ]
        return (attention * torch.stack(rows, 1)).sum(2).mean(1)

    def _distance(self, i: str, j: str, student: Tensor, teacher: Tensor) -> Tensor:
        x, y = to_common_size(student, teacher)
        return (self.regressors[f"{i}_{j}"](x) - y).pow(2).mean((1, 2, 3))  # [B]

"""Self-supervised Knowledge Distillation Using Singular Value Decomposition (Lee et al., 2018).

Lee, Kim and Song, ECCV 2018, arXiv:1807.06819.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require
from kd_bench.methods.common.adapters import map_stages, require_equal_channels
from kd_bench.methods.common.functional import sum_of, unit

# Singular vectors count as degenerate if their shares of the energy differ by less than this.
MIXED = 1e-4


def channel_directions(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """First right singular vectors: maps [B, C, H, W] -> vectors [B, C, count], values [B, count].

    Right singular vectors and singular values of each image's matrix [H*W, C]; fewer than `count`
    if a map has fewer channels or positions.

    The gradient of a singular vector has differences of squared singular values in its denominators
    and is undefined if two are equal. 1/d is replaced by d/(d^2 + MIXED^2), with squared values
    normalized to sum to one: this gives the exact gradient for distinct values, is bounded for
    nearly equal ones, and vanishes as they become equal. A map of zeros has zero gradient. So all
    gradients are finite, and none needs to be zeroed afterwards. The values have no gradient.
    """
    x = x.flatten(2).transpose(1, 2)  # [B, H*W, C]
    x = x / _length(x.detach())
    with torch.no_grad():
        _, values, rows = torch.linalg.svd(x, full_matrices=False)
        vectors = rows[:, :count].transpose(1, 2)  # [B, C, count]
        energy, values = values.square(), values[:, :count]
    # First-order perturbation of A = X^T X: dv_i = sum_j v_j (v_j . dA v_i) / (l_i - l_j), j over
    # the singular vectors and over their orthogonal complement, where l_j = 0.
    moved = x.transpose(1, 2) @ (x @ vectors)  # [B, C, count]: A v_i
    along = rows @ moved  # [B, R, count]: v_j . A v_i
    across = moved - rows.transpose(1, 2) @ along
    own = energy[:, None, :count]
    step = rows.transpose(1, 2) @ (_inverse(own - energy[:, :, None]) * along)
    step = step + _inverse(own) * across
    return vectors + (step - step.detach()), values


def _length(x: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    return length.masked_fill(length == 0, 1.0)


def _inverse(difference: Tensor) -> Tensor:
    return difference / (difference.square() + MIXED**2)


def align(student: Tensor, teacher: Tensor) -> Tensor:
    """For each of the teacher's vectors, the most similar student vector, sign-corrected.

    Returns:
        [B, C, K] for student vectors [B, C, M] and teacher vectors [B, C, K].
    """
    cosine = student.detach().transpose(1, 2) @ teacher  # [B, M, K]
    candidate = torch.arange(student.shape[2], device=student.device)[:, None]
    chosen = candidate == cosine.abs().argmax(1, keepdim=True)  # [B, M, K]
    return student @ (chosen * torch.where(cosine < 0, -1.0, 1.0).to(cosine.dtype))


def relation(first: Tensor, second: Tensor) -> Tensor:
    """exp(-(a_c - b_d)^2 / 8) for vectors of two stages: [B, C, K], [B, D, K] -> [B, C, D, K]."""
    return torch.exp(-(first[:, :, None] - second[:, None]).square() / 8)


class SingularVectors(Loss):
    """Sum over consecutive stages of ||R_s - R_t||^2 / B, R the relation of singular vectors.

    A stage's map, as a matrix [H*W, C], is reduced to its first right singular vectors: the
    teacher's first `vectors`, and the most similar of the student's first `candidates`,
    sign-corrected. Both are multiplied by the teacher's singular values (normalized to unit length,
    so 1 for a single vector) and compared between stages with a radial basis function.

    Follows HobbitLong/RepDistiller, which is based on the authors' TensorFlow code
    (sseung0703/SSKD_SVD); that halves the sum and does not divide by B, so its loss is 32 times as
    large at batch size 64. mdistiller uses the matrix [C*H, W], so its vectors describe positions
    and not channels. These codes zero values and gradients that are not finite; here that is
    unnecessary, see `channel_directions`. The sign of a singular vector is arbitrary, but R depends
    on it: the teacher's vectors are flipped to have a positive sum, which makes the first one
    nonnegative for maps after a ReLU. The weight is mdistiller's 1, at batch size 64, because
    RepDistiller has no script; the term is then about 1/100 of cross entropy.

    A singular value decomposition synchronizes with the GPU, so this loss cannot be captured in a
    CUDA graph. It raises an error for features that are not finite.

    Raises:
        UserError: if there are fewer than two stages, the channels differ, or `vectors` exceeds the
            channels or positions of a map.
    """

    cuda_graph_safe = False
    is_mean_over_images = True

    def __init__(self, context: LossContext, stages: Sequence[str], vectors: int, candidates: int):
        super().__init__(context)
        self.stages = map_stages(context, stages)
        require(len(stages) > 1, f"KDSVD needs two stages or more, got {', '.join(stages)}")
        for stage in self.stages:
            require_equal_channels(context, stage, "KDSVD")
        shapes = [
            network[stage]
            for stage in self.stages
            for network in (context.student, context.teacher_shapes)
        ]
        most = min(min(channels, height * width) for channels, height, width in shapes)
        require(
            1 <= vectors <= most,
            f"vectors must be from 1 to {most}, the smallest number of channels or positions of "
            f"a map, got {vectors}",
        )
        require(
            candidates >= vectors,
            f"candidates must be at least as many as vectors ({vectors}), got {candidates}",
        )
        self.vectors, self.candidates = vectors, candidates

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        both = [
            self._directions(student.features[stage], teacher.features[stage])
            for stage in self.stages
        ]
        return sum_of(
            (relation(s, s_before) - relation(t, t_before)).square().sum() / len(s)
            for (s_before, t_before), (s, t) in pairwise(both)
        )

    def _directions(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted directions of student and teacher: [B, C, vectors] each."""
        t, values = channel_directions(teacher, self.vectors)
        t = t * torch.where(t.sum(1, keepdim=True) < 0, -1.0, 1.0)
        s = align(channel_directions(student, self.candidates)[0], t)
        weight = unit(values, 1)[:, None]  # [B, 1, vectors]
        return weight * s, weight * t

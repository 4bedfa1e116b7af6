"""Distilling Knowledge via Knowledge Review (Chen et al., 2021), CVPR 2021, arXiv:2104.09044."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss
from kd_bench.methods.common.adapters import MapBatchNorm, average_pool, map_stages
from kd_bench.methods.common.functional import sum_of

WIDEST = 512  # maximum number of channels in which maps are fused
POOLED_SIZES = (4, 2, 1)


def hierarchical_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of two maps and of their averages over 4x4, 2x2 and 1x1 cells: -> [B].

    A weighted mean of mean squared errors over channels and positions, with weight 1 for the maps
    [B, C, H, W] themselves, 1/2 for the first size that is smaller than the map, then 1/4 and so
    on: the hierarchical context loss of the paper, with the weights of the authors' code.
    """
    sizes = [size for size in POOLED_SIZES if size < min(student.shape[2:])]
    pooled = [(average_pool(student, (n, n)), average_pool(teacher, (n, n))) for n in sizes]
    weights = [0.5**i for i in range(1 + len(sizes))]
    distances = [(s - t).pow(2).mean((1, 2, 3)) for s, t in ((student, teacher), *pooled)]
    return sum_of(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights)


class AttentionFusion(nn.Module):
    """a x + b y of a map x and a deeper one y; the maps a and b are computed from both.

    [B, C, H, W], [B, C, J, L] -> [B, C, H, W]. The smaller map is enlarged by repetition; a and b
    are the sigmoids of a 1x1 convolution.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.attention = nn.Conv2d(2 * channels, 2, 1)

    def forward(self, x: Tensor, deeper: Tensor) -> Tensor:
        y = F.interpolate(deeper, x.shape[2:], mode="nearest")
        a, b = self.attention(torch.cat([x, y], 1)).sigmoid().split(1, dim=1)  # [B, 1, H, W]
        return a * x + b * y


class KnowledgeReview(PerImageLoss):
    """Sum over stages of d(r_i(F_s,i, F_s,i+1, ..), F_t,i), d over a pyramid of averages.

    Each stage of the teacher is compared with the fusion of the student's stages from that one on.
    From the deepest to the first, a map passes through a 1x1 convolution with batch norm and is
    fused with the result of the deeper stages by attention (`AttentionFusion`); a 3x3 convolution
    with batch norm then gives the teacher's channels. The deepest stage is the pooled features, as
    a 1x1 map. Details, such as at most 512 channels for fused maps, are from the authors' code
    (dvlab-research/ReviewKD): the student's maps are taken after the stages' last ReLU, the
    teacher's before it, and a fused map is resized to the teacher's size by repetition.

    The authors' code for CIFAR-100 leaves the teacher in train mode, and starts the ramp of its
    weight at 0 of 20 epochs; here, as in mdistiller, the teacher is in eval mode and the first
    epoch has 1/20. mdistiller has only the weight for ResNet32x4 and ResNet8x4. The networks may
    differ in width and in the sizes of their maps.

    A network needs one more stage for each of `stages`: for stage1, this is stage1_pre, before its
    last ReLU.
    """

    is_mean_over_images = True

    def __init__(self, context: LossContext, stages: Sequence[str]):
        super().__init__(context)
        maps = map_stages(context, stages)
        self.targets = dict(zip(maps, map_stages(context, [f"{m}_pre" for m in maps]), strict=True))
        self.targets["pooled"] = "pooled"
        self.stages = tuple(dict.fromkeys([*self.targets, *self.targets.values()]))
        channels = {stage: context.student[stage][0] for stage in self.targets}
        width = min(channels["pooled"], WIDEST)
        self.reduce = nn.ModuleDict({s: _convolution(n, width, 1) for s, n in channels.items()})
        self.fuse = nn.ModuleDict({stage: AttentionFusion(width) for stage in maps})
        self.expand = nn.ModuleDict(
            {
                stage: _convolution(width, context.teacher_shapes[target][0], 3)
                for stage, target in self.targets.items()
            }
        )

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        distances, fused = [], None
        for stage, target in reversed(self.targets.items()):
            t = _as_map(teacher.features[target])
            x = self.reduce[stage](_as_map(student.features[stage]))
            x = x if fused is None else self.fuse[stage](x, fused)
            fused = F.interpolate(x, t.shape[2:], mode="nearest")
            distances.append(hierarchical_distance(self.expand[stage](fused), t))
        return sum_of(distances)


def _convolution(channels_in: int, channels: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps the size, and batch norm, initialized as in the authors' code."""
    convolution = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, MapBatchNorm(channels))


def _as_map(features: Tensor) -> Tensor:
    """Turn vectors into 1x1 maps, [B, C] -> [B, C, 1, 1]; maps are returned unchanged."""
    return features if features.dim() == 4 else features[:, :, None, None]

"""Knowledge Distillation via Instance Relationship Graph (Liu et al., 2019), CVPR 2019."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require
from kd_bench.methods.common.adapters import map_stages, to_common_channels, to_common_size


def edges(x: Tensor) -> Tensor:
    """Edges of the graph: squared distances between images over the largest, [B, ...] -> [B, B]."""
    x = x.flatten(1)
    x = x - x.mean(0)  # leaves distances unchanged and reduces rounding errors
    square = x.pow(2).sum(1)
    distance = (square[:, None] + square[None] - 2 * x @ x.T).clamp(min=0)
    others = 1 - torch.eye(len(x), device=x.device, dtype=x.dtype)
    return _over_largest(distance * others)


def transformation(first: Tensor, second: Tensor) -> Tensor:
    """Squared distance of each image's features at two stages over the largest: two maps -> [B].

    The larger map is average-pooled first, the wider one averaged over neighbouring channels.
    """
    first, second = to_common_channels(*to_common_size(first, second))
    return _over_largest((first - second).pow(2).flatten(1).sum(1))


def _over_largest(x: Tensor) -> Tensor:
    largest = x.amax()
    return x / torch.where(largest > 0, largest, 1.0)  # zeros stay zeros


class InstanceRelationshipGraph(Loss):
    """Three terms: mean((V_s - V_t)^2) for the graph's vertices, edges and transformations.

    From the paper: vertices are the logits [B, K]; edges are squared Euclidean distances between
    the images of a batch [B, B] over the largest; the transformation is the squared distance
    between an image's features at two layers [B], which must have equal shapes.

    From AberHu/Knowledge-Distillation-Zoo: edges of the maps of `stages` and of the pooled
    features, averaged; the transformation between consecutive `stages`; and the weights, at batch
    size 128. That code halves the channels of the second stage by averaging adjacent pairs, which
    assumes that they double. Here, the wider map is averaged to the channels of the narrower one,
    which is the same if they double. Either way, the pairing of channels is arbitrary.

    The authors' code (yufanLIU/IRG) avoids this: it compares the pooled maps of the first and the
    last block of a stage, which have equal width. It uses only edges of pooled features, and does
    not backpropagate through the largest distance. The paper also mentions a transformation of
    edges, which neither code implements. The networks' feature maps may differ in channels and
    size.
    """

    terms = ("vertex", "edge", "transformation")

    def __init__(self, context: LossContext, stages: Sequence[str]):
        super().__init__(context)
        self.maps = map_stages(context, stages)
        require(len(stages) > 1, f"IRG needs two stages or more, got {', '.join(stages)}")
        self.stages = (*self.maps, "pooled")

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s, t = student.features, teacher.features
        edge = [F.mse_loss(edges(s[stage]), edges(t[stage])) for stage in self.stages]
        moves = [
            F.mse_loss(transformation(s[a], s[b]), transformation(t[a], t[b]))
            for a, b in pairwise(self.maps)
        ]
        return {
            "vertex": F.mse_loss(student.logits, teacher.logits),
            "edge": torch.stack(edge).mean(),
            "transformation": torch.stack(moves).mean(),
        }

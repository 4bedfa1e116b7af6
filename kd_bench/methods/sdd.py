"""Scale Decoupled Distillation (Wei, Luo and Luo, 2024), CVPR 2024, arXiv:2403.13512."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kd_bench.interfaces import (
    Batch,
    Classifier,
    Loss,
    LossContext,
    Networks,
    Output,
    require,
    require_positive,
)
from kd_bench.methods.common.adapters import average_pool, classified_map
from kd_bench.methods.common.functional import soft_kl


class ScaleDecoupled(Loss):
    """Mean over a map's cells of w T^2 KL(p_t || p_s), p = softmax(logits of a cell / T).

    The map before the global average, `stage`, is averaged over the cells of an m x m grid for each
    m of `scales`; each network's own classifier turns the average of a cell into logits. At m = 1,
    they are the network's. w is `complementary` if the teacher classifies a cell correctly and the
    image wrongly or vice versa, else 1. The student's classifier also learns from the cells. The
    maps may differ in channels and size.

    The mean over cells, the weights, T and w are those of the authors' code
    (shicaiwei123/SDD-CVPR2024); its scales are 1 and 2 for similar architectures, else 1, 2 and 4.
    It averages to 4 x 4 first, which is the same if 4 divides the map's size, and replaces NaN by
    zero. For losses other than the divergence (SD-DKD, SD-NKD), subclasses override `distance`.

    Raises:
        UserError: if the shapes rule out that the classifier's input is the average of `stage` over
            positions, or a number is out of range.
    """

    needs_networks = True
    needs_labels = True

    def __init__(
        self,
        context: LossContext,
        stage: str,
        scales: Sequence[int],
        temperature: float,
        complementary: float,
    ):
        super().__init__(context)
        self.stages = classified_map(context, stage, "SDD")
        require_positive("temperature", temperature)
        require_positive("complementary", complementary)
        for shapes in (context.student, context.teacher_shapes):
            _check_scales(scales, min(shapes[stage][1:]), f"{stage} of {shapes.model}")
        self.scales = tuple(scales)
        self.temperature, self.complementary = temperature, complementary

    def forward(self, student: Output, teacher: Output, batch: Batch, networks: Networks) -> Tensor:
        s = self._cell_logits(student, networks.student_classifier)
        t = self._cell_logits(teacher, networks.teacher_classifier)
        cells = s.shape[1]
        target = batch.target[:, None].expand(-1, cells)  # [B, N]
        distance = self.distance(s.flatten(0, 1), t.flatten(0, 1), target.flatten())
        is_right = t.argmax(2) == target
        image_is_right = teacher.logits.argmax(1, keepdim=True) == target[:, :1]
        weight = torch.where(is_right != image_is_right, self.complementary, 1.0)
        return (weight * distance.view_as(target)).mean()

    def distance(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Distance of each cell [B N], from logits [B N, K] and labels [B N]."""
        return self.temperature**2 * soft_kl(student, teacher, self.temperature)

    def _cell_logits(self, output: Output, classifier: Classifier | None) -> Tensor:
        """Logits of all N cells: [B, N, K]."""
        assert classifier is not None  # checked by __init__
        features = output.features[self.stages[0]]
        grids = [average_pool(features, (scale, scale)).flatten(2) for scale in self.scales]
        cells = torch.cat(grids, 2).transpose(1, 2)  # [B, N, C]
        return classifier(cells.flatten(0, 1)).unflatten(0, cells.shape[:2])


def _check_scales(scales: Sequence[int], largest: int, where: str) -> None:
    is_valid = (
        isinstance(scales, Sequence)
        and len(scales) > 0
        and all(isinstance(scale, int) and 1 <= scale <= largest for scale in scales)
    )
    require(
        is_valid,
        f"scales must be a list such as [1, 2] of numbers up to {largest}, the size of {where}; "
        f"got {scales}",
    )

"""Learning without Memorizing (Dhar et al., 2019), CVPR 2019, arXiv:1811.08051."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require
from kd_bench.methods.common.adapters import map_stages, to_common_size
from kd_bench.methods.common.functional import unit


def grad_cam(logits: Tensor, features: Tensor, target: Tensor, *, create_graph: bool) -> Tensor:
    """Grad-CAM of one class per image: [B, K], [B, C, H, W], classes [B] -> [B, 1, H, W], >= 0.

    relu(sum_c a_c F_c) with a_c the mean over positions of dz_y / dF_c; Selvaraju et al.,
    arXiv:1610.02391, equations 1 and 2. The channels F_c are activations: `features` must be the
    tensor from which `logits` were computed, not a copy.
    """
    own = F.one_hot(target, logits.shape[1]).to(logits.dtype)  # [B, K]
    (gradient,) = torch.autograd.grad(
        logits, features, own, create_graph=create_graph, retain_graph=True
    )
    importance = gradient.mean((2, 3), keepdim=True)  # [B, C, 1, 1]
    return F.relu((importance * features).sum(1, keepdim=True))


class AttentionDistillation(Loss):
    """Sum over positions of |Q_s / |Q_s| - Q_t / |Q_t||, mean over the batch, Q a Grad-CAM map.

    Q is flattened and normalized to unit Euclidean length; for both networks, it is computed for
    the class predicted by the teacher. Maps of different sizes are pooled to the smaller one. The
    paper is about learning additional classes; this is only its attention distillation loss, L_AD,
    between networks with the same classes.

    AberHu/Knowledge-Distillation-Zoo multiplies the importance of a channel by the gradient again
    instead of by the activation; that carries no spatial information before global average pooling,
    so it uses the second stage. It also uses the label's class and the mean over positions, to
    which its weight of 0.4 belongs; for the sum over the 64 positions of an 8x8 map, this is
    0.4 / 64.

    Raises:
        UserError: if the stage is not a feature map, or is rearranged tokens, on which the logits
            do not depend; and in training, if another loss requests extra views, because the
            features are then slices, on which the logits do not depend.
    """

    needs_input_gradients = True

    def __init__(self, context: LossContext, stage: str):
        super().__init__(context)
        self.stages = map_stages(context, [stage])
        for network in (context.student, context.teacher_shapes):
            require(
                not network.is_rearranged(stage),
                f"LwM differentiates logits with respect to the map at {stage}, but that of"
                f" {network.model} is rearranged ({network.paths.get(stage)}), so the logits do not"
                " depend on it; choose a network that computes maps [C, H, W]",
            )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        require(not student.views, "LwM cannot be combined with a loss that uses extra views")
        seen = teacher.logits.argmax(1)  # [B]
        (stage,) = self.stages
        maps = (
            grad_cam(out.logits, out.features[stage], seen, create_graph=out is student)
            for out in (student, teacher)
        )
        s, t = (unit(x.flatten(1), dim=1) for x in to_common_size(*maps))  # [B, H*W]
        return (s - t.detach()).abs().sum(1).mean()

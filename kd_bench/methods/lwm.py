"""Learning without Memorizing (Dhar et al., 2019), CVPR 2019, arXiv:1811.08051."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require
from kd_bench.methods.common.adapters import map_stages, to_common_size
from kd_bench.methods.common.functional import unit


def grad_cam(logits: Tensor, features: Tensor, target: Tensor, *, create_graph: bool) -> Tensor:
    """Where a class is seen: [B, K], [B, C, H, W], classes [B] -> [B, 1, H, W], not below zero.

    relu(sum_c a_c F_c) with a_c the mean over the places of dz_y / dF_c; Selvaraju et al.,
    arXiv:1610.02391, equations 1 and 2. The channels F_c are activations: `features` must have
    gone into `logits` as they are.
    """
    own = F.one_hot(target, logits.shape[1]).to(logits.dtype)  # [B, K]
    (gradient,) = torch.autograd.grad(
        logits, features, own, create_graph=create_graph, retain_graph=True
    )
    importance = gradient.mean((2, 3), keepdim=True)  # [B, C, 1, 1]
    return F.relu((importance * features).sum(1, keepdim=True))


class AttentionDistillation(Loss):
    """Sum over places of |Q_s / |Q_s| - Q_t / |Q_t||, mean over the batch, Q a Grad-CAM.

    Q is flattened and brought to Euclidean length one; both networks are asked for the class that
    the teacher takes an image for. Maps of unequal size are brought to the smaller one. The paper
    is about learning further classes; this is its attention distillation alone, L_AD, between
    networks that know the same classes.

    AberHu/Knowledge-Distillation-Zoo multiplies the importance of a channel by the gradient again
    where Grad-CAM has the activation, which before a global average says nothing of places, and so
    takes the second stage; it asks for the label, and takes the mean over places. Its weight 0.4
    belongs to that mean; the sum over the 64 places of an 8x8 map wants 0.4 / 64.

    Raises:
        UserError: for a stage that is no map; in training, together with a loss that wants further
            views of the images, where no gradient leads back to a stage's part of the batch.
    """

    needs_input_gradients = True

    def __init__(self, context: LossContext, stage: str):
        super().__init__(context)
        self.stages = map_stages(context, [stage])

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        require(not student.views, "LwM cannot be combined with a method that asks for more views")
        seen = teacher.logits.argmax(1)  # [B]
        (stage,) = self.stages
        maps = (
            grad_cam(out.logits, out.features[stage], seen, create_graph=out is student)
            for out in (student, teacher)
        )
        s, t = (unit(x.flatten(1), dim=1) for x in to_common_size(*maps))  # [B, H*W]
        return (s - t.detach()).abs().sum(1).mean()

"""Sobolev Training for Neural Networks (Czarnecki et al., 2017), NeurIPS 2017, arXiv:1706.04859.

In the variant for classifiers from Knowledge Transfer with Jacobian Matching (Srinivas and
Fleuret, 2018), ICML 2018, arXiv:1803.00443.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, Output
from kd_bench.methods.common.functional import unit


def class_gradient(logits: Tensor, batch: Batch, *, create_graph: bool) -> Tensor:
    """Gradient of the label's logit w.r.t. the pixels of each image: [B, K] -> [B, 3*H*W].

    One backward pass for the whole batch. Since batch norm in train mode couples the images of a
    batch, this is then the gradient of the sum of the batch's logits.
    """
    own = F.one_hot(batch.target, logits.shape[1]).to(logits.dtype)  # [B, K]
    (gradient,) = torch.autograd.grad(
        logits, batch.image, own, create_graph=create_graph, retain_graph=True
    )
    return gradient.flatten(1)


class JacobianMatching(Loss):
    """|| g_s / |g_s| - g_t / |g_t| ||^2, mean over the batch, g = dz_y / dx: from 0 to 4.

    x is an image [3, H, W], z_y the logit of its label. Gradients are normalized to unit length,
    since the scale of logits carries no knowledge; zero gradients stay zero.

    Czarnecki et al. match unnormalized gradients of the whole output along random directions. This
    uses the Jacobian row of the label, as in AberHu/Knowledge-Distillation-Zoo, whose weight of 20
    belongs to a mean over the 3 H W numbers; divide it by their number. That code reports
    instability without cross entropy.

    Training differentiates the student's gradient again; the second derivative of a ReLU is zero. A
    step takes several times as long as with `st`, mostly for the double backward pass of batch
    norm, and keeps the graphs of both networks in memory.
    """

    needs_input_gradients = True
    needs_labels = True

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s = unit(class_gradient(student.logits, batch, create_graph=True), dim=1)
        t = unit(class_gradient(teacher.logits, batch, create_graph=False), dim=1)
        return (s - t).pow(2).sum(1).mean()

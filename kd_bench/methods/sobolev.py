"""Sobolev Training for Neural Networks (Czarnecki et al., 2017), NeurIPS 2017, arXiv:1706.04859.

In the form for classifiers of Knowledge Transfer with Jacobian Matching (Srinivas and Fleuret,
2018), ICML 2018, arXiv:1803.00443.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, Output
from kd_bench.methods.common.functional import unit


def class_gradient(logits: Tensor, batch: Batch, *, create_graph: bool) -> Tensor:
    """How the pixels of an image move the logit of its class: [B, K] -> [B, 3*H*W].

    One backward pass for the batch. Batch norm in train mode ties the images of a batch together;
    then it is the sum of all their logits that an image's gradient is of.
    """
    own = F.one_hot(batch.target, logits.shape[1]).to(logits.dtype)  # [B, K]
    (gradient,) = torch.autograd.grad(
        logits, batch.image, own, create_graph=create_graph, retain_graph=True
    )
    return gradient.flatten(1)


class JacobianMatching(Loss):
    """|| g_s / |g_s| - g_t / |g_t| ||^2, mean over the batch, g = dz_y / dx: from 0 to 4.

    x is an image [3, H, W], z_y the logit of its class. Gradients of length one are compared, for
    the scale of logits is no knowledge; where a gradient is zero there is none to compare.

    Czarnecki et al. match gradients without bringing them to one length, of the whole output along
    random directions. As in AberHu/Knowledge-Distillation-Zoo it is the row of the Jacobian that
    belongs to the label, whose weight of 20 goes with a mean over the 3 H W numbers: divide it by
    them. That code reports it to be unstable without cross entropy.

    The student's gradient is differentiated once more to train it, where the second derivative of a
    ReLU counts as zero. A step takes several times as long as one of `st`, much of it in batch
    norm's second derivative, and keeps the graphs of both networks.
    """

    needs_input_gradients = True

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s = unit(class_gradient(student.logits, batch, create_graph=True), dim=1)
        t = unit(class_gradient(teacher.logits, batch, create_graph=False), dim=1)
        return (s - t).pow(2).sum(1).mean()

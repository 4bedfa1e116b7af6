"""Paying More Attention to Attention (Zagoruyko and Komodakis, 2017), arXiv:1612.03928.

The gradient-based variant, section 3.2; see `at` for the activation-based one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, Output


def loss_gradient(logits: Tensor, batch: Batch, *, create_graph: bool) -> Tensor:
    """Gradient of each image's cross entropy w.r.t. its pixels: logits [B, K] -> [B, 3*H*W].

    One backward pass for the whole batch. Since batch norm in train mode couples the images of a
    batch, this is then the gradient of the batch's summed loss.
    """
    loss = F.cross_entropy(logits, batch.target, reduction="sum")
    (gradient,) = torch.autograd.grad(
        loss, batch.image, create_graph=create_graph, retain_graph=True
    )
    return gradient.flatten(1)


class GradientAttention(Loss):
    """||J_s - J_t||^2 / 2, mean over the batch, J = dL / dx, L the cross entropy of an image.

    x is an image [3, H, W]. The paper writes beta / 2 times the norm, not squared, but the gradient
    in its next line, beta (J_s - J_t) d^2L / dW dx, is that of the square. The square is used here,
    as in the authors' code for the activation-based variant. They published neither code nor beta
    for this one, and tried it on CIFAR-10 with networks without batch norm. The weight 1 is our
    choice and not tuned. If the teacher is certain about its training images, J_t is close to zero,
    and the loss is nearly a penalty on the student's own gradient (Drucker and Le Cun, 1992).

    Training differentiates the student's gradient again; the second derivative of a ReLU is zero. A
    step takes several times as long as with `st`, mostly for the double backward pass of batch
    norm, and keeps the graphs of both networks in memory.
    """

    needs_input_gradients = True

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s = loss_gradient(student.logits, batch, create_graph=True)
        t = loss_gradient(teacher.logits, batch, create_graph=False)
        return (s - t).pow(2).sum(1).mean() / 2

"""Paying More Attention to Attention (Zagoruyko and Komodakis, 2017), arXiv:1612.03928.

Its gradient-based form, section 3.2; `at` has the activation-based one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, Output


def loss_gradient(logits: Tensor, batch: Batch, *, create_graph: bool) -> Tensor:
    """How the pixels of an image move its cross entropy: [B, K] -> [B, 3*H*W].

    One backward pass for the batch. Batch norm in train mode ties the images of a batch together;
    then it is the sum of all their losses that an image's gradient is of.
    """
    loss = F.cross_entropy(logits, batch.target, reduction="sum")
    (gradient,) = torch.autograd.grad(
        loss, batch.image, create_graph=create_graph, retain_graph=True
    )
    return gradient.flatten(1)


class GradientAttention(Loss):
    """||J_s - J_t||^2 / 2, mean over the batch, J = dL / dx, L the cross entropy of an image.

    x is an image [3, H, W]. The paper writes beta / 2 times the norm itself; the gradient that it
    gives in the next line, beta (J_s - J_t) d^2L / dW dx, is the one of the square, so it is the
    square here, as in the authors' code for the other form. They publish no code for this one and
    no beta; they tried it on CIFAR-10 with networks without batch norm. The weight 1 is ours, and
    not tuned. A teacher that is sure of its training images has J_t near zero there: this is then
    close to a penalty on the student's own gradient (Drucker and Le Cun, 1992).

    The student's gradient is differentiated once more to train it, where the second derivative of a
    ReLU counts as zero. A step takes several times as long as one of `st`, much of it in batch
    norm's second derivative, and keeps the graphs of both networks.
    """

    needs_input_gradients = True

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s = loss_gradient(student.logits, batch, create_graph=True)
        t = loss_gradient(teacher.logits, batch, create_graph=False)
        return (s - t).pow(2).sum(1).mean() / 2

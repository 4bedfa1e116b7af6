"""Networks small enough to compute gradients by hand, for losses that differentiate networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.shipped import shapes
from kd_bench.interfaces import Batch, LossContext, Output


def rand(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


def context(classes: int = 2, epochs: int = 4, **stages: tuple[int, ...]) -> LossContext:
    """The context of two networks with equal stage shapes."""
    student, teacher = (shapes(name, **stages) for name in ("small", "large"))
    return LossContext(student, teacher, classes, labels=torch.zeros(4).long(), epochs=epochs)


def batch(image: Tensor, target: list[int], epoch: float = 1.0) -> Batch:
    """A batch of images [B, 3, H, W] with requires_grad and these labels."""
    label = torch.tensor(target)
    return Batch(image.requires_grad_(), label, torch.arange(len(label)), torch.tensor(epoch))


def linear(image: Tensor, weight: Tensor) -> Output:
    """Logits W x for images x [B, 3, H, W]: W [K, 3*H*W] is the Jacobian."""
    return Output(image.flatten(1) @ weight.T)


def smooth(image: Tensor, mix: Tensor, classify: Tensor) -> Output:
    """A smooth network with one stage, for images [B, 3, H, W] and weights [C, 3] and [K, C]."""
    stage = F.softplus(torch.einsum("bchw,dc->bdhw", image, mix))  # [B, C, H, W]
    return Output(stage.pow(2).mean((2, 3)) @ classify.T, {"stage3": stage})

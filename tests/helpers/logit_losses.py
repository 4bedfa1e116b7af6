"""Losses on logits only: contexts, batches and gradients without a network or dataset."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from helpers import outputs
from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss


def context(classes: int) -> LossContext:
    """The context of a loss that reads only logits."""
    return outputs.context_of({}, {}, classes)


def labelled(*labels: int) -> Batch:
    """A batch of images with these labels."""
    target, index = torch.tensor(labels), torch.arange(len(labels))
    return Batch(torch.zeros(len(labels), 3, 4, 4), target, index, torch.tensor(1.0))


def probabilities(*rows: list[float]) -> Tensor:
    """Logits whose softmax at temperature 1 has these rows."""
    return torch.tensor(rows, dtype=torch.double).log()


def per_image(loss: PerImageLoss, student: Tensor, teacher: Tensor, batch: Batch) -> list[float]:
    """The per-image loss for logits of student and teacher [B, K]."""
    return loss.per_image(Output(student), Output(teacher), batch).tolist()


def terms(
    loss: PerImageLoss, student: Tensor, teacher: Tensor, batch: Batch
) -> dict[str, list[float]]:
    """The per-image terms for logits of student and teacher [B, K]."""
    value = loss.per_image(Output(student), Output(teacher), batch)
    return {name: term.tolist() for name, term in value.items()}


def gradients(
    loss: PerImageLoss, student: Tensor, teacher: Tensor, batch: Batch
) -> dict[str, Tensor]:
    """The gradient of each term, summed over images; the key is "" for a loss of one term."""
    student = student.clone().requires_grad_()
    value = loss.per_image(Output(student), Output(teacher), batch)
    named = {"": value} if isinstance(value, Tensor) else value
    return {
        name: torch.autograd.grad(term.sum(), student, retain_graph=True)[0]
        for name, term in named.items()
    }


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    """The softmax of one image's logits, in plain Python."""
    return normalised([math.exp(z / temperature) for z in logits])


def normalised(weights: list[float]) -> list[float]:
    """The numbers divided by their sum."""
    return [w / sum(weights) for w in weights]


def divergence(p: list[float], q: list[float]) -> float:
    """KL(p || q) of one image, in plain Python."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

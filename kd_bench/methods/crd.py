"""Contrastive Representation Distillation (Tian, Krishnan and Isola, 2020), arXiv:1910.10699."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require, require_positive
from kd_bench.methods.common.adapters import Embedding
from kd_bench.methods.common.functional import unit


def sample_others(labels: Tensor, target: Tensor, count: int) -> Tensor:
    """For each image, `count` images of other classes, sampled without replacement, as a mask.

    If there are fewer, all are used. Draws from PyTorch's global generator on the device of
    `labels`, without synchronizing.

    Args:
        labels: [N] classes of the images to sample from.
        target: [B] classes of the images to sample for.

    Returns:
        [B, N] bool.
    """
    other = labels[None] != target[:, None]
    # In double precision, ties (and thus an extra negative) are practically impossible.
    lot = torch.rand(other.shape, dtype=torch.double, device=labels.device)
    lot = lot.masked_fill(~other, math.inf)
    drawn = lot.topk(min(count, len(labels)), dim=1, largest=False, sorted=False).values
    return other & (lot <= drawn.amax(1, keepdim=True))


def noise_contrast(positive: Tensor, others: Tensor, negatives: Tensor, total: int) -> Tensor:
    """Noise-contrastive estimation of an image's own entry against negatives: a scalar.

    -mean_i [log(u_i / (u_i + m/N)) + sum_k log((m/N) / (u_k + m/N))], k over the m negatives of
    image i out of N, u the likelihood of an entry; equation 18 of the paper.

    Args:
        positive: [B] log u of the image's own entry.
        others: [B, N] log u of all entries.
        negatives: [B, N] bool, the entries used as negatives.
        total: N.
    """
    # softplus of log ratios is numerically stable; the published code adds 1e-7 instead.
    noise = (negatives.sum(1, dtype=positive.dtype) / total).log()  # [B]
    own = F.softplus(noise - positive)
    rest = torch.where(negatives, F.softplus(others - noise[:, None]), 0.0).sum(1)
    return (own + rest).mean()


class Memory(nn.Module):
    """Memory bank with a network's latest embedding of every training image.

    Stored in buffers, so that checkpoints contain them: `bank` [N, D], and the logarithm of the
    constant that turns scores into likelihoods, which is infinite until the first batch sets it.
    """

    bank: Tensor
    log_constant: Tensor

    def __init__(self, images: int, channels: int, temperature: float, momentum: float):
        super().__init__()
        bound = math.sqrt(3 / channels)  # rows have unit length on average
        self.register_buffer("bank", torch.empty(images, channels).uniform_(-bound, bound))
        self.register_buffer("log_constant", torch.tensor(math.inf))
        self.temperature, self.momentum = temperature, momentum

    def contrast(self, anchor: Tensor, index: Tensor, negatives: Tensor) -> Tensor:
        """Contrastive loss of the other network's embeddings [B, D] against this memory."""
        # Cloned, because the bank is updated before the backward pass.
        score = anchor @ self.bank.clone().T / self.temperature  # [B, N]
        own = (anchor * self.bank[index]).sum(1) / self.temperature  # [B]
        self._set_constant(own.detach(), score.detach(), negatives)
        total = len(self.bank)
        return noise_contrast(own - self.log_constant, score - self.log_constant, negatives, total)

    def _set_constant(self, own: Tensor, score: Tensor, negatives: Tensor) -> None:
        """log(N mean(exp(score))), the mean over the positives and the negatives of the batch."""
        negative = score.masked_fill(~negatives, -math.inf).flatten()
        entries = len(own) + negatives.sum(dtype=own.dtype)
        total = torch.logaddexp(own.logsumexp(0), negative.logsumexp(0))
        fresh = total - entries.log() + math.log(len(self.bank))
        constant = torch.where(self.log_constant.isinf(), fresh, self.log_constant)
        self.log_constant.copy_(constant)

    @torch.no_grad()
    def update(self, index: Tensor, embedding: Tensor) -> None:
        """Move the rows of a batch's images [B] towards their embeddings [B, D]."""
        row = self.momentum * self.bank[index] + (1 - self.momentum) * embedding
        self.bank.index_copy_(0, index, unit(row, 1))


class ContrastiveDistillation(Loss):
    """Contrasts each network's embedding of an image with the other network's memory bank.

    Both embeddings are linear, trained, and of unit length; the losses of both directions are
    added. Details that the paper leaves open follow the authors' code, HobbitLong/RepDistiller:
    memories are initialized at random, not with unit length, and updated with `momentum` after
    every batch; the constant Z = N mean(exp(score / temperature)) is set by the first batch and
    kept, so a run depends on the images in that batch; weight 0.8, 16,384 negatives, temperature
    0.07, 128 channels and momentum 0.5, at batch size 64. Knowledge-Distillation-Zoo uses a
    temperature of 0.1. The loss may increase in the first epochs, while the memories fill up.

    Negatives are resampled for every image from the images of other classes, uniformly and without
    replacement; the positive is the image itself ("exact"). If there are fewer than `negatives`,
    all are used, whereas RepDistiller would repeat some; `negatives_used` [K] is their number for
    an image of each class, which is m in the loss.

    Scores are computed against the whole memory, and negatives are selected from the scores: B
    times N numbers instead of B times 16,384 gathered vectors. At batch size 64 and 50,000 images,
    this takes 0.3 GB, proportional to both. Sampling uses the device's generator, so it differs
    between CPU and GPU.

    Raises:
        UserError: if a hyperparameter is out of range, or there are fewer than two classes.
    """

    stages = ("pooled",)
    needs_labels = True
    needs_distinct_images = True  # each has one row of a memory bank
    labels: Tensor
    negatives_used: Tensor

    def __init__(
        self,
        context: LossContext,
        negatives: int,
        temperature: float,
        momentum: float,
        channels: int,
    ):
        super().__init__(context)
        require(context.num_classes > 1, "CRD contrasts classes and needs two or more, got 1")
        require_positive("negatives", negatives)
        require_positive("temperature", temperature)
        require_positive("channels", channels)
        require(0 <= momentum < 1, f"momentum must be at least 0 and below 1, got {momentum}")
        self.negatives = negatives
        images = len(context.labels)
        self.register_buffer("labels", context.labels, persistent=False)  # part of the dataset
        others = images - _class_sizes(context)
        self.register_buffer("negatives_used", others.clamp(max=negatives), persistent=False)
        self.student = Embedding(context.student["pooled"], channels)
        self.teacher = Embedding(context.teacher_shapes["pooled"], channels)
        self.student_memory = Memory(images, channels, temperature, momentum)
        self.teacher_memory = Memory(images, channels, temperature, momentum)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s = unit(self.student(student.features["pooled"]), 1)  # [B, D]
        t = unit(self.teacher(teacher.features["pooled"]), 1)
        negatives = sample_others(self.labels, self.labels[batch.index], self.negatives)  # [B, N]
        loss = self.teacher_memory.contrast(s, batch.index, negatives)
        loss = loss + self.student_memory.contrast(t, batch.index, negatives)
        self.student_memory.update(batch.index, s)
        self.teacher_memory.update(batch.index, t)
        return loss


def _class_sizes(context: LossContext) -> Tensor:
    """Number of training images of each class: [K]."""
    one = torch.ones_like(context.labels)
    return one.new_zeros(context.num_classes).index_add(0, context.labels, one)

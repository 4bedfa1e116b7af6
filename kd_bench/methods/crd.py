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
    """For each image, `count` images of other classes, without replacement, as a mask.

    All of them where there are fewer. Drawn from PyTorch's global generator, on the device of
    `labels`, without waiting for it.

    Args:
        labels: [N] classes of the images to draw from.
        target: [B] classes of the images to draw for.

    Returns:
        [B, N] bool.
    """
    other = labels[None] != target[:, None]
    # In double precision two equal numbers, and so one image too many, are as good as impossible.
    lot = torch.rand(other.shape, dtype=torch.double, device=labels.device)
    lot = lot.masked_fill(~other, math.inf)
    drawn = lot.topk(min(count, len(labels)), dim=1, largest=False, sorted=False).values
    return other & (lot <= drawn.amax(1, keepdim=True))


def noise_contrast(positive: Tensor, others: Tensor, negatives: Tensor, total: int) -> Tensor:
    """Telling an image's own entry from those of others, by noise contrastive estimation: a scalar.

    -mean_i [log(u_i / (u_i + m/N)) + sum_k log((m/N) / (u_k + m/N))], k over the m negatives of
    image i out of N, u the likelihood of an entry; the paper's equation 18.

    Args:
        positive: [B] log u of the image's own entry.
        others: [B, N] log u of all entries.
        negatives: [B, N] bool, the entries that count.
        total: N.
    """
    # log(1 + exp(.)) of differences of logarithms; the published code adds 1e-7 to stay finite.
    noise = (negatives.sum(1, dtype=positive.dtype) / total).log()  # [B]
    own = F.softplus(noise - positive)
    rest = torch.where(negatives, F.softplus(others - noise[:, None]), 0.0).sum(1)
    return (own + rest).mean()


class Memory(nn.Module):
    """A network's latest embedding of every training image, against which others are scored.

    Buffers, so a checkpoint holds it: `bank` [N, D], and the logarithm of the constant that turns
    scores into likelihoods, infinite until the first batch sets it for good.
    """

    bank: Tensor
    log_constant: Tensor

    def __init__(self, images: int, channels: int, temperature: float, momentum: float):
        super().__init__()
        bound = math.sqrt(3 / channels)  # rows of length one, on average
        self.register_buffer("bank", torch.empty(images, channels).uniform_(-bound, bound))
        self.register_buffer("log_constant", torch.tensor(math.inf))
        self.temperature, self.momentum = temperature, momentum

    def contrast(self, anchor: Tensor, index: Tensor, negatives: Tensor) -> Tensor:
        """The loss of anchors [B, D], the other network's embeddings, against this memory."""
        # A copy, since the bank changes before the gradient is taken.
        score = anchor @ self.bank.clone().T / self.temperature  # [B, N]
        own = (anchor * self.bank[index]).sum(1) / self.temperature  # [B]
        self._set_constant(own.detach(), score.detach(), negatives)
        total = len(self.bank)
        return noise_contrast(own - self.log_constant, score - self.log_constant, negatives, total)

    def _set_constant(self, own: Tensor, score: Tensor, negatives: Tensor) -> None:
        """log(N mean(exp(score))), the mean over the images' own entries and the negatives."""
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
    """Each network's embedding of an image beside the other's memory of it and of other classes.

    Both embeddings are linear, learn, and have length one; the two directions' contrasts are added
    up. What the paper leaves open is as in the authors' code, HobbitLong/RepDistiller: memories
    start at random, not of length one, and move by `momentum` with every batch; the constant
    Z = N mean(exp(score / temperature)) is set by the first batch and kept, so a run depends on
    which images that batch had; weight 0.8, 16,384 negatives, temperature 0.07, 128 channels and
    momentum 0.5, at batch 64. Knowledge-Distillation-Zoo has temperature 0.1. While the memories
    fill, in the first epochs, the loss may rise.

    Negatives are drawn from the images of other classes for every image anew, without replacement
    and uniformly; the positive is the image itself ("exact"). Where there are fewer others than
    `negatives`, all of them are taken, whereas RepDistiller would draw some repeatedly;
    `negatives_used` [K] says how many an image of each class has, and m in the loss is that number.

    Scores are taken against the whole memory, and the negatives picked out of them: B times N
    numbers instead of B times 16,384 gathered vectors. At batch 64 and 50,000 images this needs
    0.3 GB, and grows with either. Draws come from the device's global generator, so they differ
    between CPU and GPU.

    Raises:
        UserError: for a hyperparameter out of range, and for fewer than two classes.
    """

    stages = ("pooled",)
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
        self.register_buffer("labels", context.labels, persistent=False)  # they come with the data
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
    """How many training images each class has: [K]."""
    one = torch.ones_like(context.labels)
    return one.new_zeros(context.num_classes).index_add(0, context.labels, one)

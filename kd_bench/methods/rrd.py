"""Relational Representation Distillation (Giakoumoglou and Stathaki, 2024), arXiv:2407.12073."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_bench.interfaces import (
    Batch,
    LossContext,
    Output,
    PerImageLoss,
    require,
    require_positive,
)
from kd_bench.methods.common.adapters import Embedding
from kd_bench.methods.common.functional import unit


class Queue(nn.Module):
    """The latest vectors, in buffers that are saved in checkpoints; initially random directions."""

    entries: Tensor  # [N, D]
    oldest: Tensor  # [] int64, position that is written next

    def __init__(self, size: int, channels: int):
        super().__init__()
        self.register_buffer("entries", unit(torch.randn(size, channels), 1))
        self.register_buffer("oldest", torch.tensor(0))

    @torch.no_grad()
    def push(self, vectors: Tensor) -> None:
        """Replace the oldest entries by [B, D].

        Raises:
            UserError: if there are more vectors than entries.
        """
        size = len(self.entries)
        require(
            len(vectors) <= size,
            f"the queue must hold a batch of {len(vectors)} images, but has {size} entries",
        )
        place = (self.oldest + torch.arange(len(vectors), device=vectors.device)) % size
        self.entries.index_copy_(0, place, vectors)
        self.oldest.copy_((self.oldest + len(vectors)) % size)


class RelationalRepresentation(PerImageLoss):
    """-sum_k p_t,k log p_s,k, p = softmax(cosines with the queue / T), a T for each network.

    The queue contains the teacher's embeddings of the latest images, including those of the batch.
    Both networks' embeddings of an image are compared with its entries, and the student should have
    the same similarities as the teacher. Embeddings are linear with `channels` dimensions, and of
    unit length. The teacher's embedding layer is random and stays so: its output is only used as a
    target, so the authors' code (giakoumoglou/distillers) has no gradient for it either.

    In the paper, the student's softmax should be sharper than the teacher's; this is 0.02 and 0.1
    in the documentation of the authors' code, whose command line swaps them. Its queue of 16,384
    starts with random vectors shorter than 1, and its size must be a multiple of the batch size;
    here, they have unit length, and the queue has no more entries than there are images.

    Raises:
        UserError: if a number is not above 0, or a batch is larger than the queue.
    """

    stages = ("pooled",)

    def __init__(
        self,
        context: LossContext,
        entries: int,
        student_temperature: float,
        teacher_temperature: float,
        channels: int,
    ):
        super().__init__(context)
        require_positive("entries", entries)
        require_positive("student_temperature", student_temperature)
        require_positive("teacher_temperature", teacher_temperature)
        require_positive("channels", channels)
        self.temperatures = student_temperature, teacher_temperature
        self.student = Embedding(context.student["pooled"], channels)
        self.teacher = Embedding(context.teacher_shapes["pooled"], channels).requires_grad_(False)
        self.queue = Queue(min(entries, len(context.labels)), channels)

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s = unit(self.student(student.features["pooled"]), 1)  # [B, D]
        t = unit(self.teacher(teacher.features["pooled"]), 1)
        self.queue.push(t)
        entries = self.queue.entries.clone()  # cloned, because the next step changes them
        log_p, log_q = (
            (x @ entries.T / temperature).log_softmax(1)
            for x, temperature in zip((t, s), reversed(self.temperatures), strict=True)
        )
        return -(log_p.exp() * log_q).sum(1)

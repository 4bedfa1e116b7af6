"""One training step and the metrics of an epoch, without synchronizing with the device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, ForwardPass, Networks, Output
from kd_bench.methods.common.method import Inputs, Method
from kd_bench.models.features import FeatureExtractor, forward_with_views
from kd_bench.training.distributed.ranks import Call, Ranks, call
from kd_bench.training.optimization.optim import Optimizer
from kd_bench.training.teachers.teacher import Teacher

ALONE = Ranks()


class Step:
    """Forward pass of teacher and student, losses, backward pass, optimizer step.

    Args:
        student: the student, in train mode.
        teacher: None for a method without a teacher.
        method: losses and weights.
        phase: "init" or "main", the training phase that this step belongs to.
        optimizer: updates the parameters of student and method.
        student_net: the student's network, for losses that run parts of it.
        batches: the number of batches per update.
        updates: whether to update the weights after this batch.
        ranks: the processes that share a batch.
        replicated: calls a function so that the backward pass averages gradients over `ranks`.
    """

    def __init__(
        self,
        student: ForwardPass,
        teacher: Teacher | None,
        method: Method,
        phase: str,
        optimizer: Optimizer,
        student_net: FeatureExtractor | None = None,
        *,
        batches: int = 1,
        updates: bool = True,
        ranks: Ranks = ALONE,
        replicated: Call = call,
    ):
        self.student, self.teacher = student, teacher
        teacher_net = None if teacher is None else teacher.network
        self.networks = networks_of(student, student_net, teacher, teacher_net)
        self.method, self.phase, self.optimizer = method, phase, optimizer
        self.batches, self.updates = batches, updates
        self.ranks, self.replicated = ranks, replicated

    def __call__(
        self, batch: Batch, shown: Batch | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Train on one batch, or on this process's share of it.

        Args:
            batch: what the student sees.
            shown: what the teacher sees instead; None if it sees the same batch.

        Returns:
            The unweighted terms and the total, by name, as detached scalars on the device, and the
            number of images that the student classified correctly before the update. A mixed image
            counts as the share of the predicted class in it.
        """
        terms, total, parts, correct = self.replicated(self._forward, batch, shown)
        self.optimizer.backward(total, parts)
        if self.batches > 1:
            self.optimizer.accumulate(self.batches, is_last=self.updates)
        if self.updates:
            self.optimizer.step()
        return {name: term.detach() for name, term in (terms | {"total": total}).items()}, correct

    def _forward(
        self, batch: Batch, shown: Batch | None
    ) -> tuple[dict[str, Tensor], Tensor, list[Tensor], Tensor]:
        """The terms, their total, the totals of the optimizer's parts, and correct predictions."""
        with _twice_differentiable() if self.method.needs_input_gradients else nullcontext():
            student_out, terms = self._terms(batch, shown)
        total = self._total(terms, batch)
        parts = [
            self._total({name: terms[name] for name in part}, batch)
            for part in self.optimizer.parts
        ]
        return terms, total, parts, _correct(student_out.logits.detach().argmax(1), batch.target)

    def _terms(self, batch: Batch, shown: Batch | None) -> tuple[Output, dict[str, Tensor]]:
        """The student's output, and the unweighted terms."""
        if self.method.needs_input_gradients:
            batch.image.requires_grad_()
        views = self.method.extra_views(batch.image, self.phase)
        teacher_out = None if self.teacher is None else self._teacher_output(batch, shown, views)
        student_out = forward_with_views(self.student, batch.image, views)
        own = (student_out, teacher_out, batch)
        terms = self.method(*own, self.networks, self.phase, whole=self._whole(*own))
        return student_out, terms

    def _whole(self, student: Output, teacher: Output | None, batch: Batch) -> Inputs | None:
        """The inputs of all processes; None if no loss needs more than this process's share."""
        stages = self.method.compared_stages(self.phase)
        if self.ranks.size == 1 or stages is None:
            return None
        return (
            self.ranks.whole_output(student, stages),
            None if teacher is None else self.ranks.whole_output(teacher, stages),
            self.ranks.whole_batch(batch),
        )

    def _total(self, terms: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The weighted sum of some terms."""
        return self.method.total(terms, batch.epoch, self.phase)

    def _teacher_output(
        self, batch: Batch, shown: Batch | None, views: dict[str, Tensor]
    ) -> Output:
        assert self.teacher is not None
        if shown is None:
            return self.teacher.forward(batch, views)
        return self.teacher.forward(shown, self.method.extra_views(shown.image, self.phase))


def _twice_differentiable() -> AbstractContextManager:
    """Compute attention without fused kernels, whose backward pass is not differentiable."""
    from torch.nn.attention import SDPBackend, sdpa_kernel  # only for methods that need it

    return sdpa_kernel(SDPBackend.MATH)


def _correct(predicted: Tensor, target: Tensor) -> Tensor:
    """The number of correct predictions [B]; the target is labels [B] or class shares [B, K]."""
    if target.dim() == 1:
        return (predicted == target).sum()
    return target.gather(1, predicted[:, None]).sum()


def networks_of(
    student: ForwardPass,
    student_net: FeatureExtractor | None,
    teacher: ForwardPass | None,
    teacher_net: FeatureExtractor | None,
) -> Networks:
    """Both networks as losses get them: their forward passes, and parts of them."""
    return Networks(
        student,
        teacher,
        student_net and student_net.classifier,
        teacher_net and teacher_net.classifier,
        student_net and student_net.rest,
        teacher_net and teacher_net.rest,
    )


class EpochMetrics:
    """Sums over an epoch, accumulated on the device and read once at the end.

    Args:
        names: the terms that every step reports, including "total".
        device: the device that runs the steps.
    """

    def __init__(self, names: list[str], device: torch.device):
        self.names = names
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self._sums = zeros(len(names) + 1)  # terms, and correctly classified images
        self._images = zeros(1)
        self._bad_step = zeros(1)  # first step with a term that is not finite; 0 if none
        self._bad_terms = zeros(len(names))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors modified by `add`."""
        return [self._sums, self._images, self._bad_terms, self._bad_step]

    def reset(self) -> None:
        """Reset all sums for a new epoch."""
        for tensor in self.tensors:
            tensor.zero_()

    def add(
        self, step: int | Tensor, terms: dict[str, Tensor], correct: Tensor, images: int
    ) -> None:
        """Add a step: its number in the epoch (from 1), terms, correct predictions and images."""
        values = torch.stack([terms[name] for name in self.names]).double()
        self._sums += torch.cat([values * images, correct.double().view(1)])
        self._images += images
        is_first_bad = ~values.isfinite().all() & (self._bad_step == 0)
        self._bad_step.copy_(torch.where(is_first_bad, step, self._bad_step))
        self._bad_terms.copy_(torch.where(is_first_bad, values, self._bad_terms))

    def means(self, epoch: int, ranks: Ranks = ALONE) -> dict[str, float]:
        """Mean of every term over the epoch's images, and `train_accuracy` in percent.

        The images are those of all `ranks`, and every process gets the same means.

        Raises:
            FloatingPointError: a term was not finite; states the epoch, step and terms.
        """
        read = ranks.gather(torch.cat(self.tensors)[None]).cpu()  # synchronizes with the device
        *sums, correct, images = read[:, : len(self.names) + 2].sum(0).tolist()
        bad = [row for row in read[:, len(self.names) + 2 :].tolist() if row[-1]]
        if bad:
            *bad_terms, bad_step = min(bad, key=lambda row: row[-1])
            values = dict(zip(self.names, bad_terms, strict=True))
            listed = ", ".join(f"{name} = {value:g}" for name, value in values.items())
            raise FloatingPointError(
                f"the loss is not finite in epoch {epoch}, step {bad_step:.0f}: {listed}"
            )
        means = {name: total / images for name, total in zip(self.names, sums, strict=True)}
        return means | {"train_accuracy": 100.0 * correct / images}

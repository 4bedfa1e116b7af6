"""One training step, and the sums of an epoch's steps, without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, Output
from kd_bench.methods.common.method import Method
from kd_bench.models.features import forward_with_views
from kd_bench.training.optim import SGD
from kd_bench.training.teacher import Teacher


class Step:
    """Teacher and student look at a batch, the method weighs what they say, the student learns.

    Args:
        student: the student, in train mode.
        teacher: None for a method without one.
        method: losses and weights.
        optimizer: over the parameters of student and method.
    """

    def __init__(
        self,
        student: Callable[[Tensor], Output],
        teacher: Teacher | None,
        method: Method,
        optimizer: SGD,
    ):
        self.student, self.teacher, self.method = student, teacher, method
        self.optimizer = optimizer

    def __call__(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Learn from one batch.

        Returns:
            The unweighted terms and the total, detached scalars on the device by name, and how
            many images the student classified rightly, before it learnt.
        """
        if self.method.needs_input_gradients:
            batch.image.requires_grad_()
        views = self.method.extra_views(batch.image)
        taught = None if self.teacher is None else self.teacher.forward(batch, views)
        said = forward_with_views(self.student, batch.image, views)
        terms = self.method(said, taught, batch)
        total = self.method.total(terms, batch.epoch)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        correct = (said.logits.detach().argmax(1) == batch.target).sum()
        return {name: term.detach() for name, term in (terms | {"total": total}).items()}, correct


class EpochMetrics:
    """Sums over an epoch, kept on the device; read once, at its end.

    Args:
        names: the terms that every step reports, "total" among them.
        device: where the steps run.
    """

    def __init__(self, names: list[str], device: torch.device):
        self.names = names
        double = {"dtype": torch.float64, "device": device}
        self._sums = torch.zeros(len(names) + 1, **double)  # of the terms, and the hits
        self._images = torch.zeros(1, **double)
        self._bad_step = torch.zeros(1, **double)  # 0: none was bad
        self._bad_terms = torch.zeros(len(names), **double)

    @property
    def tensors(self) -> list[Tensor]:
        """All that `add` changes."""
        return [self._sums, self._images, self._bad_terms, self._bad_step]

    def reset(self) -> None:
        """Begin an epoch."""
        for tensor in self.tensors:
            tensor.zero_()

    def add(
        self, step: int | Tensor, terms: dict[str, Tensor], correct: Tensor, images: int
    ) -> None:
        """Count one step: its number in the epoch (from 1), terms, hits, and images."""
        values = torch.stack([terms[name] for name in self.names]).double()
        self._sums += torch.cat([values * images, correct.double().view(1)])
        self._images += images
        is_first_bad = ~values.isfinite().all() & (self._bad_step == 0)
        self._bad_step.copy_(torch.where(is_first_bad, step, self._bad_step))
        self._bad_terms.copy_(torch.where(is_first_bad, values, self._bad_terms))

    def means(self, epoch: int) -> dict[str, float]:
        """Mean of every term over the epoch's images, and `train_accuracy` in percent.

        Raises:
            FloatingPointError: where a term was not finite; with epoch, step and terms.
        """
        read = torch.cat(self.tensors).tolist()  # waits for the device
        *sums, correct, images = read[: len(self.names) + 2]
        *bad_terms, bad_step = read[len(self.names) + 2 :]
        if bad_step:
            values = dict(zip(self.names, bad_terms, strict=True))
            listed = ", ".join(f"{name} = {value:g}" for name, value in values.items())
            raise FloatingPointError(
                f"the loss is not finite in epoch {epoch}, step {bad_step:.0f}: {listed}"
            )
        means = {name: total / images for name, total in zip(self.names, sums, strict=True)}
        return means | {"train_accuracy": 100.0 * correct / images}

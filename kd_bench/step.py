"""One training step, and the sums of an epoch's steps, without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, Output
from kd_bench.method import Method
from kd_bench.taps import Tapped
from kd_bench.teacher import Teacher


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
        student: Tapped,
        teacher: Teacher | None,
        method: Method,
        optimizer: torch.optim.Optimizer,
    ):
        self.student, self.teacher, self.method = student, teacher, method
        self.optimizer = optimizer

    def __call__(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Learn from one batch.

        Returns:
            The unweighted terms and the total, detached scalars on the device by name, and how
            many images the student classified rightly, before it learnt.
        """
        if self.method.needs_graph:
            batch.image.requires_grad_()
        views = self.method.more_views(batch.image)
        taught = None if self.teacher is None else ask(self.teacher, batch.image, views)
        said = ask(self.student, batch.image, views)
        terms = self.method(said, taught, batch)
        total = self.method.total(terms, batch.epoch)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        correct = (said.logits.detach().argmax(1) == batch.target).sum()
        return {name: term.detach() for name, term in (terms | {"total": total}).items()}, correct


def ask(net: Callable[[Tensor], Output], image: Tensor, views: Mapping[str, Tensor]) -> Output:
    """What a network says about images and about further views of them, in one pass.

    One pass, so that batch norm sees them together, as the methods that use views publish.
    """
    parts = [image, *views.values()]
    whole = net(image if not views else torch.cat(parts))
    if not views:
        whole.net = net
        return whole
    sizes = [len(part) for part in parts]
    features = {stage: feature.split(sizes) for stage, feature in whole.features.items()}
    first, *others = (
        Output(logits, {stage: split[i] for stage, split in features.items()}, net=net)
        for i, logits in enumerate(whole.logits.split(sizes))
    )
    first.views = dict(zip(views, others, strict=True))
    return first


class Tally:
    """Sums over an epoch, kept on the device; read once, at its end.

    Args:
        names: the terms that every step reports, "total" among them.
        device: where the steps run.
    """

    def __init__(self, names: list[str], device: torch.device):
        self.names = names
        self.images = 0
        self._sums = torch.zeros(len(names) + 1, dtype=torch.float64, device=device)
        self._bad_step = torch.full((), -1.0, dtype=torch.float64, device=device)
        self._bad_terms = torch.zeros(len(names), dtype=torch.float64, device=device)

    def add(self, step: int, terms: dict[str, Tensor], correct: Tensor, images: int) -> None:
        """Count one step: its number in the epoch (from 1), terms, hits, and images."""
        values = torch.stack([terms[name] for name in self.names]).double()
        self._sums += torch.cat([values * images, correct.double().view(1)])
        self.images += images
        is_first_bad = ~values.isfinite().all() & (self._bad_step < 0)
        self._bad_step = torch.where(is_first_bad, float(step), self._bad_step)
        self._bad_terms = torch.where(is_first_bad, values, self._bad_terms)

    def means(self, epoch: int) -> dict[str, float]:
        """Mean of every term over the epoch's images, and `train_accuracy` in percent.

        Raises:
            FloatingPointError: where a term was not finite; with epoch, step and terms.
        """
        read = torch.cat([self._sums, self._bad_step.view(1), self._bad_terms]).tolist()  # syncs
        sums, bad_step = read[: len(self.names) + 1], int(read[len(self.names) + 1])
        if bad_step >= 0:
            values = dict(zip(self.names, read[-len(self.names) :], strict=True))
            listed = ", ".join(f"{name} = {value:g}" for name, value in values.items())
            raise FloatingPointError(
                f"the loss is not finite in epoch {epoch}, step {bad_step}: {listed}"
            )
        means = {n: s / self.images for n, s in zip(self.names, sums, strict=False)}
        return means | {"train_accuracy": 100.0 * sums[-1] / self.images}

"""Runs an epoch as a sequence of steps that apply the same operations to the same tensors.

Everything that changes from step to step is on the device: the order of the images, the position in
it, learning rates, epoch, sums. No step exchanges a value with the host, so the whole step, from
image indices to sums, can be captured as a CUDA graph and replayed. Streamed images are copied to
the same place on the device before each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from kd_bench.config.schema import Precision, Speed
from kd_bench.data.augment import image_of
from kd_bench.interfaces import Batch
from kd_bench.training import cuda_graph, execution
from kd_bench.training.distributed.ranks import Call
from kd_bench.training.execution import uncompiled
from kd_bench.training.images.erasing import Erasing
from kd_bench.training.images.mixing import Mixing, is_mixed
from kd_bench.training.optimization.average import WeightAverage
from kd_bench.training.optimization.optim import Optimizer, make_optimizer
from kd_bench.training.optimization.rules import RuledSGD
from kd_bench.training.setup import Phase, TrainingSetup
from kd_bench.training.step import EpochMetrics, Step
from kd_bench.utils.seeds import derive_seed


@dataclass(frozen=True)
class StepKind:
    """The fixed properties of a step; steps of the same kind share a CUDA graph."""

    size: int  # number of images
    batches: int = 1  # number of batches per update
    updates: bool = True  # whether the weights are updated after this batch


class EpochRunner:
    """Runs the epochs of one phase of a job's training.

    Args:
        setup: what the job trains with.
        phase: the training phase. Each has its own optimizer and starts without momentum.
    """

    def __init__(self, setup: TrainingSetup, phase: Phase):
        self.setup, self.phase = setup, phase
        processes = setup.ranks.size
        self._batch_size = setup.recipe.batch_size // processes  # per process, like the sizes below
        self._sizes = [size // processes for size in setup.step_sizes]
        self.optimizer = _optimizer(setup, phase)
        self.average = _average(setup, phase)
        device, rates = setup.device, phase.rates
        self._order = torch.zeros(sum(self._sizes), dtype=torch.int64, device=device)
        self._rates = torch.zeros(rates.shape[1], device=device)  # [steps]
        self._epoch = torch.zeros((), device=device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=device)  # number of completed steps
        self._within = torch.arange(self._batch_size, device=device)
        self._views_seed = derive_seed(setup.seed, phase.name, "views")
        self._erasing, self._mixing = _erasing(setup, phase), _mixing(setup, phase)
        self._feed = setup.data.feed(self._views_seed, self._sizes)
        self.tally = EpochMetrics([*setup.method.weights_of(phase.name), "total"], device)
        self._steps: dict[StepKind, Callable[[], None]] = {}

    def run(self, epoch: int) -> dict[str, float]:
        """Train for one epoch, numbered from 1.

        Returns:
            The epoch's first learning rate, the mean of each term, and the training accuracy.

        Raises:
            FloatingPointError: at the end of the epoch, if a term was not finite.
        """
        for _ in self.steps(epoch):
            pass
        means = self.tally.means(epoch, self.setup.ranks)
        # Each process has its own batch-norm statistics until here. A resumed job starts with
        # equal ones, so an uninterrupted job must, too.
        self.setup.ranks.agree(self._state())
        return {"lr": self.phase.rates[epoch - 1, 0].item(), **means}

    def steps(self, epoch: int) -> Iterator[int]:
        """Train for one epoch step by step; yields the number of images of each step."""
        self._begin(epoch)
        with execution.tf32(self.setup.execution.precision is Precision.tf32):
            for kind in self.step_kinds:
                self._feed.advance()
                self._step(kind)()
                yield kind.size

    @property
    def step_kinds(self) -> list[StepKind]:
        """The kind of each step of an epoch; the last step always updates the weights."""
        sizes, most = self._sizes, self.setup.recipe.accumulate
        return [
            StepKind(
                size,
                batches=min(most, len(sizes) - place // most * most),
                updates=place % most == most - 1 or place == len(sizes) - 1,
            )
            for place, size in enumerate(sizes)
        ]

    def _begin(self, epoch: int) -> None:
        # Random numbers drawn by a method depend only on seed and epoch, so a resumed job draws
        # the same ones without saving the state of any generator.
        torch.manual_seed(derive_seed(self.setup.seed, self.phase.name, "method", epoch))
        for module in self.setup.learners.values():
            module.train()
        self.setup.method.on_epoch_start(self.phase.name)
        setup = self.setup
        order = setup.ranks.share(setup.order(self.phase.name, epoch), setup.step_sizes)
        self._order.copy_(order)
        self._feed.start(order, epoch)
        self._rates.copy_(self.phase.rates[epoch - 1])
        self._epoch.fill_(epoch)
        self._cursor.zero_()
        self.tally.reset()

    def _step(self, kind: StepKind) -> Callable[[], None]:
        """The step of this kind, built (and captured) on first use."""
        if kind not in self._steps:
            step: Callable[[], None] = partial(self._train_on_next, self._build_step(kind), kind)
            if self.setup.execution.captured:
                step = cuda_graph.capture_graph(step, self._state())
            self._steps[kind] = step
        return self._steps[kind]

    @cached_property
    def _replicated(self) -> Call:
        """Calls a function so that gradients are averaged over processes.

        DistributedDataParallel looks at `requires_grad` once. So this is built at the first step,
        after `on_epoch_start`, in which a method freezes what the phase does not train.
        """
        return self.setup.ranks.replicate(self.setup.learners.values())

    def _build_step(self, kind: StepKind) -> Step:
        """The step that trains on a given batch; compiled only for full batches of the main phase.

        Another batch size would need another compilation. In the init phase, the last layers of a
        network may not be trained; when compiled, they would get zero gradients instead of None.
        """
        setup = self.setup
        if kind.size != self._batch_size or self.phase.name != "main":
            settings = uncompiled(setup.execution)
        else:
            settings = setup.execution
        student = execution.build_forward(setup.student, settings, settings.precision)
        teacher = setup.teacher and setup.teacher.with_execution(settings)
        return Step(
            student,
            teacher,
            setup.method,
            self.phase.name,
            self.optimizer,
            setup.student,
            batches=kind.batches,
            updates=kind.updates,
            ranks=setup.ranks,
            replicated=self._replicated,
        )

    def _train_on_next(self, step: Step, kind: StepKind) -> None:
        """Train on the next images in the epoch's order."""
        position = self._cursor * self._batch_size + self._within[: kind.size]
        occurrence = self._order.index_select(0, position)
        # Indexing with a tensor would synchronize with the host; index_select does not.
        self.optimizer.rate.copy_(self._rates.index_select(0, self._cursor).squeeze(0))
        terms, correct = step(self._batch(occurrence), self._shown_to_teacher(occurrence))
        if self.average is not None and kind.updates:
            self.average.update()
        self._cursor.add_(1)
        self.tally.add(self._cursor, terms, correct, kind.size)

    def _shown_to_teacher(self, occurrence: Tensor) -> Batch | None:
        """The teacher's images, in the same repetition; None if they are the student's."""
        index = image_of(occurrence, self.setup.data.train_size)
        shown = self.setup.method.teacher_index(index, self.phase.name)
        return None if shown is None else self._batch(shown + (occurrence - index))

    def _batch(self, occurrence: Tensor) -> Batch:
        data = self.setup.data
        index = image_of(occurrence, data.train_size)
        view = data.sample_views(occurrence, self._epoch, self._views_seed)
        image = self._feed.images(index, view)
        target = data.train.target.index_select(0, index)
        if self._erasing is not None:
            image = self._erasing(image, occurrence, self._epoch)
        if self._mixing is not None:
            image, target = self._mixing(image, target, occurrence, self._epoch)
        image = image.contiguous(memory_format=self.setup.execution.layout)
        return Batch(image, target, index, self._epoch, view)

    def _state(self) -> Iterator[Tensor]:
        """Every tensor that a step modifies."""
        for module in self.setup.learners.values():
            yield from module.parameters()
            yield from module.buffers()
        yield from self.optimizer.state
        yield from self.optimizer.accumulated
        yield from self.average.state if self.average is not None else ()
        yield from (self.optimizer.rate, self._cursor, *self.tally.tensors)


def _optimizer(setup: TrainingSetup, phase: Phase) -> Optimizer:
    """The optimizer of a phase; a gradient rule applies only to the main phase."""
    parameters = [p for module in setup.learners.values() for p in module.parameters()]
    is_fused = setup.execution.speed is not Speed.reference
    if setup.rule is None or phase.name != "main":
        return make_optimizer(parameters, setup.recipe, fused=is_fused)
    shared = setup.student.parameters()
    return RuledSGD(parameters, setup.recipe, setup.rule, shared, fused=is_fused)


def _erasing(setup: TrainingSetup, phase: Phase) -> Erasing | None:
    """The random erasing of a phase's images; None if the recipe has none."""
    erasing = setup.recipe.erasing
    seed = derive_seed(setup.seed, phase.name, "erasing")
    return Erasing(erasing, seed) if erasing.probability > 0 else None


def _mixing(setup: TrainingSetup, phase: Phase) -> Mixing | None:
    """The mixing of a phase's images; None if the recipe has neither mixup nor cutmix."""
    seed = derive_seed(setup.seed, phase.name, "mixing")
    data = setup.data
    return (
        Mixing(setup.recipe, seed, data.num_classes, setup.device)
        if is_mixed(setup.recipe)
        else None
    )


def _average(setup: TrainingSetup, phase: Phase) -> WeightAverage | None:
    """The average of the student's weights in the main phase; None if the recipe has no EMA."""
    is_averaged = setup.recipe.ema > 0 and phase.name == "main"
    return WeightAverage(setup.student, setup.recipe.ema) if is_averaged else None

"""Runs a job's first step before training, to find errors in a user's own losses.

Only running `forward` shows what a loss reads and returns. So it runs once, on a few random images,
with stand-ins for both networks, whose outputs have the right shapes and cost next to nothing. It
runs in isolation, since a loss may do anything: if it writes a file, starts a process or takes too
long, this check finds nothing, and any error appears in the job's first step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from kd_bench.config.schema import RecipeConfig
from kd_bench.interfaces import Batch, LossContext, Output, StageShapes, UserError
from kd_bench.methods.common.method import Method
from kd_bench.models.features import INPUT, FeatureExtractor
from kd_bench.training.images.mixing import is_mixed, shares_of
from kd_bench.training.optimization.optim import make_optimizer
from kd_bench.training.step import Step
from kd_bench.training.teachers.teacher import Teacher
from kd_bench.utils.errors import OwnCodeError, error_text, failure_reason
from kd_bench.utils.isolated import run_isolated
from kd_bench.utils.tracebacks import own_frames, summary

FEW = 8  # images; fewer if a batch is smaller
SECONDS = 10.0  # time limit


@dataclass(frozen=True)
class Rehearsal:
    """The inputs of the first step of a job with a user's own losses."""

    make_context: Callable[[], LossContext]  # with labels and weights of the teacher
    make_method: Callable[[LossContext], Method]
    image_size: tuple[int, int]
    recipe: RecipeConfig
    teacher_learns: bool

    def check(self) -> None:
        """Rehearse the first step of each phase.

        Raises:
            UserError: a loss reads or returns something that it does not declare.
            OwnCodeError: any other error in a loss.
        """
        error = run_isolated(self._error, SECONDS)
        if error is not None:
            raise error

    def _error(self) -> Exception | None:
        """The error that the first step would raise."""
        torch.set_num_threads(1)  # threads that this process has started do not exist in a fork
        torch.manual_seed(0)
        try:
            self._run_with_few_images()
        except UserError as error:
            return UserError(str(error))
        except Exception as error:  # noqa: BLE001  # a user's code may raise anything
            if re.search("cuda|nvidia|device", str(error), re.IGNORECASE):
                return None  # a device-specific loss; any error appears in the job's first step
            if own_frames(error):
                return OwnCodeError(error_text(error), failure_reason(error))
            return UserError(f"the first training step fails: {summary(error)}")
        return None

    def _run_with_few_images(self) -> None:
        context = self.make_context()
        size = min(self.recipe.batch_size, len(context.labels))
        try:
            self._run(context, min(FEW, size))
        except UserError:
            raise
        except Exception:  # noqa: BLE001  # a loss may need a full batch
            self._run(context, size)

    def _run(self, context: LossContext, size: int) -> None:
        method = self.make_method(context)
        student = _stand_in(context.student, method.student_stages, context.num_classes)
        teacher = None
        if context.teacher is not None:
            teacher = Teacher(
                _stand_in(context.teacher, method.stages, context.num_classes),
                learns=self.teacher_learns,
                needs_input_gradients=method.needs_input_gradients,
            )
        learners = (student, method, *([teacher.network] if teacher and teacher.learns else []))
        parameters = [each for module in learners for each in module.parameters()]
        optimizer = make_optimizer(parameters, self.recipe, fused=False)
        if teacher is not None:
            method.prepare(partial(self._outputs, context, teacher, size))
        for phase in filter(method.weights_of, ("init", "main")):
            method.on_epoch_start(phase)
            step = Step(student, teacher, method, phase, optimizer, student)
            index = torch.arange(size)
            shown = method.teacher_index(index, phase)
            others = None if shown is None else self._batch(context, shown)
            step(self._batch(context, index), others)

    def _outputs(
        self, context: LossContext, teacher: Teacher, size: int
    ) -> Iterator[tuple[Output, Tensor]]:
        """Like `training_outputs`, but for a single batch."""
        batch = self._batch(context, torch.arange(size))
        yield teacher.forward(batch, {}), context.labels[batch.index]

    def _batch(self, context: LossContext, index: Tensor) -> Batch:
        image = torch.randn(len(index), 3, *self.image_size)
        first_epoch, first_view = torch.ones(()), torch.zeros_like(index)
        target = context.labels[index]
        if is_mixed(self.recipe):
            target = shares_of(target, context.num_classes)
        return Batch(image, target, index, first_epoch, first_view)


def _stand_in(shapes: StageShapes, stages: Iterable[str], num_classes: int) -> FeatureExtractor:
    read = {stage: shapes[stage] for stage in stages}
    paths = {stage: f"stages.{number}" for number, stage in enumerate(read)}
    pooled = shapes["pooled"] if shapes.paths.get("pooled", "").endswith(INPUT) else ()
    if pooled:
        paths["pooled"] = f"fc{INPUT}"
    net = _StandIn(list(read.values()), pooled, num_classes)
    return FeatureExtractor(net, paths, read, shapes.model)


class _StandIn(nn.Module):
    """A network with features of given shapes: noise times a scale that depends on the images.

    Args:
        shapes: of features [C, ...].
        pooled: [C], the input of its classifier; empty if there is no classifier.
        num_classes: K.
    """

    def __init__(self, shapes: list[tuple[int, ...]], pooled: tuple[int, ...], num_classes: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.stages = nn.ModuleList(nn.Identity() for _ in shapes)
        self.fc = nn.Linear(pooled[0], num_classes) if pooled else None
        self.shapes, self.pooled, self.num_classes = shapes, pooled, num_classes

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, K] of images [B, 3, H, W]; they also depend on the features."""
        scale = self.scale * (1 + image.mean((1, 2, 3)))  # [B]
        features = [
            stage(scale.view(-1, *(1 for _ in shape)) * torch.randn(len(image), *shape))
            for stage, shape in zip(self.stages, self.shapes, strict=True)
        ]
        means = torch.stack([scale, *(each.flatten(1).mean(1) for each in features)]).sum(0)
        logits = means[:, None] * torch.randn(len(image), self.num_classes)
        if self.fc is None:
            return logits
        return logits + self.fc(scale[:, None] * torch.randn(len(image), *self.pooled))

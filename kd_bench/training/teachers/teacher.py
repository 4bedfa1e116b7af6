"""The teacher: frozen, in eval mode, and run without gradients, unless a method needs otherwise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kd_bench.config.schema import Precision, Speed
from kd_bench.data.dataset import Data
from kd_bench.interfaces import Batch, Output
from kd_bench.models.features import FeatureExtractor, forward_with_views
from kd_bench.training import execution
from kd_bench.training.execution import Execution


class Teacher:
    """The teacher network, frozen on construction unless the method trains it.

    After a job, a frozen teacher's parameters and batch-norm statistics are bitwise unchanged: its
    parameters require no gradients, and it never leaves eval mode.

    Args:
        network: the network.
        learns: it is trained along with the student (deep mutual learning), so it is not frozen.
        needs_input_gradients: losses differentiate its outputs with respect to images or features.
    """

    def __init__(
        self,
        network: FeatureExtractor,
        *,
        learns: bool = False,
        needs_input_gradients: bool = False,
    ):
        self.network, self.learns = network, learns
        self.record_fields: dict[str, Any] = {}  # added to the record of a job
        self._has_gradients = learns or needs_input_gradients
        self._run: Callable[[Tensor], Output] = network
        self._may_use_tf32 = False
        if not learns:
            network.eval().requires_grad_(False)

    def with_execution(self, settings: Execution) -> Teacher:
        """This teacher with other execution settings; without stages, its batch norm is folded."""
        teacher = copy.copy(self)
        fixed = not self._has_gradients and settings.speed is not Speed.reference
        precision = settings.precision if self.learns else settings.teacher_precision
        teacher._run = execution.build_forward(self.network, settings, precision, fixed=fixed)
        teacher._may_use_tf32 = precision is Precision.tf32
        return teacher

    def __call__(self, image: Tensor) -> Output:
        """Logits [B, K] and features of the teacher for images [B, 3, H, W]."""
        with torch.set_grad_enabled(self._has_gradients), execution.tf32(self._may_use_tf32):
            return self._run(image)

    def forward(self, batch: Batch, views: Mapping[str, Tensor]) -> Output:
        """Output of the teacher for a batch's images and additional views of them."""
        return forward_with_views(self, batch.image, views)


@torch.no_grad()
def training_outputs(teacher: Teacher, data: Data) -> Iterator[tuple[Output, Tensor]]:
    """Outputs for all training images, unaugmented, batch by batch, with their labels [B]."""
    size = execution.inference_batch_size(data)
    targets = data.train.target.split(size)
    for image, target in zip(data.eval_batches(data.train, size), targets, strict=True):
        yield teacher(image), target

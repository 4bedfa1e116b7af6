"""The nouns that every part speaks: Batch, Output, Stages, Spec, Loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from kd_bench.utils.errors import UserError, require, require_positive

__all__ = [
    "Batch",
    "Loss",
    "LossContext",
    "Output",
    "Spec",
    "StageShapes",
    "UserError",
    "require",
    "require_positive",
]


@dataclass
class Batch:
    """What a training step is given."""

    image: Tensor  # [B, 3, H, W] float, normalised, augmented
    target: Tensor  # [B] int64, the class
    index: Tensor  # [B] int64, position in the training set
    epoch: Tensor  # [] float, counted from 1; a tensor so that a captured step sees it change
    view: Tensor | None = None  # [B] int64, which of its views (crop, flip) each image shows


@dataclass
class Output:
    """What a network says about a batch."""

    logits: Tensor  # [B, K]
    features: dict[str, Tensor] = field(default_factory=dict)  # by stage, only those tapped
    views: dict[str, Output] = field(default_factory=dict)  # of the views that a loss asked for
    net: Callable[[Tensor], Output] | None = None  # the network, to be asked about other images


class StageShapes(dict[str, tuple[int, ...]]):
    """Shapes of a network's stages without the batch: {"stage2": (32, 16, 16), "pooled": (64,)}.

    Args:
        model: the network's name, for messages.
        shapes: by stage.
        paths: where in the network each stage is, as in its table of stages.
    """

    def __init__(self, model: str, shapes: Mapping[str, tuple[int, ...]], paths: Mapping[str, str]):
        super().__init__(shapes)
        self.model, self.paths = model, dict(paths)

    def __missing__(self, stage: str):
        raise UserError(f"unknown stage '{stage}' of {self.model}; choose from {', '.join(self)}")


@dataclass(frozen=True)
class LossContext:
    """What a loss may know when it is built: both networks' shapes, and the training set."""

    student: StageShapes
    teacher: StageShapes | None  # None for a method without a teacher
    num_classes: int
    labels: Tensor  # [N] int64, the class of every training image, by position
    epochs: int  # length of the main stage of training
    teacher_net: nn.Module | None = None  # frozen, for losses that read its weights or statistics


Spec = LossContext  # its name up to 0.1


class Loss(nn.Module):
    """One loss of a method: its formula, its hyperparameters and its trainable parts.

    A subclass takes `context` first and its hyperparameters by name; adapters and memories are
    ordinary submodules and buffers made from the shapes in `context`. Capabilities are class
    attributes, so that a YAML file cannot contradict the code. A hyperparameter out of range is
    refused with `require`.
    """

    stages: tuple[str, ...] = ()  # stages read, on both sides
    terms: tuple[str, ...] = ()  # names of the entries, where `forward` returns a dict
    needs_teacher: bool = True
    teacher_is_same_model: bool = False  # the teacher is a trained copy of the student's own model
    teacher_learns: bool = False  # the teacher starts afresh and is trained along
    needs_input_gradients: bool = (
        False  # gradients inside both networks: image and features carry them
    )
    cuda_graph_safe: bool = True  # forward never waits for the device: a CUDA graph can hold it
    revision: int = 1  # raised when the numbers that the loss gives change

    def __init__(self, context: LossContext):
        super().__init__()

    def forward(
        self, student: Output, teacher: Output | None, batch: Batch
    ) -> Tensor | dict[str, Tensor]:
        """The unweighted loss, a scalar, or its unweighted terms by name."""
        raise NotImplementedError

    def extra_views(self, image: Tensor) -> dict[str, Tensor]:
        """Further views [B', 3, H, W] of a batch's images that both networks shall see, by name.

        They pass through the networks together with the images; what is said of them stands in
        `Output.views`.
        """
        return {}

    def on_epoch_start(self, phase: str) -> None:
        """Called before every epoch, in train mode, with the stage of training it belongs to.

        Args:
            stage: "init" for the training before the training that a method may ask for, with
                weights of its own; "main" for the other.
        """
